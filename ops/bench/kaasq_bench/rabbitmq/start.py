"""What a private node is started with: its configuration, its environment, and the shell that leads its processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

# Few schedulers that do not spin while idle: broker, workers and clients share the cores of a small machine.
# Distribution (how rabbitmqctl reaches the node) on the loopback only.
ERL_ARGS = "+S {n}:{n} +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {{127,0,0,1}}"

# The session's leader. epmd would otherwise be started by Erlang as a daemon in a session of its own, and stay. The
# second line reads a pipe that only this Python process holds open: however it ends, kill -9 included, the node ends.
LEADER = r"""
exec 3<&0 </dev/null
( cat <&3 >/dev/null; kill -KILL 0 ) &
exec 3<&-
epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" &
"$KAASQ_RABBITMQ_SERVER" &
server=$!
trap 'kill -TERM $server' TERM
wait $server; status=$?
while kill -0 $server 2>/dev/null; do wait $server; status=$?; done
exit $status
"""


class Ports(NamedTuple):
    """On which a node listens."""

    amqp: int
    distribution: int
    epmd: int
    management: int


def node_name(port: int) -> str:
    """What Erlang calls the node that serves AMQP there."""
    return f"kaasq{port}@localhost"


def configuration(ports: Ports, further: Mapping[str, str], *, chroot: bool) -> str:
    """Its rabbitmq.conf, with further lines."""
    settings = {
        "listeners.tcp.1": f"127.0.0.1:{ports.amqp}",
        "management.tcp.ip": "127.0.0.1",
        "management.tcp.port": str(ports.management),
        "disk_free_limit.absolute": "50MB",
        # The quorum queues' log is held in memory as well: 512 MiB by default.
        "raft.wal_max_size_bytes": "64000000",
        **further,
    }
    if chroot:  # there is no /proc to read the process's size from
        settings.setdefault("vm_memory_calculation_strategy", "allocated")
    return "".join(f"{key} = {value}\n" for key, value in settings.items())


def environment(ports: Ports, scripts: str, inside: Callable[[str], str], *, schedulers: int) -> dict[str, str]:
    """Its environment. ``inside`` gives the path of a file in its folder, as the node's processes see it."""
    # Nothing is inherited: a RABBITMQ_* variable of the caller's would lead to another node's data.
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": inside("."),
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "KAASQ_RABBITMQ_SERVER": f"{scripts}/rabbitmq-server",
        "RABBITMQ_NODENAME": node_name(ports.amqp),
        "RABBITMQ_NODE_PORT": str(ports.amqp),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "RABBITMQ_CONF_ENV_FILE": inside("rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": inside("rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": inside("conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": inside("advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": inside("enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": inside("data"),
        "RABBITMQ_LOG_BASE": inside("log"),
        "RABBITMQ_GENERATED_CONFIG_DIR": inside("generated"),
        "RABBITMQ_SCHEMA_DIR": inside("schema"),
        "RABBITMQ_PID_FILE": inside("pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERL_ARGS.format(n=schedulers),
    }

"""Runs a private RabbitMQ node: own ports, cookie and folders, nothing left behind.

Used by the tests and benchmarks, and by hand::

    python -m kaasq_bench.rabbitmq.node              # a throw-away broker on a free port, until Ctrl-C
    python -m kaasq_bench.rabbitmq.node --port 5672  # or on a port of your choice

It needs the installed ``rabbitmq-server`` package, but neither its service nor root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pika
from pika.exceptions import AMQPError

from kaasq_bench.rabbitmq.api import Management

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
CTL_TIMEOUT_S = 60.0
POLL_S = 0.05

# The scripts of the package proper; those in /usr/sbin switch to the user `rabbitmq` and to the system's folders.
BIN_FOLDERS = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/sbin")

# Below Linux's range of ephemeral ports: no client socket can take a node's port between its stop and its restart.
PORT_RANGE = (20_000, 32_000)

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


class NodeError(RuntimeError):
    """The node cannot be started, or ended when it should not have."""


class RabbitNode:
    """A private RabbitMQ node, used as a context manager.

    ``port``: AMQP port, free one by default. ``folder``: keeps the data after ``close()``; by default they lie in a
    temporary folder that goes with the node. ``root``: a folder with another Debian in it (debootstrap) whose RabbitMQ
    runs in a chroot, for trying other versions; needs root. ``config``: further lines of rabbitmq.conf. Nodes that are
    to form a cluster share an ``epmd_port``, on which the caller runs epmd, and a ``cookie``.

    ``stop`` and ``kill`` keep ports and data, so ``start`` brings the same broker back. (A quorum queue killed within
    half a second of its declaration does not elect a leader again, on RabbitMQ 3.10 and 4.0 alike: wait a second.)
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        folder: Path | None = None,
        root: Path | None = None,
        config: Mapping[str, str] | None = None,
        schedulers: int = 2,
        epmd_port: int | None = None,
        cookie: str | None = None,
    ) -> None:
        self._root = root
        self._bin = _find_bin(root)
        self._config = dict(config or {})
        self._schedulers = schedulers
        if port is not None and not _is_free(port):
            raise NodeError(f"port {port} is in use")
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if folder is None:
            place = None if root is None else root.absolute() / "tmp"
            self._temporary = tempfile.TemporaryDirectory(
                prefix="kaasq-rabbitmq-", dir=place, ignore_cleanup_errors=True
            )
            folder = Path(self._temporary.name)
        elif root is not None:
            raise ValueError("folder= and root= exclude each other: a chroot sees its own files only")
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(4)
        self.port = port or ports[0]
        self._dist_port, self._epmd_port, self._management_port = ports[1:]
        self._epmd_port = epmd_port or self._epmd_port
        if cookie is not None:
            path = self.folder / ".erlang.cookie"
            path.write_text(cookie)
            path.chmod(0o400)
        self._leader: subprocess.Popen[bytes] | None = None
        self.version = ""

    @property
    def url(self) -> str:
        """AMQP URL of the default vhost, with the administrator's credentials."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def urls(self) -> list[str]:
        """As of a cluster of one."""
        return [self.url]

    @property
    def management_url(self) -> str:
        return f"http://guest:guest@127.0.0.1:{self._management_port}"

    @property
    def management(self) -> Management:
        return Management(self.management_url)

    @property
    def running(self) -> bool:
        return self._leader is not None and self._leader.poll() is None

    def start(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Start the node and return once it serves AMQP and its management API."""
        if self.running:
            return self
        self._write_config()
        command = ["/bin/sh", "-c", LEADER]
        if self._root is not None:
            command = ["chroot", str(self._root), *command]
        with (self.folder / "out.log").open("ab") as log:
            self._leader = subprocess.Popen(
                command,
                env=self._environment(),
                cwd="/",
                stdin=subprocess.PIPE,  # held open: see LEADER
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(time.monotonic() + timeout_s)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the node in good order (1 to 6 s); its data stay."""
        if self._leader is not None and self._leader.poll() is None:
            self._leader.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._leader.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """End every process of the node at once, as a power cut would; its data stay."""
        leader, self._leader = self._leader, None
        if leader is None:
            return
        family = _descendants(leader.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
        for pid in family:  # Erlang's helper processes have sessions of their own, and may outlive it by a moment
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        leader.wait()
        if leader.stdin is not None:
            leader.stdin.close()
        _wait_for(lambda: not any(map(_is_alive, family)), 5.0)

    def pids(self) -> list[int]:
        """Every process of the node."""
        return [] if self._leader is None else [self._leader.pid, *_descendants(self._leader.pid)]

    def restart(self, *, graceful: bool = True) -> None:
        """Stop (or kill) the node and start it again with the same ports and data."""
        if graceful:
            self.stop()
        else:
            self.kill()
        self.start()

    def close(self) -> None:
        """Kill the node; a temporary data folder goes with it."""
        self.kill()
        if self._temporary is not None:
            self._temporary.cleanup()

    def ctl(self, *args: str) -> str:
        """Run ``rabbitmqctl`` on this node and return what it printed. Half a second; see ``management``."""
        command = [f"{self._bin}/rabbitmqctl", *args]
        if self._root is not None:
            command = ["chroot", str(self._root), *command]
        done = subprocess.run(
            command,
            env=self._environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CTL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise NodeError(f"rabbitmqctl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _inside(self, name: str) -> str:
        """The path of a file in the data folder, as the broker's processes see it."""
        path = self.folder / name
        return str(path) if self._root is None else f"/{path.relative_to(self._root.absolute())}"

    def _write_config(self) -> None:
        settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": str(self._management_port),
            "disk_free_limit.absolute": "50MB",
            # The quorum queues' log is held in memory as well: 512 MiB by default.
            "raft.wal_max_size_bytes": "64000000",
            **self._config,
        }
        if self._root is not None:  # there is no /proc to read the process's size from
            settings.setdefault("vm_memory_calculation_strategy", "allocated")
        lines = [f"{key} = {value}\n" for key, value in settings.items()]
        (self.folder / "rabbitmq.conf").write_text("".join(lines))
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (self.folder / "rabbitmq-env.conf").touch()

    def _environment(self) -> dict[str, str]:
        # Nothing is inherited: a RABBITMQ_* variable of the caller's would lead to another node's data.
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": self._inside("."),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "KAASQ_RABBITMQ_SERVER": f"{self._bin}/rabbitmq-server",
            "RABBITMQ_NODENAME": node_name(self.port),
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": self._inside("rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": self._inside("rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": self._inside("conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": self._inside("advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": self._inside("enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": self._inside("data"),
            "RABBITMQ_LOG_BASE": self._inside("log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": self._inside("generated"),
            "RABBITMQ_SCHEMA_DIR": self._inside("schema"),
            "RABBITMQ_PID_FILE": self._inside("pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERL_ARGS.format(n=self._schedulers),
        }

    def _wait_until_ready(self, deadline: float) -> None:
        while True:
            try:
                self.version = probe(self.url)
                break
            except ConnectionError as error:  # not yet: the listener comes last, after the users
                if not self.running:
                    raise NodeError(f"RabbitMQ ended while it started.\n{self._log_tail()}") from error
                if time.monotonic() > deadline:
                    raise NodeError(f"RabbitMQ was not ready in time.\n{self._log_tail()}") from error
                time.sleep(POLL_S)
        self.management.wait(max(1.0, deadline - time.monotonic()))

    def _log_tail(self, lines: int = 25) -> str:
        text = ""
        with contextlib.suppress(OSError):
            text = (self.folder / "out.log").read_text(errors="replace")
        start = text.rfind("BOOT FAILED")
        return "\n".join(text[start:].splitlines()[:lines] if start >= 0 else text.splitlines()[-lines:])


def node_name(port: int) -> str:
    """What Erlang calls the node that serves AMQP there."""
    return f"kaasq{port}@localhost"


def probe(url: str, *, declare: bool = True) -> str:
    """Open a connection and a channel, declare a queue: the version of a broker that truly serves.

    Not every user may declare any queue.

    Raises ConnectionError where it does not.
    """
    parameters = pika.URLParameters(url)
    parameters.socket_timeout = 5.0
    parameters.blocked_connection_timeout = 5.0
    parameters.connection_attempts = 1
    try:
        connection: Any = pika.BlockingConnection(parameters)  # Any: it shows the server's properties to nobody
        try:
            if declare:
                connection.channel().queue_declare("", exclusive=True)
            properties = connection._impl.server_properties or {}
            version = properties.get("version", "?")
        finally:
            connection.close()
    except (AMQPError, OSError) as error:
        raise ConnectionError(f"no RabbitMQ serves there: {error!r}") from error
    return version.decode() if isinstance(version, bytes) else str(version)


def free_ports(count: int) -> list[int]:
    """Distinct ports on which nothing listens just now."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(*PORT_RANGE), 400):
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise NodeError(f"no {count} free ports in {PORT_RANGE[0]}-{PORT_RANGE[1]}")


def installed() -> bool:
    """Whether this machine has the package from which a private node can be started."""
    try:
        _find_bin(None)
    except NodeError:
        return False
    return True


def _find_bin(root: Path | None) -> str:
    base = Path("/") if root is None else root
    for folder in BIN_FOLDERS:
        if (base / folder.lstrip("/") / "rabbitmq-server").exists():
            return folder
    raise NodeError(f"rabbitmq-server is not installed in {base}: apt-get install rabbitmq-server")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Erlang does
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent, state) of every process. Linux only, like all of kaasq's workers."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            yield int(path.parent.name), int(parent), state


def _descendants(pid: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for child, parent, _ in _processes():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting.extend(below)
    return found


def _is_alive(pid: int) -> bool:
    return any(other == pid and state != "Z" for other, _, state in _processes())


def _wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(POLL_S)


def main() -> None:
    """Run a node in the foreground until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        description="Start a private RabbitMQ node and keep it until Ctrl-C. Its data are gone afterwards."
    )
    parser.add_argument("--port", type=int, help="AMQP port (default: a free one)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep the broker's data in DIR")
    parser.add_argument("--root", type=Path, metavar="DIR", help="run the RabbitMQ in a debootstrap folder (as root)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a line of rabbitmq.conf")
    options = parser.parse_args()
    config = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in options.set)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with RabbitNode(port=options.port, folder=options.data, root=options.root, config=config) as node:
            print(f"RabbitMQ {node.version} is ready; Ctrl-C stops it.")
            print(f"export KAASQ_BROKER_URL={node.url}")
            print(f"management: {node.management_url}", flush=True)
            while node.running:
                time.sleep(0.5)
            sys.exit("RabbitMQ ended by itself:\n" + node._log_tail())
    except KeyboardInterrupt:
        print("stopped")
    except NodeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

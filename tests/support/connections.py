"""A server's connections, by the name that kaasq gave them."""

from __future__ import annotations

from real_broker import Broker as Server


def connections(server: Server, ending: str = "") -> list[str]:
    """The pids of those whose name has that ending."""
    found = []
    for line in server.ctl("-q", "list_connections", "pid", "client_properties").splitlines():
        pid, _, properties = line.partition("\t")
        if pid.startswith("<") and f'{ending}"' in properties.partition('"connection_name","')[2].partition("}")[0]:
            found.append(pid)
    return found


def close_connections(server: Server, ending: str = "") -> None:
    """Have the server close them."""
    for pid in connections(server, ending):
        server.ctl("close_connection", pid, "a test")

"""Where this machine, or another Debian in a folder, has RabbitMQ; and what goes wrong with a private node."""

from __future__ import annotations

from pathlib import Path

# The scripts of the package proper; those in /usr/sbin switch to the user `rabbitmq` and to the system's folders.
BIN_FOLDERS = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/sbin")


class NodeError(RuntimeError):
    """The node cannot be started, or ended when it should not have."""


def installed() -> bool:
    """Whether this machine has the package from which a private node can be started."""
    try:
        find_bin(None)
    except NodeError:
        return False
    return True


def find_bin(root: Path | None) -> str:
    """The folder with its scripts, as the broker's processes see it. Raises NodeError."""
    base = Path("/") if root is None else root
    for folder in BIN_FOLDERS:
        if (base / folder.lstrip("/") / "rabbitmq-server").exists():
            return folder
    raise NodeError(f"rabbitmq-server is not installed in {base}: apt-get install rabbitmq-server")

"""Which built-ins there are: those that kaasq ships, and those that installed packages add by an entry point."""

from __future__ import annotations

import functools
from importlib.metadata import entry_points

from kaasq.builtins.catalogue import CATALOGUE
from kaasq.builtins.signature import Builtin
from kaasq.errors import KaasqError
from kaasq.log import get_logger

GROUP = "kaasq.builtins"

log = get_logger()


def find_builtin(name: str) -> Builtin | None:
    """The built-in of that name, or None. Those with a dot in their names come from other packages."""
    return _added().get(name) if "." in name else CATALOGUE.get(name)


def builtin_names() -> list[str]:
    """All names, in order."""
    return sorted({*CATALOGUE, *_added()})


@functools.cache
def _added() -> dict[str, Builtin]:
    """Built-ins of other packages. What cannot be loaded is logged and left out: it concerns its users only."""
    found: dict[str, Builtin] = {}
    for entry in entry_points(group=GROUP):
        try:
            builtin = entry.load()
            if not isinstance(builtin, Builtin):
                raise KaasqError(f"{entry.value} is a {type(builtin).__name__}, not a kaasq.builtins.Builtin")
            if "." not in builtin.name or builtin.run is None:
                raise KaasqError(f"built-in {builtin.name!r} needs a name with a dot, package.name, and a run")
        except Exception as error:  # noqa: BLE001 - somebody else's package
            log.warning("builtin.not_loaded", entry_point=entry.name, reason=str(error))
            continue
        found[builtin.name] = builtin
    return found

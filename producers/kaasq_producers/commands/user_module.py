"""Imports a user's module by its name. What goes wrong in it is told with the user's own traceback, without kaasq's."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from traceback import StackSummary, TracebackException
from types import ModuleType

from kaasq.errors import BadRequest

_OURS = (
    "<frozen importlib",
    str(Path(importlib.__file__).parent),
    *(str(Path(sys.modules[each].__file__ or each).parent) for each in ("kaasq", "kaasq_producers")),
)
"""What is between the command and the user's code, or behind it: nobody looks for a mistake of theirs there."""


def import_here(name: str, at: str) -> ModuleType:
    """The module, looked for in the current folder, too. Raises BadRequest if there is none, or it raises something."""
    if "/" in name:
        dotted = ".".join(Path(name.removesuffix(".py")).parts)
        raise BadRequest(f"{name!r} is no module's name but a file's: did you mean {dotted!r}?", at=at)
    if not all(name.split(".")):
        raise BadRequest(
            f"{name!r} is no module's name: expected one as `import` takes it, thumbnails or pipeline.steps", at=at
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            hint = f"; did you mean {name[:-3]!r}?" if name.endswith(".py") else ""
            raise BadRequest(f"there is no module {name!r}, here or installed{hint}", at=at) from None
        raise BadRequest(
            f"module {name!r} cannot be imported, it raises {type(error).__name__}:\n\n{_told(error)}", at=at
        ) from error


def _told(error: Exception) -> str:
    """The traceback as Python would print it, from where the user's code begins."""
    told = TracebackException.from_exception(error)
    seen = [told]
    for each in seen:
        each.stack = StackSummary.from_list([frame for frame in each.stack if not frame.filename.startswith(_OURS)])
        seen += [more for more in (each.__cause__, each.__context__) if more is not None]
    return "".join(told.format()).rstrip()

"""How every device words the module_rejected errors that all of them have: no such kernel, does not compile."""

from __future__ import annotations

from collections.abc import Iterable

from kaasq.errors import ModuleRejected

LOG_CHARS = 64 << 10  # what of a compiler's log travels in a reply
LISTED = 20  # kernels named in a message
_NAME_CHARS = 200


def no_kernel(kernel: str, present: Iterable[str], reason: str = "") -> ModuleRejected:
    """The error for a kernel that a module lacks, naming those it has."""
    names = [each[:_NAME_CHARS] for each in present]
    listed = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
    return ModuleRejected(
        f"the module has no kernel {kernel[:_NAME_CHARS]!r}"
        + (f" ({reason})" if reason else "")
        + (f"; it has {listed}" if names else "; it has none"),
        kernel=kernel[:_NAME_CHARS],
        kernels=names[:LISTED],
    )


def does_not_compile(shown: str, log: str, line: int | None = None) -> ModuleRejected:
    """The error for source that a compiler refuses: what to show of it, and all that it said."""
    return ModuleRejected(f"the module does not compile: {shown}", line=line, log=log[:LOG_CHARS])

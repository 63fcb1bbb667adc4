"""How to install what an optional part needs: kaasq is installed from its folder, as the README has it."""

from __future__ import annotations


def install(extra: str, *others: str) -> str:
    """What to do for that extra, or one of the others instead; to stand behind "needs ...: "."""
    instead = f" (or {', '.join(others)})" if others else ""
    return f"install kaasq with its extra {extra!r}{instead}: pip install '.[{extra}]' in the folder of its source"

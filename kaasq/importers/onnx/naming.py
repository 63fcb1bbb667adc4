"""Names that buffers can have: printable, not too long, each only once."""

from __future__ import annotations

LONGEST = 160  # characters; kaasq takes 200, and a number may have to follow


class Names:
    """Gives out names. Not pure: whoever asks first gets the name as it is."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str) -> str:
        """That name, changed as little as it takes."""
        plain = "".join([each if each.isprintable() else "_" for each in wanted])[:LONGEST] or "tensor"
        name, count = plain, 1
        while name in self._taken:
            count += 1
            name = f"{plain}.{count}"
        self._taken.add(name)
        return name

"""What a user passes instead of data: a stored object as an input, a name under which to keep an output."""

from __future__ import annotations

import msgspec

from kaasq.messages import Stored


class BufferRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An object in the store, by its content hash: the same bytes for as long as it exists.

    ``name`` and ``version`` say what pointed to it when this was made; the name may point elsewhere by now.
    """

    ref: str
    nbytes: int
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    name: str | None = None
    version: int | None = None

    def part(self, offset: int) -> Stored:
        """As an input: the part that starts at that byte and is as long as the graph's buffer."""
        return Stored(ref=self.ref, offset=offset)


class Keep(msgspec.Struct, frozen=True):
    """As the value of an output: keep it in the store under that name instead of sending it back."""

    name: str

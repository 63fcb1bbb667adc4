"""The results of what follows a request, as futures: found by name, or by their place in the request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

F = TypeVar("F")


class Steps(Sequence[F], Generic[F]):
    """The futures of a request's continuations, in the order in which they stand: what a step is followed by comes
    right after it, so ``steps[-1]`` is the last one of a plain chain. ``steps["name"]`` finds one by its name.
    """

    __slots__ = ("_futures", "_names")

    def __init__(self, futures: Sequence[F] = (), names: Sequence[str | None] = ()) -> None:
        self._futures = tuple(futures)
        self._names = {name: index for index, name in enumerate(names) if name is not None}

    @overload
    def __getitem__(self, key: int | str) -> F: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[F]: ...
    def __getitem__(self, key: int | str | slice) -> F | Sequence[F]:
        if isinstance(key, str):
            if key not in self._names:
                there = ", ".join(map(repr, self._names)) or "none has a name"
                raise KeyError(f"nothing that follows is called {key!r}: {there}")
            return self._futures[self._names[key]]
        return self._futures[key]

    def __len__(self) -> int:
        return len(self._futures)

    def __iter__(self) -> Iterator[F]:
        return iter(self._futures)

    def __repr__(self) -> str:
        return f"<{len(self)} steps{''.join(f' {name!r}' for name in self._names)}>"


NONE: Steps[Any] = Steps()

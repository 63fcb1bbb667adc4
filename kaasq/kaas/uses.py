"""What a buffer of a KaaS request is, seen from all its uses: input, output, inout or temp. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kaasq.errors import BadRequest
from kaasq.kaas.format import BufferSpec, KernelSpec
from kaasq.model import Role
from kaasq.names import check_name, check_printable

TYPES = {"i": "i", "o": "o", "t": "t", "io": "io", "oi": "io"}


class Use(NamedTuple):
    """A kernel takes a buffer: ``type`` is ``i``, ``o``, ``io`` or ``t``; ``at`` is where its spec stands."""

    spec: BufferSpec
    type: str
    at: str


class Used(NamedTuple):
    """A buffer and its role over all kernels. ``const``: no kernel says that it writes it, and every spec is const."""

    spec: BufferSpec
    role: Role
    key: str
    const: bool
    at: str


def uses_of(kernel: KernelSpec, at: str) -> list[Use]:
    """The kernel's buffers, in order. Raises BadRequest."""
    types = kernel.type_list
    if types is not None and len(types) != len(kernel.arguments):
        raise BadRequest(f"has {len(types)} types for {len(kernel.arguments)} arguments", at=f"{at}.type_list")
    uses: list[Use] = []
    for i, argument in enumerate(kernel.arguments):
        place = f"{at}.arguments[{i}]"
        if isinstance(argument, tuple):
            spec, letters = argument
            said, spec_at = f"{place}[1]", f"{place}[0]"
            if types is not None and types[i] != letters:
                raise BadRequest(f"{types[i][:8]!r}, but {said} says {letters[:8]!r}", at=f"{at}.type_list[{i}]")
        elif types is not None:
            spec, letters = argument, types[i]
            said, spec_at = f"{at}.type_list[{i}]", place
        else:
            raise BadRequest("does not say its type: write the pair [buffer, type], or a type_list", at=place)
        if letters not in TYPES:
            raise BadRequest(f"{letters[:8]!r} is no type; known are i, o, io and t", at=said)
        uses.append(Use(spec, TYPES[letters], spec_at))
    return uses


def used(kernels: Iterable[Sequence[Use]]) -> list[Used]:
    """The buffers in the order in which they appear. Raises BadRequest."""
    histories: dict[str, _History] = {}
    for uses in kernels:
        for use in uses:
            history = histories.get(use.spec.name)
            if history is None:
                histories[use.spec.name] = _History(use)
            else:
                history.agree(use)
        for use in uses:  # a kernel that takes a buffer twice reads it before it writes it
            if "i" in use.type:
                histories[use.spec.name].read(use)
        for use in uses:
            if use.type != "i":
                histories[use.spec.name].write(use)
    found = [each.used() for each in histories.values()]
    _check_kept(found)
    return found


class _History:
    """What the kernels so far did with a buffer."""

    def __init__(self, first: Use) -> None:
        self._first = first
        self._key = first.spec.name if first.spec.key is None else first.spec.key
        self._const = first.spec.const
        self._read: Use | None = None  # before anything had written it
        self._written = False
        self._output = False

    def agree(self, use: Use) -> None:
        """Raise BadRequest if this spec says something else than the first one."""
        spec, first = use.spec, self._first.spec
        self._const = self._const and spec.const
        if spec is first or spec == first:
            return
        key = spec.name if spec.key is None else spec.key
        for field, given, before in (
            ("size", spec.size, first.size),
            ("offset", spec.offset, first.offset),
            ("key", key, self._key),
            ("ephemeral", spec.ephemeral, first.ephemeral),
        ):
            if given != before:
                raise BadRequest(
                    f"{given!r:.80} for buffer {spec.name!r:.80}, but {self._first.at}.{field} is {before!r:.80}",
                    at=f"{use.at}.{field}",
                )

    def read(self, use: Use) -> None:
        if not self._written and self._read is None:
            self._read = use

    def write(self, use: Use) -> None:
        self._written = True
        self._output = self._output or "o" in use.type

    def used(self) -> Used:
        spec, at = self._first.spec, self._first.at
        check_printable(spec.name, f"{at}.name")
        role: Role
        if spec.ephemeral or (self._written and not self._output):
            if self._read is not None:
                what = "ephemeral" if spec.ephemeral else "a temp"
                raise BadRequest(
                    f"{spec.name!r} is {what}, and read here before any kernel has written it; "
                    "if the kernel expects zeros or only writes it, its type is 'o'",
                    at=self._read.at,
                )
            role = "temp"
        elif self._read is None:
            role = "output"
        else:
            role = "inout" if self._output else "input"
        if role != "temp":
            check_name(self._key, f"{at}.key" if spec.key is not None else f"{at}.name")
        return Used(spec, role, self._key, self._const and role == "input", at)


def _check_kept(buffers: Iterable[Used]) -> None:
    kept: dict[str, Used] = {}
    for each in buffers:
        if each.role not in {"output", "inout"}:
            continue
        if each.spec.offset:
            raise BadRequest(
                f"{each.spec.offset}, but {each.spec.name!r} is an output, which becomes an object of its own",
                at=f"{each.at}.offset",
            )
        other = kept.setdefault(each.key, each)
        if other is not each:
            raise BadRequest(
                f"{each.key!r} is the key of another output, too: {other.spec.name!r} ({other.at})", at=f"{each.at}.key"
            )

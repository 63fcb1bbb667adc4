"""What is in a module's CUDA C++ source: its kernels, which of them wait at barriers, what a CPU cannot run. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kaasq.errors import ModuleRejected
from kaasq_workers.devices.cpu.disguises import is_disguised
from kaasq_workers.devices.cpu.strided import Strided, strided
from kaasq_workers.devices.cpu.syntax import (
    Declaration,
    declarations,
    directives,
    function_name,
    line_of,
    strip,
    without_directives,
)

_WORD = re.compile(r"[A-Za-z_]\w*")
_PLAIN_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+([^\n\\]+)$", re.MULTILINE)
_NUMBER = re.compile(r"\d[\w.']*")
_NESTED_MACROS = 4

# Words that make a thread wait for others. A kernel from which one can be reached runs its threads on fibers.
_BARRIER = re.compile(
    r"__sync(threads|warp)\w*|__(shfl|match|reduce)_\w+|__(ballot|any|all)_sync|__activemask|cooperative_groups"
    r"|this_thread_block|thread_block\w*|thread_group|tiled_partition|coalesced_(threads|group)"
)

# (words, what to call it); the first that matches a word of the source counts.
_UNSUPPORTED: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(words), construct)
    for words, construct in (
        (r"asm|__asm__|__asm", "inline assembly (PTX)"),
        (r"wmma|nvcuda|w?g?mma_\w+|__w?mma_\w+", "tensor core operations (wmma)"),
        (r"tex[123]D\w*|tex[12]DLayered\w*|texCubemap\w*|cudaTextureObject_t|texture", "textures"),
        (r"surf[123]D(read|write|Layered)\w*|cudaSurfaceObject_t|surface", "surfaces"),
        (r"__cluster_dims__|this_cluster|cluster_group|__cluster_\w+", "thread block clusters"),
        (r"this_grid|grid_group|this_multi_grid", "barriers of a whole grid"),
        (r"CUtensorMap|cp_async_bulk\w*|cp_reduce_async_bulk\w*", "tensor memory copies (TMA)"),
        (
            r"memcpy_async|__pipeline_\w+|cp_async\w*|make_pipeline|pipeline_shared_state|barrier_arrive_tx",
            "asynchronous copies to shared memory",
        ),
        (r"cudaLaunch\w+|cudaDeviceSynchronize|cudaGraphLaunch", "launches from a kernel"),
    )
)
# Common words, unsupported only where they look like the construct: texture<float> t; surface<void> s;
_ONLY_AS_TEMPLATE = frozenset({"texture", "surface"})

_DYNAMIC_SHARED = re.compile(r"\b(?:extern\b(?=[^;{}=]*\b__shared__\b)|__shared__\s+extern\b)[^;{}=]*?\[\s*\][^;{}=]*;")
_ATTRIBUTES = re.compile(
    r"\bextern\b|\b__shared__\b|\b(?:__align__|alignas)\s*\([^()]*(?:\([^()]*\))?[^()]*\)|\b__attribute__\s*\(\(.*?\)\)"
)
_DECLARATOR = re.compile(r"(?P<type>.*?)\b(?P<name>\w+)\s*\[\s*\](?P<rows>(?:\s*\[[^\[\]]+\])*)\s*;", re.DOTALL)


class KernelSource(NamedTuple):
    """A kernel as its source tells it."""

    name: str
    """With its namespaces: what a name expression for it begins with."""
    template: bool
    waits: bool
    """Whether its threads may wait for each other."""
    threads_per_block: int | None
    """The first of its ``__launch_bounds__``, where that is a plain number."""


class Construct(NamedTuple):
    """Something that a CPU cannot run. ``conditional``: it stands within an #if, so it may not be compiled at all."""

    what: str
    line: int
    conditional: bool

    def rejection(self, log: str | None = None) -> ModuleRejected:
        """The error that names it."""
        return ModuleRejected(
            f"kernel.cu:{self.line}: {self.what} cannot run on the cpu device; it needs a GPU",
            construct=self.what,
            line=self.line,
            log=log,
        )


class Source:
    """One module's source, read once. ``defines``: the #define lines that its options stand for."""

    def __init__(self, text: str, defines: Sequence[str] = ()) -> None:
        self.text = text
        self._stripped = strip(text)
        self._code = without_directives(self._stripped)
        self._declarations = declarations(self._stripped)
        given = "\n".join(defines)
        self._by_name: dict[str, list[Declaration]] = {}
        for each in (*self._declarations, *declarations(given)):
            for name in each.names:
                self._by_name.setdefault(name, []).append(each)
        macros = [found.groups() for each in (self._stripped, given) for found in _PLAIN_MACRO.finditer(each)]
        named = Counter(name for name, _ in macros)
        others = {name for name, body in macros if not _NUMBER.fullmatch(body.strip())}
        # Of several definitions any will do if they are numbers, whichever of them holds.
        self._macros = {name: body for name, body in macros if named[name] == 1 or name not in others}
        self.words = frozenset(_WORD.findall(self._stripped))

    def kernels(self) -> list[KernelSource]:
        """The kernels, in the order in which they are defined."""
        found: dict[str, KernelSource] = {}
        for each in self._declarations:
            name = function_name(list(each.head)) if "__global__" in each.head else None
            if name:
                qualified = "::".join((*each.scope, *name))
                before = found.get(qualified)
                limit = _launch_bound(each.head)
                found[qualified] = KernelSource(
                    qualified,
                    "template" in each.head,
                    self.waits(name[-1]) or bool(before and before.waits),
                    limit or (before.threads_per_block if before else None),
                )
        return list(found.values())

    def is_plain_function(self, qualified: str) -> bool:
        """Whether that names functions of which none can be a kernel, since nothing in front of them says so."""
        heads = [
            each.head
            for each in self._declarations
            if (name := function_name(list(each.head))) and "::".join((*each.scope, *name)) == qualified
        ]
        macros = {name for each in self._declarations if not each.head for name in each.names}
        return bool(heads) and not any({"__global__", *macros} & {*head} for head in heads)

    def waits(self, expression: str) -> bool:
        """Whether a barrier can be reached from what a name expression mentions. Errs towards yes."""
        return any(_BARRIER.fullmatch(word) for word in self.reachable(expression))

    def reachable(self, expression: str) -> frozenset[str]:
        """Every word that can be reached from what a name expression mentions, by following declarations."""
        seen: set[str] = set()
        pending = set(_WORD.findall(expression))
        while pending:
            word = pending.pop()
            seen.add(word)
            for each in self._by_name.get(word, ()):
                pending |= each.words - seen
        return frozenset(seen)

    @property
    def prints(self) -> bool:
        """Whether it calls printf."""
        return "printf" in self.words

    def unsupported(self) -> list[Construct]:
        """What a CPU cannot run, in order."""
        conditional = self._conditional_ranges()
        found = []
        for match in re.finditer(r"[A-Za-z_]\w*|<<<", self._code):
            word = match[0]
            if word == "<<<":
                what: str | None = "launches from a kernel (<<< >>>)"
            else:
                what = next((what for words, what in _UNSUPPORTED if words.fullmatch(word)), None)
                if word in _ONLY_AS_TEMPLATE and not self._code[match.end() :].lstrip().startswith("<"):
                    what = None
            if what:
                inside = any(start <= match.start() < end for start, end in conditional)
                found.append(Construct(what, line_of(self.text, match.start()), inside))
        return found

    def _conditional_ranges(self) -> list[tuple[int, int]]:
        ranges: list[tuple[int, int]] = []
        starts: list[int] = []
        for match in directives(self._stripped):
            if match[1] in {"if", "ifdef", "ifndef"}:
                starts.append(match.start())
            elif match[1] == "endif" and starts:
                ranges.append((starts.pop(), match.end()))
        return ranges + [(start, len(self.text)) for start in starts]

    def strided(self) -> list[Strided]:
        """The second forms of the kernels that are one grid-stride loop."""
        if is_disguised(self._code, (match[0] for match in directives(self._stripped))):
            return []
        kernels = [each for each in self._declarations if "__global__" in each.head]
        plain = [each for each in kernels if self._stands_alone(each)]
        found = [strided(self.text, self._code, each, self._macro_words, self._expanded) for each in plain]
        return [each for each in found if each is not None]

    def _stands_alone(self, kernel: Declaration) -> bool:
        """Whether its threads share nothing with their block, and no specialisation of it is another kernel."""
        reachable = self.reachable(" ".join(kernel.words))
        name = function_name(list(kernel.head))
        special = (each for each in self._declarations if each.head[:3] == ("template", "<", ">"))
        if any(function_name(list(each.head)) == name for each in special):
            return False
        return "__shared__" not in reachable and not any(map(_BARRIER.fullmatch, reachable))

    def _expanded(self, code: str) -> str:
        """With macros expanded that have no parameters and one definition, or numbers only."""
        for _ in range(_NESTED_MACROS):
            code = _WORD.sub(lambda word: f"({self._macros[word[0]]})" if word[0] in self._macros else word[0], code)
        return code

    def _macro_words(self, word: str) -> frozenset[str]:
        """Every word that a macro of that name can become."""
        seen: set[str] = set()
        pending = {word}
        while pending:
            known = pending.pop()
            for each in self._by_name.get(known, ()):
                if not each.head:
                    pending |= each.words - seen
                    seen |= each.words
        return frozenset(seen)

    def rewritten(self, second_forms: Iterable[Strided] = ()) -> str:
        """The source with dynamic shared memory as pointers to the block's one piece of it; lines stay where they are.

        ``extern __shared__ T name[];`` declares an array of unknown length, which exists on no host. The second forms
        are added behind their kernels.
        """
        edits = [((each.at, each.at), each.text) for each in second_forms]
        for match in _DYNAMIC_SHARED.finditer(self._code):
            declarator = _DECLARATOR.fullmatch(_ATTRIBUTES.sub(" ", match[0]).strip())
            if declarator is None:
                continue
            kind, name, rows = " ".join(declarator["type"].split()), declarator["name"], declarator["rows"].strip()
            storage = "static thread_local " if self._at_file_scope(match.start()) else ""
            pointer = f"kaasq_dynamic_shared<{kind}>()" if not rows else f"({kind} (*){rows})kaasq_shared"
            declared = f"{kind}* const {name}" if not rows else f"{kind} (*const {name}){rows}"
            lines = "\n" * match[0].count("\n")
            edits.append((match.span(), f"{storage}{declared} = {pointer};{lines}"))
        text = self.text
        for (start, end), replacement in sorted(edits, reverse=True):
            text = text[:start] + replacement + text[end:]
        return text

    def _at_file_scope(self, at: int) -> bool:
        """Whether a statement there is a declaration at namespace level, not inside a function."""
        start = max((each.at for each in self._declarations if each.head and each.at <= at), default=at)
        return "{" not in self._code[start:at]


def _launch_bound(head: tuple[str, ...]) -> int | None:
    at = head.index("__launch_bounds__") + 2 if "__launch_bounds__" in head else len(head)
    return int(head[at]) if at < len(head) and head[at].isdecimal() else None

"""Kernels that are one grid-stride loop, with a second form: a single round of the loop. Pure.

A thread of ``for (int i = start; i < n; i += stride) body`` walks the whole array, and the next one walks it again.
With one round at a time the threads of many blocks go through the array side by side, in the order in which it lies in
memory, and the compiler vectorises across them. A thread's own rounds keep their order, which is all the order that
CUDA promises. Where it is not plain that nothing else is carried from round to round, there is no second form; the
compiler proves the rest (the body becomes a lambda, whose captures are const).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from kaasq_workers.devices.cpu.disguises import hides_writes
from kaasq_workers.devices.cpu.syntax import Declaration, closing, function_name, tokens

PREFIX = "kaasq_strided_"

_WORD = re.compile(r"[A-Za-z_]\w*")
_INDICES = frozenset({"threadIdx", "blockIdx", "blockDim", "gridDim"})
_TYPES = re.compile(
    r"const|auto|unsigned|signed|bool|char|short|int|long|float|double|size_t|u?int(8|16|32|64)_t"
    r"|(u?char|u?short|u?int|u?long|u?longlong|float|double)[1-4]|(__)?half2?|__nv_bfloat162?"
)
_CASTS = frozenset({"static_cast", "reinterpret_cast", "const_cast", "min", "max", "warpSize", "x", "y", "z"})
_PURE_OPERATORS = frozenset("+-*/%()<>,.&|^?:!")
# What would end the thread's loop, or outlive a round.
_BARRED = frozenset({
    "break", "return", "goto", "static", "extern", "asm", "co_await", "__shared__", "__activemask", "this", "#",
})  # fmt: skip


class Strided(NamedTuple):
    """The second form: text to insert after the kernel, and where. ``name``: the kernel's, with its namespaces."""

    name: str
    at: int
    text: str


class _Loop(NamedTuple):
    kind: str
    """The counter's type."""
    counter: str
    start: str
    condition: str
    limit: str
    inclusive: bool
    stride: str
    body: str


def strided(
    text: str,
    code: str,
    each: Declaration,
    macro_words: Callable[[str], frozenset[str]],
    expanded: Callable[[str], str],
) -> Strided | None:
    """A kernel's second form, if it has one. ``code``: ``text`` without comments, strings and directives.

    ``macro_words``: every word that a macro can become. ``expanded``: code with its plain macros expanded; it is only
    looked at, and the form is made of the code as it stands, since the compiler knows which definition holds where.
    """
    name = function_name(list(each.head))
    opening = code.find("{", each.at)
    end = closing(code, opening)
    if name is None or end is None or text[each.at : end].count("#") or len(name) != 1:
        return None
    words = tokens(code[opening + 1 : end])
    reachable = {word.text for word in words} | {inner for word in words for inner in macro_words(word.text)}
    parameters = _parameters(code[each.at : opening], name[0])
    if reachable & _BARRED or parameters is None:
        return None
    found = _loop(code[opening + 1 : end], text[opening + 1 : end], parameters, expanded)
    if found is None:
        return None
    prologue, loop = found
    head = re.sub(r'^\s*extern\s*"C"\s*', "", text[each.at : opening].rstrip())
    head = re.sub(rf"\b{name[0]}\b(?=\s*\()", PREFIX + name[0], head)
    comma = ", " if parameters else ""
    head = f"{head[:-1]}{comma}kaasq::Strides* kaasq_strides, long long kaasq_round)"
    advanced = f"kaasq::advanced(kaasq_start, kaasq_round * static_cast<long long>({loop.stride}))"
    body = (
        f"{{ {prologue} const auto kaasq_start = static_cast<{loop.kind}>({loop.start}); "
        f"if (kaasq_strides) {{ kaasq_strides->note(kaasq_start, {loop.limit}, {loop.stride}, {int(loop.inclusive)}); "
        f"return; }} {{ const auto {loop.counter} = {advanced}; "
        f"if ({loop.condition}) [=]() __attribute__((always_inline)) "
        f"{{ for (bool kaasq_once = true; kaasq_once; kaasq_once = false) {loop.body} }}(); }} }}"
    )
    line = text.count("\n", 0, end) + 1
    return Strided("::".join((*each.scope, *name)), end + 1, f'\n{head} {body}\n#line {line} "kernel.cu"\n')


def _parameters(head: str, name: str) -> dict[str, bool] | None:
    """A function's parameters, and whether each may be a pointer; None if they are not plain."""
    opening = re.search(rf"\b{name}\s*\(", head)
    inside = head[opening.end() : head.rstrip().rfind(")")] if opening else "("
    if "(" in inside or not head.rstrip().endswith(")"):
        return None
    found = {}
    for each in _split(inside, ","):
        words = _WORD.findall(each.partition("=")[0])
        if len(words) > 1:
            found[words[-1]] = any(mark in each for mark in "*&[")
    return found


def _split(code: str, separator: str) -> list[str]:
    """At the separators that stand within no brackets."""
    parts, depth, start = [], 0, 0
    for at, each in enumerate(code):
        depth += (each in "([{") - (each in ")]}")
        if each == separator and not depth:
            parts.append(code[start:at])
            start = at + 1
    return [*parts, code[start:]]


def _loop(code: str, text: str, names: dict[str, bool], expanded: Callable[[str], str]) -> tuple[str, _Loop] | None:
    """The declarations before the loop, and the loop, which must be all that follows them."""
    beginning = re.search(r"\b(for|while)\s*\(", code)
    if beginning is None or "{" in code[: beginning.start()]:
        return None
    names = dict(names)
    kinds: dict[str, str] = {}
    prologue = code[: beginning.start()]
    for statement in _split(expanded(prologue), ";"):
        if statement.strip() and not _declares(statement, names, kinds):
            return None
    end = closing(code, beginning.end() - 1)
    if end is None:
        return None
    control = _split(code[beginning.end() : end], ";")
    body = text[end + 1 :].strip()
    if not _one_statement(code[end + 1 :].strip()):
        return None
    if beginning[1] == "while":
        last = re.search(r";?\s*(\w+\s*\+=[^;{}]+);\s*\}$", code[end + 1 :].rstrip())
        if last is None or len(control) != 1 or re.search(r"\bcontinue\b", code):
            return None
        control = ["", control[0], last[1]]
        body = text[end + 1 : end + 1 + last.start(1)].strip() + " }"
    if len(control) != 3:
        return None
    found = _counted(control, body, names, kinds, expanded)
    if found is None or hides_writes(tokens(code[end + 1 :]), names):
        return None
    return prologue, found


def _counted(
    control: list[str], body: str, names: dict[str, bool], kinds: dict[str, str], expanded: Callable[[str], str]
) -> _Loop | None:
    step = re.fullmatch(r"\s*(\w+)\s*(?:\+=|=\s*\1\s*\+)\s*(.+)", control[2], re.DOTALL)
    if step is None:
        return None
    counter, stride = step[1], step[2]
    start = counter
    if control[0].strip():
        first, start = expanded(control[0]), control[0].partition("=")[2]
        declared = _declares(first, names, kinds) and list(kinds)[-1] == counter
        if not declared or len(_split(first, ",")) != 1 or not start.strip():
            return None
        kind = kinds[counter] if kinds[counter] != "auto" else f"decltype({start})"
    elif counter in kinds:
        kind = f"std::remove_const_t<decltype({counter})>"
    else:
        return None
    compared = re.fullmatch(r"\s*(\w+)\s*(<=?)(?![<=])(.+)", control[1], re.DOTALL)
    turned = re.fullmatch(r"(.+?)(?<![>=-])(>=?)\s*(\w+)\s*", control[1], re.DOTALL)
    if compared and compared[1] == counter:
        limit, inclusive = compared[3], compared[2] == "<="
    elif turned and turned[3] == counter:
        limit, inclusive = turned[1], turned[2] == ">="
    else:
        return None
    outside = {name: pointer for name, pointer in names.items() if name != counter}
    if not all(_is_pure(expanded(each), outside) for each in (limit, stride)) or set("<>?&|=") & set(expanded(limit)):
        return None
    # Not the proof, which is the compiler's, but a failed proof costs the whole module a second compilation.
    if any(re.search(rf"(\+\+|--)\s*{name}\b|\b{name}\s*(\+\+|--|[-+*/%&|^<>]*=(?!=))", body) for name in names):
        return None
    return _Loop(kind, counter, start, control[1], f"({limit})", inclusive, stride, body)


def _one_statement(code: str) -> bool:
    if code.startswith("{"):
        return closing(code, 0) == len(code) - 1
    return "{" not in code and [each.strip() for each in _split(code, ";")][1:] == [""]


def _declares(statement: str, names: dict[str, bool], kinds: dict[str, str]) -> bool:
    """Whether it declares numbers or pointers and reads no memory. Adds them to ``names``, their types to ``kinds``."""
    kind = ""
    for index, declarator in enumerate(_split(statement, ",")):
        target, given, value = declarator.partition("=")
        found = re.fullmatch(r"\s*(.*?)\s*(\b\w+)\s*", target, re.DOTALL)
        if not given or found is None:
            return False
        kind = found[1] if index == 0 else kind
        pointer = kind.rstrip().endswith("*")
        plain = kind.replace("*", " ").replace("__restrict__", " ").split()
        if not plain or not all(_TYPES.fullmatch(word) for word in plain) or (index and (pointer or found[1])):
            return False
        if not _is_pure(value, names, pointers=pointer):
            return False
        names[found[2]] = pointer
        kinds[found[2]] = " ".join(word for word in plain if word != "const") if not pointer else kind
    return True


def _is_pure(expression: str, names: dict[str, bool], *, pointers: bool = False) -> bool:
    """Whether it only computes with those names, CUDA's indices and numbers."""
    if any(mark in expression for mark in ("++", "--", "->")):
        return False
    before = "("
    for text in (each.text for each in tokens(expression)):
        reads_memory = before == "*" and names.get(text, False)
        takes_operand = before in _PURE_OPERATORS - {")", ">"} and before != text
        if _WORD.fullmatch(text):
            known = text in names and (pointers or not names[text])
            pure = known or text in _INDICES | _CASTS or bool(_TYPES.fullmatch(text))
        elif text in "*&" and takes_operand:
            pure = False  # a dereference, or an address
        else:
            pure = text in _PURE_OPERATORS or text[0].isdigit()
        if reads_memory or not pure:
            return False
        before = text
    return True

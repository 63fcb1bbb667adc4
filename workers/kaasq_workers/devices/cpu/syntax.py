"""CUDA C++ as tokens and top-level declarations: as much of the grammar as finding kernels and barriers takes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_LEXEME = re.compile(
    r"""(?P<comment>//(?:\\\n|[^\n])*|/\*.*?(?:\*/|\Z))
      | (?P<raw>\b(?:u8|[uUL])?R"(?P<fence>[^()\\\s]{0,16})\(.*?\)(?P=fence)")
      | (?P<number>\b\.?\d(?:'?[\w.]|(?<=[eEpP])[+-])*)
      | (?P<string>"(?:\\.|[^"\\\n])*")
      | (?P<char>'(?:\\.|[^'\\\n])+')""",
    re.VERBOSE | re.DOTALL,
)
_DIRECTIVE = re.compile(r"^[ \t]*#[ \t]*(\w*)(?:[^\n\\]|\\(?:\n|.))*", re.MULTILINE)
_TOKEN = re.compile(r"[A-Za-z_]\w*|<<<|::|[^\s\w]|\d[\w.']*")
_WORD = re.compile(r"[A-Za-z_]\w*")
_INVISIBLE = re.compile(r"[^\n]")
# What looks like a call in front of a function's name.
_SPECIFIERS = frozenset({
    "__launch_bounds__", "__maxnreg__", "__align__", "__cluster_dims__", "__block_size__",
    "__attribute__", "__declspec", "alignas", "decltype", "noexcept", "explicit",
})  # fmt: skip
# Words that a declaration does not declare.
_KEYWORDS = frozenset({
    "auto", "bool", "char", "class", "const", "constexpr", "double", "enum", "extern", "float", "for", "if", "else",
    "inline", "int", "long", "namespace", "return", "short", "signed", "sizeof", "static", "struct", "template",
    "typedef", "typename", "union", "unsigned", "using", "void", "volatile", "while", "threadIdx", "blockIdx",
    "blockDim", "gridDim", "__global__", "__device__", "__host__", "__shared__", "__constant__", "__forceinline__",
    "__restrict__", "__launch_bounds__", "__align__", "alignas",
})  # fmt: skip


class Token(NamedTuple):
    """One token of the stripped source; ``at`` is its offset."""

    text: str
    at: int


class Declaration(NamedTuple):
    """A top-level declaration or a macro: what it declares, every word in it, and where it begins."""

    names: frozenset[str]
    words: frozenset[str]
    head: tuple[str, ...]
    scope: tuple[str, ...]
    at: int


def strip(source: str) -> str:
    """The source with comments, strings and characters blanked out; of the same length, lines where they were."""

    def blank(match: re.Match[str]) -> str:
        if match["number"]:
            return match[0]  # it may contain a ' that begins no character
        if match["comment"]:
            return _INVISIBLE.sub(" ", match[0])
        return '"' + _INVISIBLE.sub(" ", match[0][1:-1]) + '"' if len(match[0]) > 1 else match[0]

    return _LEXEME.sub(blank, source)


def line_of(source: str, at: int) -> int:
    """The number of the line that an offset lies in, from 1."""
    return source.count("\n", 0, at) + 1


def directives(stripped: str) -> Iterator[re.Match[str]]:
    """The preprocessor's lines; group 1 is the directive's name."""
    return _DIRECTIVE.finditer(stripped)


def without_directives(stripped: str) -> str:
    """The stripped source with the preprocessor's lines blanked out."""
    return _DIRECTIVE.sub(lambda match: _INVISIBLE.sub(" ", match[0]), stripped)


def tokens(text: str) -> list[Token]:
    """The tokens of a stripped source."""
    return [Token(match[0], match.start()) for match in _TOKEN.finditer(text)]


def closing(code: str, opening: int) -> int | None:
    """Where the bracket at ``opening`` is closed."""
    depth = 0
    for match in re.compile(r"[(\[{}\])]").finditer(code, max(opening, 0)):
        depth += 1 if match[0] in "([{" else -1
        if not depth:
            return match.start()
    return None


def declarations(stripped: str) -> list[Declaration]:
    """Macros, and the declarations at namespace level (``namespace x {`` and ``extern "C" {`` looked into)."""
    found = [
        Declaration(frozenset(words[1:2]), frozenset(words[2:]), (), (), match.start())
        for match in directives(stripped)
        if match[1] == "define" and (words := _WORD.findall(match[0]))
    ]
    scope: list[str] = []  # "" for extern "C" and unnamed namespaces
    head: list[Token] = []
    body: list[str] = []
    depth = 0
    for token in tokens(without_directives(stripped)):
        if depth:
            depth += (token.text == "{") - (token.text == "}")
            body.append(token.text)
            if not depth and function_name([each.text for each in head]):  # of other braces a ; is the end
                found.append(_declaration(head, body, scope))
                head, body = [], []
        elif token.text == "{" and (name := _opens_scope(head)) is not None:
            scope.append(name)
            head = []
        elif token.text == "{":
            depth = 1
            body.append("{")
        elif token.text == "}":
            if scope:
                scope.pop()
            head = []
        elif token.text == ";":
            if head:
                found.append(_declaration(head, body, scope))
            head, body = [], []
        else:
            head.append(token)
    return found


def _opens_scope(head: list[Token]) -> str | None:
    """Whether a ``{`` after these tokens opens a namespace or a linkage block, and the namespace's name."""
    words = [token.text for token in head if token.text != '"']
    if words == ["extern"]:
        return ""
    if words[:1] == ["inline"]:
        words = words[1:]
    return "".join(words[1:]) if words[:1] == ["namespace"] and "=" not in words else None


def _declaration(head: list[Token], body: list[str], scope: list[str]) -> Declaration:
    texts = [token.text for token in head]
    function = None if {"using", "typedef"} & {*texts} else function_name(texts)
    names = function or [text for text in _without_template(texts) if _WORD.fullmatch(text) and text not in _KEYWORDS]
    words = {text for text in (*texts, *body) if _WORD.fullmatch(text)} - (_KEYWORDS - {"__shared__"})
    qualified = tuple(part for name in scope if name for part in name.split("::") if part)
    return Declaration(frozenset(names), frozenset(words), tuple(texts), qualified, head[0].at if head else 0)


def _without_template(texts: list[str]) -> list[str]:
    """Without ``template <...>`` in front: what it names is its own."""
    if texts[:2] != ["template", "<"]:
        return texts
    depth = 0
    for index, text in enumerate(texts):
        depth += (text == "<") - (text == ">")
        if index and not depth:
            return texts[index + 1 :]
    return texts


def function_name(head: list[str]) -> tuple[str, ...] | None:
    """The name of the function that these tokens declare, with what qualifies it (``Pair::sum``), or None.

    Of a specialisation (``sum<float>``) it is the template's.
    """
    index, depth = 0, 0
    while index < len(head):
        text = head[index]
        if text == "(" and depth == 0:
            last = _before_arguments(head, index - 1)
            before = head[last] if last >= 0 else ""
            if _WORD.fullmatch(before) and before not in _SPECIFIERS:
                name = [before]
                while last >= 2 and head[last - 1] == "::" and _WORD.fullmatch(head[last - 2]):
                    name.insert(0, head[last - 2])
                    last -= 2
                return tuple(name)
        depth += (text == "(") - (text == ")")
        index += 1
    return None


def _before_arguments(head: list[str], index: int) -> int:
    """Where the name stands that is followed by the template arguments that end there; the place itself if none do."""
    if index < 0 or head[index] != ">":
        return index
    depth = 0
    for at in range(index, -1, -1):
        depth += (head[at] == ">") - (head[at] == "<")
        if not depth:
            return at - 1
    return index

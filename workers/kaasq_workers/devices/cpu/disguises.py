"""What a kernel may do so that neither a look at its words nor the compiler sees that rounds share something. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kaasq_workers.devices.cpu.syntax import Token

_WORD = re.compile(r"[A-Za-z_]\w*")
# Writes to what is const, and words in two parts.
_DISGUISE = re.compile(r"\b(const_cast|mutable)\b|&\s*\)|\\\s*\n")
_MACRO_DISGUISE = re.compile(r"##|%:|\b(const_cast|mutable)\b|\)\s*\(*\s*&|&\s*\)")


def is_disguised(code: str, macros: Iterable[str]) -> bool:
    """Whether the source does so anywhere; ``code`` is what is left of it without comments, strings and directives."""
    return bool(_DISGUISE.search(code)) or any(map(_MACRO_DISGUISE.search, macros))


def hides_writes(body: Iterable[Token], names: Mapping[str, bool]) -> bool:
    """Whether a loop's body may write to one of those variables past their being const: *(float*)&x.

    ``names`` tell of each whether it is a pointer: the address of what it points to is harmless.
    """
    words = ["(", *(each.text for each in body), ";", ";"]
    for at in range(1, len(words) - 2):
        if words[at] != "&" or words[at - 1] == "&" or _is_operand(words, at - 1):
            continue
        after = next(each for each in words[at + 1 :] if each != "(")
        if after in names and not (names[after] and words[at + 1 : at + 3] == [after, "["]):
            return True
    return False


def _is_operand(words: list[str], at: int) -> bool:
    """Whether an operand ends there, so that what follows is no unary operator."""
    if words[at] != ")":
        return words[at] == "]" or words[at][0].isdigit() or _WORD.match(words[at]) is not None
    opening = at - words[at::-1].index("(")
    return not all(_WORD.match(each) or each in {"*", "::"} for each in words[opening + 1 : at])  # else maybe a cast

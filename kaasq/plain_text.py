"""Text that others wrote, made harmless for terminals, which obey control characters. Pure."""

from __future__ import annotations

from typing import Final

LAID_OUT: Final = "\n\t"
"""What text of several lines has, such as a compiler's."""


def harmless(text: str, keep: str = "") -> str:
    """The same with what does not print as an escape (ESC as four characters), but for the characters to ``keep``."""
    if text.isprintable():
        return text
    return "".join([each if each.isprintable() or each in keep else escape(each) for each in text])


def escape(character: str) -> str:
    """One that does not print, as Python writes it."""
    return character.encode("unicode_escape").decode("ascii")

"""What a kernel of a source module may be called: it stands in what is compiled, and must not say anything else. Pure.

Whose code runs may be the operator's to decide (``module_policy``), and a name comes with the request. So it is a name,
``a::b::kernel``, or an instance of a template, ``kernel<float, 3>``: nothing that begins a declaration or leaves the
brackets in which it is put, and so nothing that is run or defined.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"(::)?[^\W\d]\w*(::[^\W\d]\w*)*\s*", re.ASCII)
_ARGUMENTS = re.compile(r"[\w ,:<>()\[\]*&|^~!=+/%.-]*", re.ASCII)


def is_kernel_name(name: str) -> bool:
    """Whether it names a kernel and does nothing beside."""
    begin = _NAME.match(name)
    if begin is None or not name.isprintable():
        return False
    rest = name[begin.end() :]
    return not rest or (rest.startswith("<") and _ARGUMENTS.fullmatch(rest) is not None and _is_one_bracket(rest))


def _is_one_bracket(text: str) -> bool:
    """Whether it is one pair of angle brackets from beginning to end, with everything between them balanced."""
    closing = {"<": ">", "(": ")", "[": "]"}
    open_: list[str] = []
    for at, sign in enumerate(text):
        inside = bool(open_) and open_[-1] != ">"  # of other brackets: there < and > compare
        if sign in "([" or (sign == "<" and not inside):
            open_.append(closing[sign])
        elif sign in ")]" or (sign == ">" and not inside):
            if not open_ or open_.pop() != sign or (not open_ and at + 1 < len(text)):
                return False
        elif not open_:
            return False
    return not open_

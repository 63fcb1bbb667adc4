"""Every built-in that kaasq ships, by name. Each device implements all of them."""

from __future__ import annotations

from kaasq.builtins.convolution import CONVOLUTION
from kaasq.builtins.elementwise import ELEMENTWISE
from kaasq.builtins.layout import LAYOUT
from kaasq.builtins.linear import LINEAR
from kaasq.builtins.reductions import ALONG_AXES
from kaasq.builtins.signature import Builtin

CATALOGUE: dict[str, Builtin] = {
    each.name: each for each in (*LINEAR, *ELEMENTWISE, *ALONG_AXES, *LAYOUT, *CONVOLUTION)
}

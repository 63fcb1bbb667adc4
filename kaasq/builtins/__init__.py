"""Built-in kernels: what each takes and gives. Devices implement them; here is what both sides check.

A graph calls one with ``graph.call("gemm", a, b, c)``. docs/builtins.md lists them.
"""

from kaasq.builtins.calls import resolve_call
from kaasq.builtins.registry import GROUP, builtin_names, find_builtin
from kaasq.builtins.signature import Builtin, Call, Mistake, Operand, Parameter, number, reads, updates, writes

__all__ = [
    "GROUP",
    "Builtin",
    "Call",
    "Mistake",
    "Operand",
    "Parameter",
    "builtin_names",
    "find_builtin",
    "number",
    "reads",
    "resolve_call",
    "updates",
    "writes",
]

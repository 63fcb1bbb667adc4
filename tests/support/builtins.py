"""Calls of built-ins for tests: many in one graph, each with what it is to give, computed some other way in float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from kaasq import Client, Graph
from kaasq.model import Buffer

DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]
FLOATS = ("float16", "float32", "float64")

# Relative to what a result is made of: a few roundings of the result, and of what it was computed in.
TOLERANCE = {"float16": 2e-3, "float32": 2e-5, "float64": 1e-12}
# A GPU may take float32 numbers below the normal ones as zeros.
LEAST = {"float16": 2.0**-24, "float32": 2.0**-126, "float64": 2.0**-1022}


class Out(NamedTuple):
    """A buffer that a call writes: what it is to hold afterwards and, if the call reads it, what it held before.

    ``scale``: the size of what the result was added up from, where that is larger than the result.
    """

    expected: np.ndarray
    dtype: str
    before: np.ndarray | None = None
    scale: Any = 1.0


class Sheet:
    """A graph under construction. ``call`` adds to it, ``check`` runs it all at once."""

    def __init__(self) -> None:
        self.graph = Graph("builtins")
        self._inputs: dict[str, np.ndarray] = {}
        self._outputs: list[tuple[str, Out]] = []

    def call(self, builtin: str, *args: np.ndarray | np.generic | Out, **attrs: Any) -> None:
        """One call: arrays for what it reads, NumPy scalars for numbers."""
        given = [self._argument(f"{builtin} {attrs} #{len(self._inputs) + len(self._outputs)}", arg) for arg in args]
        self.graph.call(builtin, *given, **attrs)

    def check(self, client: Client) -> None:
        """Run the graph and compare all its outputs."""
        assert self._outputs
        result = client.run(self.graph, timeout=110, **self._inputs)
        for name, out in self._outputs:
            compare(name, result[name], out)

    def _argument(self, name: str, arg: Any) -> Buffer | np.generic:
        if isinstance(arg, np.generic):
            return arg
        if isinstance(arg, np.ndarray):
            self._inputs[name] = arg
            return self.graph.input(name, shape=arg.shape, dtype=arg.dtype)
        self._outputs.append((name, arg))
        if arg.before is None:
            return self.graph.output(name, shape=arg.expected.shape, dtype=arg.dtype)
        self._inputs[name] = arg.before
        return self.graph.inout(name, shape=arg.expected.shape, dtype=arg.dtype)


def compare(name: str, given: np.ndarray, out: Out) -> None:
    """Exactly for integers and bool, within the dtype's tolerance for floats; NaN and infinities in the same places."""
    assert given.dtype == out.dtype, name
    expected = np.asarray(out.expected)
    if given.dtype.kind != "f":
        np.testing.assert_array_equal(given, expected, err_msg=name)
        return
    with np.errstate(over="ignore"):
        rounded = expected.astype(given.dtype)
    np.testing.assert_array_equal(np.isfinite(given), np.isfinite(rounded), err_msg=name)
    special = ~np.isfinite(rounded)
    np.testing.assert_array_equal(given[special], rounded[special], err_msg=name)
    finite = ~special
    error = np.abs(given[finite].astype(np.float64) - expected[finite])
    allowed = TOLERANCE[out.dtype] * np.maximum(np.abs(expected), np.broadcast_to(out.scale, expected.shape))[finite]
    allowed += LEAST[out.dtype]
    worst = np.argmax(error - allowed) if error.size else 0
    assert (error <= allowed).all(), (
        f"{name}: {given[finite][worst]} instead of {expected[finite][worst]}; off by {error[worst]}, "
        f"{allowed[worst]} is allowed"
    )


def normal(seed: int, *shape: int, dtype: str = "float32") -> np.ndarray:
    """Normally distributed numbers of that dtype, integers from -60 to 60 (0 to 120), or bits."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if "int" in dtype:
        low = 0 if dtype.startswith("u") else -60
        return rng.integers(low, low + 120, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)

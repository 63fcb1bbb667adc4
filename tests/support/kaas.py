"""Requests in the KaaS format, what they read from the store and what they leave there, in both spellings."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import kaasq

FOLDER = Path(__file__).parents[1] / "data" / "kaas"
SPELLINGS = ("readme", "code")

_RANDOM = np.random.default_rng(7)
_X = np.arange(1024, dtype=np.uint32)
_Y = _X[::-1] + np.uint32(3)
_F = _RANDOM.random(1000, dtype=np.float32)
_A, _B = _RANDOM.random((2, 48, 48), dtype=np.float32)
_SYSTEM = _RANDOM.random((64, 64)) + 64 * np.eye(64)
_RIGHT = _RANDOM.random(64)
_WEIGHTS = _RANDOM.integers(0, 1000, 1024, dtype=np.uint32)


class Case(NamedTuple):
    """A file in tests/data/kaas; arrays by their keys."""

    name: str
    given: dict[str, np.ndarray]
    left: dict[str, np.ndarray]

    def body(self, spelling: str = "readme") -> dict[str, Any]:
        body: dict[str, Any] = json.loads((FOLDER / f"{self.name}.json").read_text())
        return body if spelling == "readme" else respelled(body)


CASES = (
    Case("sum", {"x": _X}, {"total": _X.sum(dtype=np.uint32, keepdims=True)}),
    Case(
        "dot",
        {"vectors/a": _X, "vectors/b": _Y},
        {"vectors/dot": (_X * _Y).sum(dtype=np.uint32, keepdims=True)},
    ),
    Case("powers", {"x": _F}, {"square": _F**2, "cube": _F**3}),
    Case("matmul", {"a": _A, "b": _B}, {"product": (_A @ _B).ravel()}),
    Case("jacobi", {"a": _SYSTEM, "b": _RIGHT}, {"x": np.linalg.solve(_SYSTEM, _RIGHT)}),
    Case("offset", {"model/weights": _WEIGHTS}, {"out": _WEIGHTS[:256] * _WEIGHTS[768:]}),
    Case("inplace", {"state": _F}, {"state": _F / 8 + np.float32(1.75)}),
)


def respelled(body: dict[str, Any]) -> dict[str, Any]:
    """The request as the original's code writes it: lists of three, types apart, everything said."""
    body = copy.deepcopy(body)
    for kernel in body["kernels"]:
        for old, new in (("nGrid", "gridDim"), ("nBlock", "blockDim")):
            dims = kernel.pop(old)
            kernel[new] = ([dims] if isinstance(dims, int) else dims) + [1] * (1 if isinstance(dims, int) else 0)
        kernel.setdefault("sharedSize", 0)
        kernel.setdefault("literals", [])
        pairs = kernel["arguments"]
        kernel["arguments"] = [
            {"offset": 0, "key": spec["name"], "ephemeral": False, "const": False, **spec} for spec, _ in pairs
        ]
        kernel["type_list"] = [letters for _, letters in pairs]
        for field, letter in (("inputs", "i"), ("temps", "t"), ("outputs", "o")):
            kernel[field] = [
                spec for spec, letters in zip(kernel["arguments"], kernel["type_list"]) if letter in letters
            ]
    return body


def put(client: kaasq.Client, case: Case) -> None:
    """Have the store hold what the request reads."""
    for key, array in case.given.items():
        client.put(array, name=key)


def check(client: kaasq.Client, case: Case) -> None:
    """The store holds what the request was to leave, and what it only read is as it was."""
    for key, expected in case.left.items():
        found = np.frombuffer(client.get(key).tobytes(), expected.dtype)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for key, array in case.given.items():
        if key not in case.left:
            np.testing.assert_array_equal(client.get(key), array)

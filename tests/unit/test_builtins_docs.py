"""docs/builtins.md lists every built-in as it is, and what it shows runs."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaasq
from kaasq.builtins.catalogue import CATALOGUE
from kaasq.builtins.signature import ANY, FLOATS, NUMBERS, Builtin, Parameter
from kaasq.checks import GraphLimits
from kaasq.codec import RequestDecoder
from kaasq.model import GraphSpec

DOC = Path(__file__).parents[2] / "docs" / "builtins.md"
KINDS = {FLOATS: "floats", NUMBERS: "numbers", ANY: "any"}
TYPES = {str: "text", tuple: "list", int: "whole number"}


def row(builtin: Builtin) -> str:
    """Its line in the table: what it takes, of which dtypes, its attributes, what it gives."""
    buffers = [each for each in builtin.parameters if each.access != "number"]
    groups = itertools.groupby(buffers, lambda each: each.dtypes)
    dtypes = ", ".join(f"{' '.join(map(_marked, group))}: {KINDS.get(kind, ' '.join(kind))}" for kind, group in groups)
    attributes = ", ".join(f"`{name}` {_default(value)}" for name, value in builtin.attributes.items())
    return f"| `{builtin.usage}` | {dtypes} | {attributes} | {builtin.summary} |"


def _marked(parameter: Parameter) -> str:
    return {"writes": f"*{parameter.name}*", "updates": f"**{parameter.name}**"}.get(parameter.access, parameter.name)


def _default(value: Any) -> str:
    return TYPES[value] if isinstance(value, type) else f"= {json.dumps(value)}"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOC.read_text(), re.DOTALL)


def test_every_builtin_is_listed_as_it_is():
    lines = [line for line in DOC.read_text().splitlines() if re.match(r"\| `\w+\(", line)]
    wanted = [row(each) for each in CATALOGUE.values()]
    assert lines == wanted, "the table is to be:\n" + "\n".join(wanted)


def test_python_and_json_say_the_same_and_run(capsys):
    (program,) = (each for each in blocks("python") if "kaasq.local" in each)
    names: dict[str, Any] = {}
    exec(compile(program, str(DOC), "exec"), names)
    shifted = np.maximum(names["x"] @ names["w"].T + names["b"], 0)
    powers = np.exp(shifted)
    np.testing.assert_allclose(names["result"]["y"], powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)
    (body,) = blocks("json")
    request = RequestDecoder(GraphLimits()).decode(body.encode(), "application/json")
    assert isinstance(request.graph, GraphSpec)
    assert request.graph.hash == names["graph"].freeze().hash


def test_the_package_shown_is_the_one_that_is_tested():
    """Its declaration, word by word, is the example's."""
    example = DOC.parents[1] / "examples" / "custom_builtin"
    (declared,) = blocks("toml")
    assert declared.strip() in (example / "pyproject.toml").read_text()
    (shown,) = (each for each in blocks("python") if "POWER" in each)
    assert shown.strip() in (example / "kaasq_spectrum.py").read_text()


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_a_summary_says_something(name):
    assert CATALOGUE[name].summary
    assert kaasq.builtins.find_builtin(name) is CATALOGUE[name]

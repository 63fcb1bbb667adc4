"""What users are told to install is something that they can install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from kaasq.extras import install

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("kaasq", "storage", "workers", "producers", "ops", "docs", "examples")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".md"} and "node_modules" not in path.parts
]


def test_every_extra_that_is_to_be_installed_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    calls = [
        call for path in SOURCES for call in re.findall(r"\binstall\(((?:'\w+'|\"\w+\")[^)]*)\)", path.read_text())
    ]
    named = {each for call in calls for each in re.findall(r"\w+", call)}
    assert {"demo", "onnx", "cuda13"} <= named <= set(extras)


def test_nobody_is_told_to_install_kaasq_from_an_index():
    assert [str(path) for path in SOURCES if re.search(r"pip install.*\bkaasq\[", path.read_text())] == []


def test_what_to_do_names_the_extra_and_where():
    assert install("cuda13", "cuda12") == (
        "install kaasq with its extra 'cuda13' (or cuda12): pip install '.[cuda13]' in the folder of its source"
    )

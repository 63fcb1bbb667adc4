"""Packages for tests, installed into a folder as pip would have it: the module and its entry points."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, name: str, modules: Mapping[str, str], entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """Write modules (text by name) and a distribution's metadata with those entry points (by group)."""
    about = folder / f"{name.replace('-', '_')}-1.0.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
    lines = [
        line
        for group, entries in entry_points.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


def install_project(folder: Path, project: Path) -> None:
    """Install a project of single modules by what its ``pyproject.toml`` says."""
    said = tomllib.loads((project / "pyproject.toml").read_text())
    files = said["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    modules = {Path(each).stem: (project / each).read_text() for each in files}
    install(folder, said["project"]["name"], modules, said["project"]["entry-points"])

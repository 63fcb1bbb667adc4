"""The C++ compiler: which one is chosen, and what is told of what it says."""

from __future__ import annotations

import sys

import pytest

from kaasq.errors import BadRequest
from kaasq_workers.devices.cpu.toolchain import diagnostics, find_toolchain


@pytest.mark.parametrize(
    ("there", "ziglang", "kind"),
    [
        ({"g++", "clang++"}, True, "gcc"),
        ({"clang++"}, True, "clang"),
        (set(), True, "zig"),
        (set(), False, None),
    ],
)
def test_which_compiler_is_chosen(there: set[str], ziglang: bool, kind: str | None) -> None:
    found = find_toolchain(
        which=lambda name: f"/usr/bin/{name}" if name in there else None, has_module=lambda name: ziglang
    )
    assert (found.kind if found else None) == kind
    if kind == "zig":
        assert found is not None
        assert found.command == (sys.executable, "-P", "-m", "ziglang", "c++")
        assert not any("native" in option for option in found.options())


def test_a_compiler_that_was_asked_for() -> None:
    found = find_toolchain("/opt/clang++ -Wall", which=lambda name: name)
    assert found is not None
    assert (found.command, found.kind) == (("/opt/clang++", "-Wall"), "clang")
    with pytest.raises(BadRequest, match="no C\\+\\+ compiler 'icpc'"):
        find_toolchain("icpc", which=lambda name: None)


def test_diagnostics_without_anything_about_the_user_are_shown_whole() -> None:
    said = "In file included from module.cpp:1:\nkaasq_cuda.h:10:2: error: boom\n"
    assert diagnostics(said, "kernel.cu") == ([said.strip()], None)

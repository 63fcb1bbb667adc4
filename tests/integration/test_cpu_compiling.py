"""The CPU device compiles each thing once, however many ask for it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kaasq.errors import ModuleRejected
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.devices.cpu.toolchain import Toolchain
from tests.support.cpu import environment, load

SMALL = 'extern "C" __global__ void k(int* x) {{ *x = {}; }}'


class CountingToolchain(Toolchain):
    """Counts how often it is called."""

    def __init__(self, real: Toolchain) -> None:
        super().__init__(real.command, real.kind)
        self.runs = 0

    def compile(self, arguments: list[str], folder: Path) -> tuple[bool, str]:
        self.runs += 1
        return super().compile(arguments, folder)


def test_every_key_may_have_the_same_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaasq_workers.devices.code_cache._STRIPES", 1)
    load(CpuDevice(cache_dir=tmp_path / "code"), SMALL.format(1), "k")


def counting(device: CpuDevice) -> CountingToolchain:
    assert device._builder is not None
    toolchain = CountingToolchain(device._builder.toolchain)
    device._builder.toolchain = toolchain
    return toolchain


def test_a_module_is_compiled_once(code_folder: Path) -> None:
    for expected_runs in (1, 0):
        device = CpuDevice(cache_dir=code_folder / "cpu")
        toolchain = counting(device)
        load(device, SMALL.format(1001), "k")
        load(device, SMALL.format(1001), "k")
        assert toolchain.runs <= expected_runs + (expected_runs and 1)  # the runtime, if this test runs first


def test_processes_that_compile_the_same_module_at_once(tmp_path: Path) -> None:
    script = """
        import sys, numpy as np
        from pathlib import Path
        from kaasq.model import Module
        from kaasq_workers.executor.arguments import PackedArguments, pointer
        from kaasq_workers.devices.cpu import CpuDevice
        device = CpuDevice(cache_dir=Path(sys.argv[1]))
        module = device.load(Module.from_source('extern "C" __global__ void k(int* x) { *x = 5; }'), ("k",))
        x = np.zeros(1, np.int32)
        arguments = PackedArguments([pointer(x.ctypes.data)])
        device.stream().launch(module.kernel("k"), (1, 1, 1), (1, 1, 1), arguments, 0)
        print(x[0])
    """
    argv = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "code")]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment()) for _ in range(4)]
    assert [process.communicate()[0].strip() for process in running] == ["5"] * 4
    assert len(list((tmp_path / "code").glob("*.code"))) == 2  # the module and the runtime
    assert not list((tmp_path / "code" / "work").iterdir())


def test_without_a_compiler_everything_but_loading_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaasq_workers.devices.cpu.device.find_toolchain", lambda wanted: None)
    device = CpuDevice(cache_dir=tmp_path / "code")
    device.allocate(10).free()
    assert "no C++ compiler" in device.description
    with pytest.raises(ModuleRejected, match="apt-get install g\\+\\+, or pip install ziglang"):
        load(device, SMALL.format(1), "k")

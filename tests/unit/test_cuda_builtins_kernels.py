"""The cuda device's own kernels, run on the cpu device: the same answers as NumPy gives there, element for element.

A GPU rounds some functions differently; where an index goes wrong, it goes wrong here too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kaasq.builtins import builtin_names
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.devices.cuda.builtins.steps import KernelStep
from kaasq_workers.devices.cuda.builtins.table import PLANS
from tests.support.cuda_cases import CASES
from tests.support.cuda_steps import StepRunner, compare, run_on

pytestmark = pytest.mark.timeout(600)  # the first of them compiles them all

TOLERANCES = {"float16": 2e-3, "float32": 2e-6, "float64": 1e-14}


@pytest.fixture(scope="module")
def device(code_folder: Path) -> CpuDevice:
    return CpuDevice(cache_dir=code_folder / "cpu")


@pytest.fixture(scope="module")
def runner(device: CpuDevice) -> StepRunner:
    made = StepRunner(device)
    made.load(CASES)
    return made


@pytest.mark.parametrize("name", sorted(PLANS))
def test_kernels_give_the_answers_that_numpy_gives(device: CpuDevice, runner: StepRunner, name: str) -> None:
    mine = [case for case in CASES if case.builtin == name]
    assert mine
    for case in mine:
        wanted, found = run_on(device, case), runner.run(case)
        compare(case, found, wanted, TOLERANCES)


def test_every_built_in_has_a_plan() -> None:
    assert sorted(PLANS) == [name for name in builtin_names() if "." not in name]


def test_the_cases_reach_every_kernel() -> None:
    reached = {step.kernel.partition("<")[0] for case in CASES for step in case.steps() if isinstance(step, KernelStep)}
    assert reached == {
        *("map1", "map2", "choose", "batchnorm", "fill", "transpose", "pad", "gather", "im2col", "conv2d_direct"),
        *("pool2d", "reduce_rows", "reduce_columns", "reduce_parts", "softmax_rows", "softmax_columns"),
        "layernorm_rows",
    }

"""The benchmark suite runs through on the cpu device: every part, and the one command. Speed is no matter of tests."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kaasq_bench.parts.cpu import THREADS
from kaasq_bench.parts.messaging import ONLY_FULL
from kaasq_bench.setting import BenchBroker, Setting
from kaasq_bench.suite import PARTS, cases_of, run_cases

CASES = [(part, case) for part in PARTS for case in cases_of(part)]
NO_GPU = "needs a GPU, and the device is cpu"
LEFT_OUT = {
    ("messaging", "no-op, classic, synced"): ONLY_FULL,
    ("messaging", "no-op, quorum, not synced"): ONLY_FULL,
    ("chains", "no-op, quorum, not synced"): ONLY_FULL,
    ("sharing", "several GPUs"): "needs several GPUs: 0 here",
    ("engine", "Jacobi"): NO_GPU,
    ("engine", "small kernels in flight"): NO_GPU,
    **{(part, case.name): NO_GPU for part, case in CASES if part in {"device", "builtins"}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One for all, since modules that one case compiled are there for the next."""
    made: Path = tmp_path_factory.mktemp("bench")
    return made


@pytest.fixture
def setting(own_rabbit, folder) -> Setting:
    return Setting(
        device="cpu",
        quick=True,
        rounds=1,
        seconds=0.1,
        broker=lambda: BenchBroker(own_rabbit.url, own_rabbit.version, own_rabbit.management),
        disk=folder,
        memory=folder,
        say=print,
    )


@pytest.mark.parametrize(("part", "case"), CASES, ids=[f"{part}-{case.name}" for part, case in CASES])
def test_every_case_runs_through_on_the_cpu_or_says_why_not(part, case, setting):
    report = run_cases(part, [case], setting)
    assert report.broken == {}
    if report.left_out:
        assert report.left_out == {case.name: LEFT_OUT[part, case.name]}
    else:
        assert report.rows
    for row in report.rows:
        assert all(math.isfinite(each) for each in (row.kaasq.low, row.kaasq.high))
        assert row.ratio is None or row.ratio.low >= 0


def test_the_command_prints_a_table_and_writes_figures_and_a_picture(tmp_path):
    arguments = [
        "-m",
        "kaasq_bench",
        "cpu",
        "--device",
        "cpu",
        "--quick",
        "--rounds",
        "2",
        "--json",
        tmp_path,
        "--pictures",
    ]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "what" in done.stdout
    assert "ratio (min-max)" in done.stdout
    assert "rows that need one are left out" in done.stdout
    assert "cpu: saxpy" in done.stderr
    (figures,) = tmp_path.glob("cpu-*.json")
    report = json.loads(figures.read_text())
    assert [row["peer"] for row in report["part"]["rows"]] == [*["NumPy"] * 6, THREADS]
    assert report["machine"]["cores"] >= 1
    assert report["broker"] is None  # this part needs none, so none was started
    assert figures.with_suffix(".png").stat().st_size > 1000


def test_what_is_no_part_is_refused_with_those_there_are():
    done = subprocess.run(
        [sys.executable, "-m", "kaasq_bench", "speed"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "'messaging'" in done.stderr

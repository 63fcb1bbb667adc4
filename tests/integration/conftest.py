"""A CPU device for all tests here, so that its runtime is compiled once; workers that die at chosen moments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kaasq_faults.deaths import Deaths
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.devices.cpu.module import CpuModule
from tests.support.cpu import FEATURE_NAMES, FEATURES, load


@pytest.fixture(scope="session")
def cpu(code_folder: Path) -> CpuDevice:
    device = CpuDevice(cache_dir=code_folder / "cpu")
    device.threads = max(2, device.threads)  # blocks side by side, even on one core
    return device


@pytest.fixture(scope="session")
def features(cpu: CpuDevice) -> CpuModule:
    return load(cpu, FEATURES, *FEATURE_NAMES)


@pytest.fixture
def deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deaths:
    """Says when processes of workers that are started from now on die."""
    made = Deaths(tmp_path / "deaths")
    for name, value in made.environment(os.environ).items():
        monkeypatch.setenv(name, value)
    return made

"""Runs the command in a test's own process, in a folder and store of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kaasq.cli import main

Run = Callable[..., tuple[int, str, str]]


def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAASQ_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("KAASQ_STORE_CAPACITY", str(1 << 26))
    monkeypatch.setenv("KAASQ_STORE_SYNC", "false")
    monkeypatch.setenv("KAASQ_TIMEOUT", "5")
    monkeypatch.setenv("KAASQ_TRACEABLE", "true")  # for `kaasq worker`, here in the tests' own process

    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run

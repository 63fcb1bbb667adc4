"""Logging: quiet as a library, whole lines as a program, and never the cause of a failure."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from kaasq.log import configure, get_logger


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    before, was = structlog.get_config(), structlog.is_configured()
    structlog.reset_defaults()
    yield
    if was:
        structlog.configure(**before)
    else:
        structlog.reset_defaults()


def test_a_program_that_configured_nothing_sees_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    log = get_logger()
    log.info("nobody asked")
    log.bind(device=0).warning("look", at="this")
    out, err = capsys.readouterr()
    assert out == ""
    assert "nobody asked" not in err
    assert "look" in err


def test_a_programs_own_configuration_counts(capsys: pytest.CaptureFixture[str]) -> None:
    log = get_logger()
    structlog.configure(processors=[structlog.processors.JSONRenderer()])
    log.info("mine")
    assert json.loads(capsys.readouterr().out) == {"event": "mine"}


def test_json_lines_hold_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    secret = "a tenant's data"
    try:
        raise ValueError(len(secret))
    except ValueError:
        get_logger().exception("broke")
    line = capsys.readouterr().err
    assert json.loads(line)["event"] == "broke"
    assert "tenant's data" not in line


@pytest.mark.parametrize("configured", [True, False])
def test_a_closed_standard_error_breaks_nothing(monkeypatch: pytest.MonkeyPatch, configured: bool) -> None:
    closed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", closed)
    if configured:
        configure("info", "json")
    log = get_logger()
    log.warning("before")
    closed.close()
    log.warning("after")


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    configure("info", "auto")
    get_logger().info("plain")
    assert "plain" in terminal.getvalue()
    assert "\x1b[" not in terminal.getvalue()

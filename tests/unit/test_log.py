"""Logging: quiet as a library, whole lines as a program, and never the cause of a failure."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
import structlog

from kaasq.log import configure, followed, get_logger


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


def test_processes_that_belong_to_a_program_log_as_it_does() -> None:
    assert followed() == ("warning", "console")  # it configured nothing
    configure("debug", "json")
    assert followed() == ("debug", "json")
    configure("error", "console")
    assert followed() == ("error", "console")


@pytest.mark.parametrize(("level", "told"), [(0, "debug"), (20, "info"), (30, "warning"), (50, "error")])
def test_a_programs_own_way_of_logging_is_followed_as_far_as_it_can_be_told(level: int, told: str) -> None:
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    assert followed() == (told, "console")


def test_that_of_the_standard_library_is_followed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    structlog.configure(
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[structlog.processors.JSONRenderer()]))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    monkeypatch.setattr(logging.getLogger("kaasq"), "level", logging.ERROR)
    assert followed() == ("error", "json")


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


@pytest.mark.parametrize("style", ["console", "json"])
def test_tenants_text_is_not_obeyed_by_a_terminal(capsys: pytest.CaptureFixture[str], style: str) -> None:
    configure("info", style)
    get_logger().info("request.failed", request="\x1b]0;mine\x07", error="one\x9b31m\ntwo")
    line = capsys.readouterr().err.removesuffix("\n")
    assert "mine" in line
    assert line.isprintable()

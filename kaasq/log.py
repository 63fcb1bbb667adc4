"""structlog, set up once per process: JSON lines or a coloured console on standard error."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

# Without local variables: they would put tenants' data and whole messages into the log.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))

LEVELS = ("debug", "info", "warning", "error")


def configure(level: str = "info", style: str = "auto") -> None:
    """Set up logging for a kaasq program. A library user never needs it: structlog's own set-up is respected."""
    if style == "auto":
        style = "console" if sys.stderr.isatty() else "json"
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if style == "json":
        rendering: list[Any] = [_TRACEBACKS, structlog.processors.JSONRenderer()]
    else:
        rendering = [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # its errors reach us as exceptions; its log repeats them


def quieten() -> None:
    """For kaasq as a library: unless the program set up structlog, print no line of ours below a warning.

    structlog's own default prints every line of everybody to standard output. Lines that are not kaasq's stay as they
    were; a later ``structlog.configure`` by the program replaces this.
    """
    if not structlog.is_configured():
        structlog.configure(processors=[_drop_ours, *structlog.get_config()["processors"]])


def _drop_ours(_logger: Any, method: str, event: Any) -> Any:
    if method in {"debug", "info"}:
        frame = sys._getframe()
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("structlog", __name__)):
            frame = frame.f_back
        if frame.f_globals.get("__name__", "").startswith("kaasq"):
            raise structlog.DropEvent
    return event

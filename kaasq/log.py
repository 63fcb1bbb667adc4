"""structlog for kaasq: programs configure it once; as a library it follows the program's own, or keeps quiet.

JSON lines or a coloured console, on standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from functools import cache
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

from kaasq.plain_text import LAID_OUT, harmless

Level = Literal["debug", "info", "warning", "error"]

# Without local variables: they would put tenants' data and whole messages into the log.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


class _StandardError:
    """Standard error as it is at each write. A log line that cannot be written must not break what it tells of."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()


_STANDARD_ERROR = cast(TextIO, _StandardError())
_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.StackInfoRenderer(),
]


def configure(level: str = "info", style: str = "auto") -> None:
    """Set up logging for a kaasq program: ``style`` json, console, or auto (console on a terminal)."""
    if style == "auto":
        style = "console" if sys.stderr.isatty() else "json"
    structlog.configure(
        processors=_processors(style),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: structlog.WriteLogger(_STANDARD_ERROR),
    )


def get_logger() -> FilteringBoundLogger:
    """A logger for a module of kaasq.

    Where the program configured structlog, that counts. Where it did not (structlog's default would print every line
    to standard output), warnings and errors go to standard error.
    """
    return cast(FilteringBoundLogger, _Logger())


def followed() -> tuple[Level, Literal["json", "console"]]:
    """Level and style for a process that belongs to this one, so that both write alike, as far as it can be told.

    The program decides how it logs, not kaasq: see ``get_logger``.
    """
    if not structlog.is_configured():
        return "warning", "console"
    log = structlog.get_logger().bind()
    # structlog's own, or the standard library's
    ask = getattr(log, "get_effective_level", None) or getattr(log, "getEffectiveLevel", None)
    least = ask() if callable(ask) else logging.INFO
    level: Level = "error" if least > logging.WARNING else "warning" if least > logging.INFO else "info"
    renderers = [*structlog.get_config()["processors"]]
    for handler in logging.getLogger().handlers:
        renderers += getattr(handler.formatter, "processors", ())  # structlog.stdlib.ProcessorFormatter's
    json = any(isinstance(each, structlog.processors.JSONRenderer) for each in renderers)
    return "debug" if least <= logging.DEBUG else level, "json" if json else "console"


class _Logger:
    """Decides at each use, since modules are imported before a program configures anything."""

    def __init__(self) -> None:
        self._configured = structlog.get_logger()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._configured if structlog.is_configured() else _quiet(), name)


@cache
def _quiet() -> Any:
    return structlog.wrap_logger(
        structlog.WriteLogger(_STANDARD_ERROR),
        processors=_processors("console"),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )


def _processors(style: str) -> list[Any]:
    if style == "json":
        timestamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        return [*_SHARED, timestamp, _TRACEBACKS, structlog.processors.JSONRenderer()]
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),  # https://no-color.org
        exception_formatter=structlog.dev.plain_traceback,
        pad_event_to=20,
    )
    return [*_SHARED, structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False), _harmless, console]


def _harmless(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Ids, names and messages are tenants' text, and terminals obey control characters. JSON escapes them anyway."""
    for key, value in line.items():
        if isinstance(value, str) and key != "stack":
            line[key] = harmless(value, keep=LAID_OUT)
    return line

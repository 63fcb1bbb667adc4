"""Every line of the log, whatever a test before has configured."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, MutableMapping
from typing import Any

import structlog


@contextlib.contextmanager
def log_lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """Collects them, of all levels; ``log_level`` and ``event`` are among the keys."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET))
    try:
        with structlog.testing.capture_logs() as lines:
            yield lines
    finally:
        structlog.reset_defaults()

"""Every built-in's function by name: ``function(numpy, operands, attrs)``, as ``kaasq.builtins.Builtin.run``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FUNCTIONS: dict[str, Callable[[Any, dict[str, Any], dict[str, Any]], None]] = {}

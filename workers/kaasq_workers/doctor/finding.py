"""What a check finds."""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """What one check found. ``mend`` says what to do, where something is to be done."""

    check: str
    state: Literal["ok", "warning", "broken"]
    found: str
    mend: str = ""

"""Sizes and times as people write and read them."""

from __future__ import annotations

import datetime as dt
import re

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_UNITS |= {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_FACTORS = {unit.lower(): factor for unit, factor in _UNITS.items()}


def counted(number: int, what: str) -> str:
    """``1 name``, ``2 names``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def parse_size(text: str) -> int:
    """Bytes from ``10GiB``, ``1.5 MB`` or ``65536``. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    factor = _FACTORS.get(found.group(2).lower()) if found else None
    if found is None or factor is None:
        raise ValueError(f"is no size: expected a number of bytes, or one with a unit ({', '.join(_UNITS)[2:]}): 10GiB")
    number = found.group(1)
    return round(float(number) * factor) if "." in number else int(number) * factor


def size(nbytes: int) -> str:
    """Bytes: ``1.5 KiB``."""
    if nbytes < 1024:
        return f"{nbytes} B"
    value = float(nbytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1023.95:  # what would read 1024.0
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def duration(us: float) -> str:
    """Microseconds, in three digits: ``840 µs``, ``12.3 ms``, ``2.41 s``."""
    if us < 999.5:
        return f"{us:.0f} µs"
    value, unit = (us / 1000, "ms") if us < 999_500 else (us / 1_000_000, "s")
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def age(seconds: float) -> str:
    """Seconds, rounded down to the largest unit: ``1 h``."""
    seconds = max(0.0, seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def moment(ms: int | None) -> str:
    """Milliseconds since the epoch, in this machine's zone: ``2026-11-26 14:05:09+01:00``."""
    if ms is None:
        return "at an unknown time"
    try:
        return dt.datetime.fromtimestamp(ms / 1000).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):  # a number that anybody may have written
        return "at no time of this calendar"

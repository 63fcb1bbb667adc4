"""Sizes and times for people."""

from __future__ import annotations

import datetime as dt

import pytest

from kaasq.units import age, duration, moment, parse_size, size


@pytest.mark.parametrize(
    ("nbytes", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (3 << 20, "3.0 MiB"),
        (64 << 30, "64.0 GiB"),
        (5 << 40, "5.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_size_reads_well(nbytes: int, words: str) -> None:
    assert size(nbytes) == words


@pytest.mark.parametrize(
    ("us", "words"),
    [
        (0, "0 µs"),
        (12, "12 µs"),
        (999, "999 µs"),
        (999.7, "1.00 ms"),
        (1000, "1.00 ms"),
        (9994, "9.99 ms"),
        (12_340, "12.3 ms"),
        (123_400, "123 ms"),
        (999_499, "999 ms"),
        (999_500, "1.00 s"),
        (2_410_000, "2.41 s"),
    ],
)
def test_duration_reads_well(us: float, words: str) -> None:
    assert duration(us) == words


@pytest.mark.parametrize(("seconds", "words"), [(-1, "0 s"), (59, "59 s"), (3700, "1 h"), (3 * 86400, "3 d")])
def test_age_reads_well(seconds: float, words: str) -> None:
    assert age(seconds) == words


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0),
        ("65536", 65536),
        ("10GiB", 10 << 30),
        (" 1.5 MiB ", 3 << 19),
        ("2 kB", 2000),
        ("2KB", 2000),
        ("4tb", 4 * 10**12),
        ("9007199254740993", 9007199254740993),  # no float has it
        ("7b", 7),
    ],
)
def test_sizes_are_read_with_and_without_a_unit(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "GiB", "10G", "-1", "1e9", "1 GiB 2", "0x10", "\uff11", "10 giga"])
def test_what_is_no_size_is_told_with_the_units(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no size: expected .* \(B, KiB, MiB, GiB, TiB, kB, MB, GB, TB\): 10GiB"):
        parse_size(text)


def test_a_moment_is_one_of_this_machines_zone() -> None:
    assert dt.datetime.fromisoformat(moment(1_795_700_000_999)).timestamp() == 1_795_700_000


@pytest.mark.parametrize(("ms", "words"), [(None, "at an unknown time"), (2**53, "at no time of this calendar")])
def test_what_is_no_moment_is_said(ms: int | None, words: str) -> None:
    assert moment(ms) == words

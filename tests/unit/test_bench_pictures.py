"""Which rows the benchmarks' pictures show, and drawing figures that were measured before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kaasq_bench.__main__ import main
from kaasq_bench.figures import Row, alone, at_least, at_most, compare
from kaasq_bench.machine import describe
from kaasq_bench.picture_rows import MOST_ROWS, by_peer, chosen, limits, more_is_better
from kaasq_bench.report import Report, encoded
from kaasq_bench.suite import PartReport


def row(what: str, peer: str = "echo", bar: Any = None, *, beside: float = 2.0, unit: str = "ms") -> Row:
    return compare(what, unit, [1.0, 2.0], peer, [beside, beside], bar)


def whats(rows: list[Row]) -> list[str]:
    return [f"{each.what} / {each.peer}" for each in rows]


def figures(*rows: Row, **changes: Any) -> bytes:
    part = PartReport(part="cpu", rows=list(rows), left_out={}, broken={}, took_s=1.0)
    about = {"date": "2026-01-01", "device": "cpu", "broker": "3.10.8", "rounds": 2, "window_s": 0.1, "quick": True}
    return encoded(Report(**{**about, "machine": describe(None), "part": part, **changes}))


def drawn(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["--draw", *map(str, arguments)])


def test_few_rows_are_all_shown_but_for_those_that_say_nothing_on_a_ratio():
    barred = alone("bytes copied", "bytes", [0.0], at_most(0.0, of="value"))
    rows = [row("a"), alone("b", "us", [1.0]), barred]
    assert chosen(rows) == [rows[0], barred]


MANY = [
    row("classic: p50 at 1", bar=at_most(1.0)),
    row("classic: p50 at 8"),
    row("classic: p50 at 1", "by hand"),
    row("quorum: p50 at 1"),
    row("quorum: p50 at 8"),
]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, ["classic: p50 at 1 / echo"]),
        (2, ["classic: p50 at 1 / echo", "classic: p50 at 1 / by hand"]),
        (3, ["classic: p50 at 1 / echo", "classic: p50 at 8 / echo", "classic: p50 at 1 / by hand"]),
    ],
)
def test_of_many_rows_those_with_bars_come_first_then_what_they_are_read_beside(most, expected):
    assert whats(chosen(MANY, most)) == expected


def test_what_does_not_fit_as_a_whole_is_left_out():
    subjects = [row(f"classic: figure {name}") for name in "abcdef"]
    assert whats(chosen([MANY[0], *subjects], 4)) == ["classic: p50 at 1 / echo"]


def test_of_many_rows_without_bars_the_greatest_sizes_are_shown():
    sizes = [row(f"{name}, {size}") for name in ("in", "out") for size in ("4.0 KiB", "1.0 MiB", "256.0 MiB")]
    assert whats(chosen(sizes, 3)) == ["in, 256.0 MiB / echo", "out, 256.0 MiB / echo"]


@pytest.mark.parametrize(("unit", "fastest"), [("GB/s", "nine"), ("ms", "one")])
def test_where_these_are_too_many_each_is_shown_beside_its_fastest_peer(unit, fastest):
    rows = [row(what, peer, beside=n, unit=unit) for what in "ab" for peer, n in (("one", 1.0), ("nine", 9.0))]
    assert whats(chosen(rows, 2)) == [f"a / {fastest}", f"b / {fastest}"]


def test_a_bar_that_has_a_mark_is_never_left_out():
    rows = [row(f"{n}", bar=at_most(1.0)) for n in range(MOST_ROWS + 1)]
    assert chosen([*rows, row("other")]) == rows


def test_of_bars_without_a_mark_those_that_are_met_again_and_again_are_shown_once_and_all_that_are_not():
    none = at_most(0.0, of="value")
    met = [alone(f"in, {n} KiB: copied", "bytes", [0.0], none) for n in range(5)]
    missed = [alone(f"out, {n} KiB: copied", "bytes", [1.0], none) for n in range(5)]
    assert chosen([*met, *missed], 6) == [met[-1], *missed]


def test_rows_are_grouped_by_peer_and_those_without_come_last():
    rows = [alone("x", "us", [1.0]), row("a"), row("b", "by hand"), row("c")]
    assert list(by_peer(rows).items()) == [("echo", [rows[1], rows[3]]), ("by hand", [rows[2]]), (None, [rows[0]])]


def test_a_bar_says_what_is_better_and_else_the_unit():
    assert not more_is_better(row("a", bar=at_most(1.0), unit="/s"))
    assert more_is_better(row("a", unit="GB/s"))
    assert not more_is_better(row("a", unit="us"))


def test_the_axis_holds_the_bars_and_1_and_a_ratio_of_nothing_does_not_reach_it():
    nothing = compare("hits", "", [0.0], "best possible", [0.5])
    low, high = limits([row("a", bar=at_least(50.0)), nothing])
    assert 0.3 < low < 0.5
    assert high > 50


def test_figures_of_another_machine_are_drawn_without_measuring(tmp_path):
    nothing = compare("hits", "", [0.0, 0.0], "best possible", [0.5, 0.5], at_least(0.6, of="value"))
    rows = [row("a", bar=at_most(0.5)), row("b", bar=at_least(0.5)), row("c"), nothing]
    (tmp_path / "cpu-x.json").write_bytes(figures(*rows))
    done = drawn(tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "cpu-x.png").read_bytes().startswith(b"\x89PNG")
    assert "cpu-x.png" in done.output


def test_only_the_named_parts_are_drawn(tmp_path):
    (tmp_path / "cpu-x.json").write_bytes(figures(row("a")))
    assert drawn(tmp_path, "messaging").exit_code == 0
    assert not list(tmp_path.glob("*.png"))


def test_figures_without_a_ratio_have_no_picture(tmp_path):
    (tmp_path / "cpu-x.json").write_bytes(figures(alone("a", "us", [1.0])))
    done = drawn(tmp_path)
    assert done.exit_code == 0
    assert "no ratio" in done.output
    assert not list(tmp_path.glob("*.png"))


def test_what_is_no_report_is_named_with_what_to_do_and_the_others_are_drawn(tmp_path):
    (tmp_path / "a.json").write_text('{"gemm": []}')
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "cpu-x.json").write_bytes(figures(row("a")))
    done = drawn(tmp_path)
    assert done.exit_code == 1
    assert "a.json: not what the suite writes now (Object missing required field `date`)" in done.output
    assert "b.json: not what" in done.output
    assert "measure it again with --json" in done.output
    assert (tmp_path / "cpu-x.png").exists()


def test_a_folder_without_figures_is_refused(tmp_path: Path):
    done = drawn(tmp_path)
    assert done.exit_code == 2
    assert "no figures" in done.output

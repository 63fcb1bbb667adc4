"""What `kaasq bench` chooses, shows and writes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

import kaasq_bench.parts
from kaasq_bench import bars
from kaasq_bench.brief import PARTS, Brief, briefs, shown
from kaasq_bench.figures import Bar, alone, at_least, at_most, compare
from kaasq_bench.machine import describe
from kaasq_bench.parts.pressure import BARRED, HALF, Passes, best_hit_rate, costs
from kaasq_bench.report import BriefReport, encoded, rich_report, summary
from kaasq_bench.setting import NotHere
from kaasq_bench.suite import Case, PartReport

BARRED_ROW = compare("a", "ms", [1.0, 2.0], "peer", [2.0, 2.0], at_most(0.6))
IDLE, BUSY = (msgspec.structs.replace(describe(None), cores=4, load=load) for load in (2.2, 3.1))
PLAIN_ROW = alone("b", "us", [3.0])


def part(**changes) -> PartReport:
    return PartReport(**{"part": "cpu", "rows": [], "left_out": {}, "broken": {}, "took_s": 1.0, **changes})


def text(reports, machine=IDLE, width=150) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(rich_report(reports, machine, width))
    return file.getvalue()


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("pool", [False, True])
def test_the_short_version_takes_about_a_minute_and_has_something_of_each_part(pool, gpu):
    chosen = briefs(PARTS, pool=pool, gpu=gpu)
    assert [each.part for each in chosen] == sorted((each.part for each in chosen), key=PARTS.index)
    assert {each.part for each in chosen} == set(PARTS)
    assert 40 <= sum(each.about_s for each in chosen) <= 100


def test_only_the_named_parts_are_run():
    assert {each.part for each in briefs(["cold", "cpu"], pool=False, gpu=False)} == {"cold", "cpu"}


def test_a_pool_that_is_served_is_measured_instead_of_workers_of_our_own():
    names = [each.case.name for each in briefs(["messaging"], pool=True, gpu=False)]
    assert names[0] == "no-op on your pool"
    assert not any("classic" in each or "quorum" in each for each in names)


@pytest.mark.parametrize(("barred", "expected"), [(True, ["a"]), (False, ["a", "b"])])
def test_rows_without_a_bar_are_shown_where_they_are_of_interest(barred, expected):
    case = shown(Brief("cpu", Case("x", lambda _: iter([BARRED_ROW, PLAIN_ROW])), 1, barred=barred))
    assert [row.what for row in case.measure(None)] == expected


def test_a_case_that_has_no_bar_here_says_so():
    case = shown(Brief("cpu", Case("x", lambda _: iter([PLAIN_ROW])), 1))
    with pytest.raises(NotHere, match="no bar"):
        list(case.measure(None))


def test_the_table_has_figure_peer_ratio_spread_bar_and_verdict():
    missed = compare("c", "/s", [1.0], "peer", [4.0], at_least(0.6))
    lines = text([part(rows=[BARRED_ROW, missed, PLAIN_ROW])]).splitlines()
    (first,) = [line for line in lines if line.strip().startswith("a ")]
    assert "1.5 ms" in first
    assert "2 ms peer" in first
    assert "0.75 (0.5-1)" in first
    assert "<= 0.6x" in first
    assert "not met" in first
    assert any(line.strip().startswith("b ") and "met" not in line for line in lines)


def test_a_narrow_terminal_has_names_whole_above_figures_in_columns():
    missed = compare("no-op, classic, synced, 64 under way", "us", [1234.0], "worker by hand", [500.0], at_most(1.2))
    met = compare("c", "ms", [1.0], "a peer with a name that needs more room than there is", [2.0], at_most(0.6))
    lines = text([part(rows=[missed, met])], BUSY, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    figures = lines[lines.index("  no-op, classic, synced, 64 under way") + 1]
    for words in ("1,234 us", "500 us worker by hand", "2.47 (2.47-2.47)", "<= 1.2x", "not met, busy"):
        assert words in figures
    other = lines[lines.index("  c") + 1]
    assert other.index("<=") == figures.index("<=") == lines[0].index("bar")


@pytest.mark.parametrize("width", [80, 150])
def test_what_is_left_out_stands_below_the_table_over_the_whole_width(width):
    reason = "needs a RabbitMQ: apt-get install rabbitmq-server"
    lines = text(
        [part(rows=[PLAIN_ROW], left_out={"no-op": reason}), part(rows=[BARRED_ROW])], width=width
    ).splitlines()
    assert lines[-1].rstrip() == f"cpu: no-op: left out: {reason}"


def test_a_bar_that_a_busy_machine_misses_is_said_to_tell_nothing():
    missed = compare("c", "/s", [1.0], "peer", [4.0], at_least(0.6))
    met = compare("c", "/s", [4.0], "peer", [4.0], at_least(0.6))
    assert "not met, busy" in text([part(rows=[missed])], BUSY)
    assert "busy" not in text([part(rows=[missed])], IDLE)
    assert "0 of 1 bars met. Two cores were not free (load 3.1 on 4)" in summary([part(rows=[missed])], BUSY)
    assert summary([part(rows=[met])], BUSY) == "1 of 1 bars met."


def test_what_is_left_out_and_what_broke_are_told_with_their_reasons():
    told = text([part(left_out={"x": "needs [this]"}, broken={"y": "Boom: it did"})])
    assert "left out: needs [this]" in told
    assert "broken: Boom: it did" in told


def test_the_summary_counts_the_bars_that_are_met():
    met = compare("c", "/s", [4.0], "peer", [4.0], at_least(0.6))
    assert summary([part(rows=[BARRED_ROW, met, PLAIN_ROW])], IDLE) == "1 of 2 bars met."
    assert summary([part(rows=[PLAIN_ROW])], IDLE) == "Nothing here has a bar."


def test_the_json_holds_the_machine_what_was_measured_on_and_the_rows():
    report = BriefReport(
        date="2026-01-01", machine=describe(None), device="cpu", on="x", parts=[part(rows=[PLAIN_ROW])]
    )
    read = json.loads(encoded(report))
    assert read["on"] == "x"
    assert read["parts"][0]["rows"][0]["kaasq"]["median"] == 3.0
    assert msgspec.json.decode(encoded(report), type=BriefReport) == report


def test_every_bar_is_on_a_row_of_some_part():
    source = "".join(each.read_text() for each in Path(kaasq_bench.parts.__path__[0]).glob("*.py"))
    unused = [name for name, bar in vars(bars).items() if isinstance(bar, Bar) and f"bars.{name}" not in source]
    assert unused == []


def test_a_cache_that_forgets_all_of_a_circle_falls_off_the_cliff_and_one_that_keeps_a_part_does_not():
    hits, misses = [10.0] * 8, [100.0] * 8
    keeping, forgetting = Passes(hits, misses[:2]), Passes([], [*misses, 100.0, 100.0])
    perfect = costs([Passes(hits, []), keeping]).per_s(best_hit_rate(BARRED))
    assert keeping.per_s >= bars.NO_CLIFF.limit * perfect
    assert forgetting.per_s < bars.NO_CLIFF.limit * perfect
    assert best_hit_rate(HALF) == 1.0

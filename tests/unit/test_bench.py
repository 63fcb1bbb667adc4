"""The decisions of the benchmark suite: ratios, bars, turns, and what is kept of a case that breaks."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kaasq import local
from kaasq.errors import BrokerLost, KaasqError
from kaasq.settings import Settings
from kaasq_bench.answers import WrongAnswer, check
from kaasq_bench.figures import Row, Spread, alone, at_least, at_most, compare
from kaasq_bench.graphs import chain_arrays, halving, jacobi, product_chain, small_launches
from kaasq_bench.host_copies import counted
from kaasq_bench.loads import Load, Meter, Window
from kaasq_bench.parts.workflows import FanOut, Halvings, InARow
from kaasq_bench.rounds import interleaved
from kaasq_bench.setting import NotHere, Setting
from kaasq_bench.suite import PARTS, Case, PartReport, cases_of, run_cases
from kaasq_bench.table import number, table, verdict

N = 1 << 12


def no_broker() -> Any:
    raise AssertionError("this part needs no broker")


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(
        device="cpu",
        quick=True,
        rounds=2,
        seconds=0.01,
        broker=no_broker,
        disk=tmp_path,
        memory=None,
        say=lambda _: None,
    )


def report(*rows: Row, **changes: Any) -> PartReport:
    return PartReport(**{"part": "p", "rows": list(rows), "left_out": {}, "broken": {}, "took_s": 1.0, **changes})


def test_a_ratio_is_taken_round_by_round():
    row = compare("x", "ms", [1.0, 4.0, 9.0], "peer", [1.0, 2.0, 3.0])
    assert row.ratio == Spread(median=2.0, low=1.0, high=3.0)
    assert row.kaasq.median / row.beside.median == 2.0


def test_sides_with_unequal_rounds_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        compare("x", "ms", [1.0, 2.0], "peer", [1.0])


@pytest.mark.parametrize(
    ("bar", "met"),
    [(at_most(2.0), True), (at_most(1.9), False), (at_least(2.0), True), (at_least(2.1), False)],
)
def test_a_bar_looks_at_the_median_ratio(bar, met):
    row = compare("x", "ms", [2.0, 4.0, 900.0], "peer", [1.0, 2.0, 3.0], bar)
    assert bar.met(row) is met
    assert verdict(row).endswith(": met" if met else ": NOT met")


def test_a_bar_may_look_at_kaasqs_own_figure():
    row = alone("hit rate", "", [0.5, 0.7], at_least(0.6, of="value"))
    assert row.bar.met(row)


def test_a_bar_on_a_ratio_without_a_peer_is_a_mistake():
    with pytest.raises(ValueError, match="no peer"):
        at_most(1.0).met(alone("x", "us", [1.0]))


def test_sides_take_turns_and_another_one_begins_each_round():
    order: list[str] = []

    def side(name: str) -> Any:
        def run() -> int:
            order.append(name)
            return len(order)

        return run

    given = interleaved(3, {name: side(name) for name in "abc"})
    assert "".join(order) == "abcbcacababc"
    assert given == {"a": [6, 8, 10], "b": [4, 9, 11], "c": [5, 7, 12]}  # without the first round


def test_percentiles_are_in_milliseconds_and_throughput_per_second():
    load = Load.of([0.001 * i for i in range(1, 101)], elapsed_s=0.5)
    assert load == pytest.approx((50.5, 99.01, 200.0))


def test_a_window_lasts_until_as_many_have_ended_as_are_under_way():
    meter = Meter(3, seconds=0)
    assert [meter.ended(time.perf_counter()) for _ in range(4)] == [True, True, False, False]
    load = meter.load()
    assert 0 < load.p50_ms < 1000
    assert load.per_s > 0


def test_a_request_that_fails_ends_the_window():
    futures: list[Future[None]] = [Future() for _ in range(4)]
    given = iter(futures)
    futures[0].set_result(None)
    futures[1].set_exception(RuntimeError("failed"))
    with pytest.raises(RuntimeError, match="failed"):
        Window(lambda: next(given), 2, seconds=60).run()


def test_a_case_that_breaks_keeps_its_rows_and_lets_the_others_run(setting):
    def breaks(_: Setting) -> Any:
        yield alone("before", "", [1.0])
        raise RuntimeError("told\nand the rest of it")

    def not_here(_: Setting) -> Any:
        raise NotHere("needs a GPU")

    cases = (Case("one", breaks), Case("two", not_here), Case("three", lambda _: [alone("after", "", [2.0])]))
    given = run_cases("fake", cases, setting)
    assert [row.what for row in given.rows] == ["before", "after"]
    assert given.broken == {"one": "RuntimeError: told"}
    assert given.left_out == {"two": "needs a GPU"}
    text = table(given)
    assert "BROKEN: one: RuntimeError: told" in text
    assert "left out: two: needs a GPU" in text


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("ending", [(), (KaasqError,)])
def test_an_interruption_counts_whatever_putting_things_away_fails_with(setting, stop, ending):
    def interrupted(_: Setting) -> Any:
        try:
            raise stop
        finally:
            try:
                raise BrokerLost("the connection was amid something")
            finally:
                raise BrokerLost("and so is this one")
        yield

    with pytest.raises(stop):
        run_cases("fake", (Case("one", interrupted),), setting, ending=ending)


def test_the_table_has_the_bars_verdict_beside_the_ratio():
    lines = table(report(compare("saxpy", "ms", [3.0], "echo", [2.0], at_most(1.6)))).splitlines()
    assert [each.strip() for each in lines[-1].split("|")] == [
        "saxpy",
        "3 ms",
        "2 ms echo",
        "1.5 (1.5-1.5)",
        "<= 1.6x: met",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.012345, "0.0123"), (99.96, "100"), (100, "100"), (1234567, "1,234,567")]
)
def test_numbers_have_three_digits_or_more(value, text):
    assert number(value) == text


def test_every_part_has_cases_and_can_be_loaded_without_a_gpu():
    for part in PARTS:
        names = [case.name for case in cases_of(part)]
        assert names
        assert len(names) == len(set(names))


def test_reports_survive_json():
    given = report(compare("a", "ms", [1.0, 2.0], "peer", [2.0, 2.0], at_most(1.0)))
    assert msgspec.json.decode(msgspec.json.encode(given), type=PartReport) == given


def test_a_wrong_answer_is_no_figure():
    check("peer", {"x": np.ones(3)}, {"x": np.ones(3) + 1e-5})
    with pytest.raises(WrongAnswer, match="'x'"):
        check("peer", {"x": np.ones(3)}, {"x": np.ones(3) + 0.1})


def test_what_is_measured_computes_what_it_says():
    solver = jacobi(64, 60)
    weights, x = chain_arrays(3, 32, 4, seed=1)
    with local(device="cpu") as client:
        solution = client.run(solver.graph(), bind={**solver.resident, **solver.given})["x"]
        halves = client.run(small_launches(10).graph())["x"]
        product = client.run(product_chain(3, 32, 4), bind={f"w{i}": w for i, w in enumerate(weights)}, x=x)["out"]
    np.testing.assert_allclose(solver.resident["a"].T @ solution, solver.given["b"], rtol=1e-3)
    np.testing.assert_allclose(halves, 2 - 2.0**-9)
    np.testing.assert_allclose(product, weights[0] @ weights[1] @ weights[2] @ x, rtol=1e-3, atol=1e-4)


def test_the_workflows_that_are_measured_compute_what_they_say():
    x = np.ones(N, np.float32)
    with local(device="cpu") as client:
        assert InARow(client, 3).run() == 1.0
        assert FanOut(client, 5).run() == 5.0
        fan = FanOut(client, 5, N)
        assert [fan.run(), fan.run()] == [5.0 * N] * 2
        chain = Halvings(client, 3, 3 * x, N)
        assert set(chain.run()) == {2.125}
        took = chain.took()
    assert 0 <= took.kernel <= took.device <= took.step


def test_what_a_device_copies_through_the_host_is_counted(setting):
    x = np.ones(N, np.float32)
    with counted(setting) as copies:
        with local(device="cpu") as client:
            once = copies.during(Halvings(client, 1, x, N).run)
            in_a_row = copies.during(Halvings(client, 3, x, N).run)
        with local(device="cpu", settings=Settings(chain_spill=0.0)) as client:
            one_by_one = copies.during(Halvings(client, 3, x, N).run)
    after = copies.nbytes
    with local(device="cpu") as client:
        client.run(halving(N), x=x)
    assert once >= 2 * x.nbytes  # in and out
    assert in_a_row == once
    assert one_by_one >= once + 4 * x.nbytes
    assert copies.nbytes == after

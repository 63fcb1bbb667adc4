"""The trace replay example: what it reads, what it publishes when, and what it says of that."""

from __future__ import annotations

import asyncio
import csv
import json
import re
from pathlib import Path

import pytest

import kaasq
from examples.trace_replay.__main__ import main
from examples.trace_replay.arrivals import Arrival, TraceError, read
from examples.trace_replay.generate import FILE, as_csv, mixed
from examples.trace_replay.jobs import padded
from examples.trace_replay.replay import Outcome, replay, report


def test_the_trace_that_comes_along_is_what_its_seed_gives() -> None:
    assert FILE.read_text() == as_csv(mixed())
    arrivals = read(FILE)
    assert arrivals == mixed()
    assert {each.kind for each in arrivals} == {"interactive", "large"}


def test_lines_of_json_are_read_in_the_order_of_their_times(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"arrival_s": 2, "kind": "large", "size": 9, "user": "ann"}\n\n'
        '{"arrival_s": 0.5, "kind": "interactive", "size": 7}\n'
    )
    assert read(trace) == [Arrival(0.5, "interactive", 7), Arrival(2.0, "large", 9)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "its header lacks arrival_s, kind, size"),
        ("a.csv", "arrival_s,size\n1,2\n", "its header lacks kind"),
        ("a.csv", "arrival_s,kind,size\n", "has no arrivals"),
        ("a.csv", "arrival_s,kind,size\n0,large,7\nsoon,large,7\n", "a.csv:3: expected a number of seconds"),
        ("a.csv", "arrival_s,kind,size\n0,large\n", "a.csv:2: expected a number of seconds"),
        ("a.csv", "arrival_s,kind,size\n-1,large,7\n", "a.csv:2: expected seconds from 0 on, given -1"),
        ("a.csv", "arrival_s,kind,size\nnan,large,7\n", "a.csv:2: expected seconds from 0 on, given nan"),
        ("a.csv", "arrival_s,kind,size\n1,huge,7\n", "a.csv:2: expected interactive or large, given 'huge'"),
        ("a.csv", "arrival_s,kind,size\n1,large,0\n", "a.csv:2: expected a size from 1 to 67108864, given 0"),
        ("a.jsonl", '{"arrival_s": 1\n', "a.jsonl:1: is no JSON"),
        ("a.jsonl", "\n[1]\n", "a.jsonl:2: expected an object"),
    ],
)
def test_a_trace_that_is_wrong_is_refused_with_the_line(name: str, text: str, message: str, tmp_path, capsys) -> None:
    trace = tmp_path / name
    trace.write_text(text)
    with pytest.raises(TraceError, match=re.escape(message)):
        read(trace)
    assert main([str(trace)]) == 2
    assert message in capsys.readouterr().err


def test_sizes_are_rounded_up_to_powers_of_two() -> None:
    assert [padded(each) for each in (1, 64, 65, 1024, 1025)] == [64, 64, 128, 1024, 2048]


def test_jobs_are_published_when_they_are_due_whether_or_not_others_have_ended() -> None:
    trace = [Arrival(0.0, "large", 1 << 20), *(Arrival(0.02 * number, "interactive", 100) for number in range(10))]

    async def run() -> list[Outcome]:
        async with kaasq.local_async(device="cpu") as client:
            return await replay(client, trace, speed=2.0)

    outcomes = asyncio.run(run())
    assert [each.word for each in outcomes] == ["ok"] * 11
    assert [each.due_s for each in outcomes] == [each.at_s / 2 for each in trace]
    assert all(each.due_s <= each.published_s < each.ended_s for each in outcomes)


def outcome(kind: str, due_s: float, took_s: float, word: str = "ok") -> Outcome:
    return Outcome(Arrival(due_s, kind, 256), due_s, due_s, due_s + took_s, word)


def test_the_report_has_percentiles_of_each_kind_and_says_what_failed() -> None:
    quick = [outcome("interactive", number / 100, (number + 1) / 1000) for number in range(100)]
    said = report([*quick, outcome("large", 1.0, 2.0), outcome("large", 0.5, 9.0, "deadline_exceeded")], speed=2.0)
    lines = {line.split()[0]: re.split(r"  +", line)[1:] for line in said.splitlines()}
    assert said.startswith("102 jobs offered over 1.00 s, at 2 times the trace's speed")
    assert lines["interactive"] == [
        "100",
        "100.0",
        "1.0 KiB",
        "100",
        "0",
        "50.5 ms",
        "90.1 ms",
        "99.0 ms",
        "100 ms",
    ]
    assert lines["large"] == ["2", "2.0", "1.0 KiB", "1", "1", "2.00 s", "2.00 s", "2.00 s", "2.00 s"]
    assert "failed: 1 deadline_exceeded" in said


def test_it_runs_as_a_program_and_writes_a_line_for_each_job(tmp_path: Path, capsys) -> None:
    trace, output = tmp_path / "trace.jsonl", tmp_path / "jobs.csv"
    trace.write_text("\n".join(json.dumps({"arrival_s": n / 50, "kind": "interactive", "size": 64}) for n in range(5)))
    assert main([str(trace), "--device", "cpu", "--output", str(output)]) == 0
    assert re.search(r"interactive +5 ", capsys.readouterr().out)
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert [row["outcome"] for row in rows] == ["ok"] * 5

"""What the auditor calls a breach, and what it does not. Each of these would be a bug in kaasq."""

from __future__ import annotations

import pytest

from kaasq_faults.audit import Stored, Verdict, audit
from kaasq_faults.campaign import gap_s
from kaasq_faults.leaders import longest_gap
from kaasq_faults.ledger import Asked, Book, Ended, Entry, Finished, Known, Started, read
from kaasq_faults.schedule import schedule

START, FINISH = Started(1, resumes=False), Finished(1)
ASKED = Asked(key="k", want=4.0, name="own/k", at=0.0)
KNOWN = Known("k", "id")
OK = Ended(key="k", end="ok", at=1.0)
DONE = Stored({"own/k": (1, 4.0)}, {"id": "ok"})
NOTHING = Stored({}, {})
FLOW = Asked(key="f", want=2.0, steps={"a": 1.0, "b": 2.0}, id="f", at=0.0)
FLOW_OK = Ended(key="f", end="ok", at=1.0)
STEPS_DONE = Stored({"a": (1, 1.0), "b": (1, 2.0)}, {"f": "ok"})


def judged(*entries: Entry, stored: Stored = DONE, **allowed: int | None) -> Verdict:
    return audit({"c": [START, *entries, FINISH]}, stored, allowed)


def test_a_request_done_once_and_told_so_is_no_breach():
    verdict = judged(ASKED, KNOWN, OK)
    assert verdict.problems == []
    assert (verdict.asked, verdict.ends["ok"]) == (1, 1)


def test_a_workflow_each_of_whose_steps_was_done_once_is_no_breach():
    verdict = judged(FLOW, FLOW_OK, stored=STEPS_DONE)
    assert verdict.problems == []
    assert (verdict.flows, verdict.steps) == (1, 2)


@pytest.mark.parametrize(
    ("entries", "stored", "words"),
    [
        ([ASKED, KNOWN], DONE, "told nothing"),
        ([ASKED, KNOWN, OK, OK], DONE, "told ok, ok"),
        ([ASKED, KNOWN, OK], NOTHING, "version 0"),
        ([ASKED, KNOWN, OK], Stored({"own/k": (2, 4.0)}, {"id": "ok"}), "done 2 times"),
        ([ASKED, KNOWN, OK], Stored({"own/k": (1, 5.0)}, {"id": "ok"}), "kept 5.0, not 4.0"),
        ([ASKED, KNOWN, OK], Stored({"own/k": (1, 4.0)}, {"id": "kernel_failed"}), "the store says kernel_failed"),
        ([ASKED, KNOWN, Ended(key="k", end="cancelled", at=1.0)], DONE, "told cancelled"),
        ([ASKED, KNOWN, Ended(key="k", end="ok", right=False, at=1.0)], DONE, "wrong answer"),
        ([ASKED, KNOWN, Ended(key="k", end="internal", at=1.0)], NOTHING, "1 requests ended with internal, 0 may"),
        ([ASKED, KNOWN, Started(2, resumes=False)], Stored({}, {"id": "ok"}), "version 0"),
        ([ASKED, KNOWN, Started(2, resumes=False)], Stored({"own/k": (1, 4.0)}, {}), "outcome None"),
        ([ASKED, KNOWN, Started(2, resumes=True)], DONE, "told nothing"),
        ([FLOW, FLOW_OK], Stored({"a": (1, 1.0)}, {"f": "ok"}), "keeps b was done 0 times"),
        ([FLOW, FLOW_OK], Stored({"a": (1, 1.0), "b": (2, 2.0)}, {"f": "ok"}), "keeps b was done 2 times"),
        ([FLOW, FLOW_OK], Stored({"a": (1, 1.0), "b": (1, 1.0)}, {"f": "ok"}), "keeps b kept 1.0, not 2.0"),
        ([FLOW], STEPS_DONE, "told nothing"),
        ([FLOW, FLOW_OK, FLOW_OK], STEPS_DONE, "told ok, ok"),
    ],
)
def test_what_is_lost_doubled_wrong_or_told_otherwise_is_a_breach(entries, stored, words):
    assert words in " ".join(judged(*entries, stored=stored, cancelled=None).problems)


def test_a_killed_clients_request_is_done_once_or_not_at_all():
    assert judged(ASKED, KNOWN, Started(2, resumes=False)).problems == []
    assert judged(ASKED, KNOWN, Started(2, resumes=False), stored=NOTHING).problems == []


def test_shared_names_have_as_many_versions_as_requests_completed():
    shared = Asked(key="k", want=4.0, name="shared", shared=True, at=0.0)
    assert judged(shared, KNOWN, OK, stored=Stored({"shared": (1, 4.0)}, {"id": "ok"})).problems == []
    assert "version 2" in judged(shared, KNOWN, OK, stored=Stored({"shared": (2, 4.0)}, {"id": "ok"})).problems[0]


def test_an_error_that_may_come_so_often_is_none_and_more_often_is_one():
    failed = [ASKED, KNOWN, Ended(key="k", end="kernel_failed", at=1.0)]
    stored = Stored({}, {"id": "kernel_failed"})
    assert judged(*failed, stored=stored, kernel_failed=1).problems == []
    assert judged(*failed, stored=stored, kernel_failed=0).problems != []


def test_a_client_that_did_not_finish_is_a_breach():
    assert audit({"c": [START]}, NOTHING, {}).problems == ["client c did not finish"]


def test_the_ledger_gives_back_what_was_written_but_for_a_line_that_is_not_whole(tmp_path):
    path = tmp_path / "ledger"
    with Book(path) as book:
        for entry in (START, ASKED, KNOWN, OK, FINISH):
            book.write(entry)
    path.write_bytes(path.read_bytes() + b'{"type":"asked","ke')
    assert list(read(path)) == [START, ASKED, KNOWN, OK, FINISH]


def test_a_schedule_is_the_same_for_the_same_seed_and_has_all_faults():
    made = schedule("seed", {"a": 3, "b": 2}, 1.0)
    assert made == schedule("seed", {"a": 3, "b": 2}, 1.0)
    assert made != schedule("other", {"a": 3, "b": 2}, 1.0)
    assert sorted(each.fault for each in made) == ["a", "a", "a", "b", "b"]
    assert all(0.5 <= each.pause_s <= 1.5 for each in made)


def test_the_gap_ends_where_the_throughput_is_back_and_stays():
    steady = [each / 10 for each in range(100)]
    assert gap_s(steady, 5.0, 6.0, 10.0, 10.0) == 0.0
    late = [each for each in steady if not 5.0 < each < 7.5]
    assert 0.25 <= gap_s(late, 5.0, 6.0, 10.0, 10.0) <= 1.5
    assert gap_s([each for each in steady if each < 6.5], 5.0, 6.0, 10.0, 10.0) == float("inf")


def test_the_longest_gap_is_seen_also_where_nothing_comes_any_more():
    ends = [0.0, 1.0, 2.0, 5.0, 6.0]
    assert longest_gap(ends, 1.5, 5.5) == 3.0
    assert longest_gap(ends, 6.5, 10.0) == 4.0
    assert longest_gap([], 1.0, 3.0) == 2.0

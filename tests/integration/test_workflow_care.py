"""Workflows are looked after: what was lost, what they still need, what cannot be read, what goes in the end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kaasq import codec
from kaasq.flows.model import From
from kaasq.messages import Stored
from kaasq_storage import BufferStore, Outcome
from kaasq_workers.flows.records import Head
from kaasq_workers.overdue import overdue
from tests.support.flow_system import TENANT, System, add, flow, lose_a_step, ones, out
from tests.support.waiting import until


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with System(tmp_path / "store") as system:
        yield system


def test_a_step_whose_message_was_lost_is_published_again_after_a_while(system: System) -> None:
    with system.raw() as raw:
        lose_a_step(system, raw, flow(add("a", From(input="x")), add("b", out("a"))), workflow_patience=0.3)
        assert raw.reply("f").status == "ok"


def test_what_a_running_workflow_needs_is_kept_for_longer(system: System) -> None:
    given, _ = system.store.put(TENANT, ones(), ttl_s=6.0)
    spec = flow(add("a", From(input="x")), add("b", out("a"), From(input="x")))
    with system.raw() as raw:
        lose_a_step(system, raw, spec, before=1, x=Stored(ref=given.ref), result_ttl=8.0, inline_limit=0)
        until(lambda: system.store.outcome(TENANT, "f+1"))
        outcome = system.store.outcome(TENANT, "f+1")
        assert outcome is not None
        made = codec.decode_reply(outcome.reply, codec.MSGPACK).outputs["out"].ref
        before = outcome.expires
        assert given.expires is not None

        def kept() -> bool:
            outcome = system.store.outcome(TENANT, "f+1")
            assert outcome is not None
            objects = [system.store.lookup(TENANT, ref=ref) for ref in (made, given.ref)]
            return outcome.expires > before and all((each.expires or 0) > before for each in objects)

        until(kept)
        system.stop()
        system.start(workflow_patience=0.3, result_ttl=8.0)
        with system.store.transaction() as transaction:
            transaction.notes(TENANT, "f").remind(time.time())
        assert raw.reply("f").status == "ok"


def test_what_a_workflow_gives_is_there_as_long_as_its_outcome(system: System) -> None:
    with system.raw() as raw:
        spec = flow(add("a", From(input="x")))
        lose_a_step(system, raw, spec, before=1, result_ttl=60.0, inline_limit=0)  # the message that it is to conclude
        first = system.store.outcome(TENANT, "f+1")
        assert first is not None
        until(lambda: time.time() > first.created + 0.5)
        with system.store.transaction() as transaction:
            transaction.notes(TENANT, "f").remind(time.time())
        reply = raw.reply("f")
        outcome, made = system.store.outcome(TENANT, "f"), system.store.lookup(TENANT, ref=reply.outputs["out"].ref)
        assert outcome is not None
        assert made.expires is not None
        assert made.expires == pytest.approx(outcome.expires, abs=0.1)
        assert made.expires > made.created + 60.4  # not when its step said


def test_what_stands_still_of_a_tenant_without_an_executor_is_looked_after(system: System) -> None:
    with system.raw() as raw:
        lose_a_step(system, raw, flow(add("a", From(input="x")), add("b", out("a"))), workflow_patience=0.3)
        system.stop()
        system.start(isolate=True, isolation="tenant", workflow_patience=0.3)  # nobody asks for anything
        assert raw.reply("f").status == "ok"


def test_whose_workflows_stand_still_is_told_without_opening_the_store(system: System) -> None:
    assert overdue(system.folder) == {}
    with system.store.transaction() as transaction:
        for tenant, name, due in (("ada", "f", 0.0), ("ada", "g", 1.0), ("bob", "f", 2.0), ("eve", "f", 3600.0)):
            transaction.notes(tenant, name).remind(time.time() - 10 + due)
    assert overdue(system.folder) == {"ada": "f", "bob": "f"}
    assert overdue(system.folder / "none") == {}
    broken = system.folder.parent / "broken"
    broken.mkdir()
    (broken / "other").write_bytes(b"x")
    with pytest.raises(subprocess.CalledProcessError):
        overdue(broken)


def test_a_workflow_whose_definition_is_gone_ends_as_failed(system: System) -> None:
    with system.raw() as raw:
        lose_a_step(system, raw, flow(add("a", From(input="x")), add("b", out("a"))))
        system.stop()
        (definition,) = [each.ref for each in system.store.objects(TENANT)]
        system.store.delete(TENANT, ref=definition)
        with system.store.transaction() as transaction:
            transaction.notes(TENANT, "f").remind(time.time())
        system.start()
        deadline = time.monotonic() + 20
        while system.store.outcome(TENANT, "f") is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        reply = raw.ask("f", "wait")
        assert (reply.status, reply.error and reply.error.code) == ("error", "internal")


def test_cancelling_a_workflow_whose_definition_is_gone_ends_it_and_holds_up_no_other_cancellation(
    system: System,
) -> None:
    with system.raw() as raw:
        lose_a_step(system, raw, flow(add("a", From(input="x")), add("b", out("a"))))
        system.stop()
        (definition,) = [each.ref for each in system.store.objects(TENANT)]
        system.store.delete(TENANT, ref=definition)
        raw.cancel("f")
        raw.cancel("other")
        system.start()
        until(lambda: system.store.outcome(TENANT, "f") and system.store.outcome(TENANT, "other"))
        assert raw.ask("f", "wait").status == "error"


def test_records_that_cannot_be_read_hold_up_nobody(system: System) -> None:
    with system.store.transaction() as transaction:
        transaction.notes(TENANT, "broken").put(b"h", b"\xc1")
        transaction.notes(TENANT, "broken").remind(time.time())
    with system.raw() as raw:
        lose_a_step(system, raw, flow(add("a", From(input="x"))), workflow_patience=0.3)
        assert raw.reply("f").status == "ok"  # so workflows are looked after
        assert system.store.reminders(10) == []
        reply = raw.ask("broken", "status")
        assert (reply.status, reply.error and reply.error.code) == ("error", "internal")
        raw.cancel("broken")
        raw.cancel("other")
        until(lambda: system.store.outcome(TENANT, "broken") and system.store.outcome(TENANT, "other"))


def test_a_workflow_whose_definition_cannot_be_read_has_failed_and_holds_up_nobody(system: System) -> None:
    odd, _ = system.store.put(TENANT, b"\xc1")
    head = Head(name="odd", definition=odd.ref, digest="", started_ms=time.time_ns() // 1_000_000, kept_ms=1, steps=1)
    with system.store.transaction() as transaction:
        transaction.notes(TENANT, "odd").put(b"h", msgspec.msgpack.encode(head))
        transaction.notes(TENANT, "odd").remind(1.0)  # before all others
    with system.raw() as raw:
        lose_a_step(system, raw, flow(add("a", From(input="x"))), workflow_patience=0.3)
        assert raw.reply("f").status == "ok"
        reply = raw.ask("odd", "wait")
        assert (reply.status, reply.error and reply.error.code) == ("error", "internal")


def test_an_outcome_that_cannot_be_read_holds_up_no_other_workflow(system: System) -> None:
    with system.raw() as raw:
        lose_a_step(system, raw, flow(add("a", From(input="x")), add("b", out("a"))), before=1)
        until(lambda: system.store.outcome(TENANT, "f+1"))
        system.stop()
        with system.store.transaction() as transaction:
            odd = transaction.notes(TENANT, "odd")
            for key, value in system.store.notes(TENANT, "f").items():
                odd.put(key, value)
            head = msgspec.msgpack.decode(odd.get(b"h") or b"", type=Head)
            head.waiting, head.kept_ms = (), 1  # nobody awaits it, and what it needs is to be prolonged
            odd.put(b"h", msgspec.msgpack.encode(head))
            transaction.record(TENANT, "odd+1", Outcome(body="", reply=b"\xc1"))
            odd.remind(1.0)
            transaction.notes(TENANT, "f").remind(2.0)
        system.start(workflow_patience=0.3)
        assert raw.reply("f").status == "ok"
        assert raw.ask("odd", "wait").status == "error"


def test_its_records_go_with_its_outcome(system: System) -> None:
    system.start(result_ttl=1.0)
    with system.raw() as raw:
        flow_id = raw.run(flow(add("a", From(input="x"))), bind={"x": ones()}).id
        assert system.store.notes(TENANT, flow_id)
        time.sleep(1.1)
        system.store.gc()
        assert _records(system.store, flow_id) == {}
        assert system.store.reminders(10) == []
        error = raw.ask(flow_id, "status").error
        assert error is not None
        assert error.code == "name_not_found"


def _records(store: BufferStore, flow_id: str) -> dict[bytes, bytes]:
    return store.notes(TENANT, flow_id)

"""What earlier steps of a workflow answered, as later ones read it."""

from __future__ import annotations

import time
from pathlib import Path

from kaasq import codec
from kaasq.messages import Output, Reply
from kaasq_storage import BufferStore, Outcome, open_store
from kaasq_workers.flows.records import Head
from kaasq_workers.flows.sources import Replies
from tests.support.waiting import until


def record(store: BufferStore, inline: bytes, ttl_s: float) -> None:
    reply = Reply(id="daily/1", status="ok", outputs={"out": Output(nbytes=len(inline), inline=inline)})
    now = time.time()
    with store.transaction() as transaction:
        transaction.record(
            "ann", "daily/1", Outcome(body="", reply=codec.encode(reply), created=now, expires=now + ttl_s)
        )


def test_a_workflow_with_the_id_of_one_that_is_forgotten_reads_its_own_steps_outcomes(tmp_path: Path) -> None:
    with open_store(tmp_path / "store", sync=False) as store:
        replies = Replies(store)

        def read(started_ms: int) -> bytes | None:
            head = Head(name="f", definition="d", digest="same", started_ms=started_ms)
            return replies.of("ann", head, "daily/1").outputs["out"].inline

        record(store, b"yesterday", 0.2)
        assert read(1) == b"yesterday"

        def forgotten() -> bool:
            store.gc()
            return store.outcome("ann", "daily/1") is None

        until(forgotten)
        assert read(1) == b"yesterday"  # it is kept
        record(store, b"today", 60)
        assert read(2) == b"today"

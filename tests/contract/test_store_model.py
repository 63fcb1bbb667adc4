"""The store against a model made of dicts: any sequence of calls, the same answers."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from kaasq import errors
from kaasq.model import content_hash
from kaasq_storage import BufferStore, Outcome, open_store

GRACE_S = 600.0
TENANTS = st.sampled_from(["a", "b"])
NAMES = st.sampled_from(["n", "n/1", "m"])
IDS = st.sampled_from(["1", "2"])
# In LMDB, at the limit, and files.
CONTENTS = st.sampled_from([b"x", b"y", bytes(300), b"z" * 301, b"w" * 5000])
TTLS = st.sampled_from([1.0, 50.0, 3000.0])


@dataclasses.dataclass
class Item:
    data: bytes
    kept_until: float = 0.0
    names: set[str] = dataclasses.field(default_factory=set)


class StoreMachine(RuleBasedStateMachine):
    make: Callable[[str, Callable[[], float]], BufferStore]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="kaasq-model-")
        self.now = 1e9
        self.store = self.make(self.folder, lambda: self.now)
        self.items: dict[tuple[str, str], Item] = {}
        self.names: dict[tuple[str, str], tuple[str, int]] = {}
        self.floor: dict[str, int] = {}
        self.outcomes: dict[tuple[str, str], Outcome] = {}

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    # -------------------------------------------------------------------------------------------------------- model

    def forget_expired(self) -> None:
        self.items = {key: each for key, each in self.items.items() if each.names or each.kept_until > self.now}
        self.outcomes = {key: each for key, each in self.outcomes.items() if each.expires > self.now}

    def publish(self, tenant: str, data: bytes, name: str | None, ttl_s: float) -> int | None:
        self.forget_expired()
        ref = content_hash(data)
        item = self.items.setdefault((tenant, ref), Item(data))
        if name is None:
            item.kept_until = max(item.kept_until, self.now + ttl_s)
            return None
        old, version = self.names.get((tenant, name), (None, self.floor.get(tenant, 0)))
        item.names.add(name)
        if old not in (None, ref):
            before = self.items[tenant, str(old)]
            before.names.discard(name)
            before.kept_until = max(before.kept_until, self.now + GRACE_S)
        self.names[tenant, name] = ref, version + 1
        return version + 1

    # -------------------------------------------------------------------------------------------------------- rules

    @rule(tenant=TENANTS, data=CONTENTS, name=st.none() | NAMES, ttl_s=TTLS)
    def put(self, tenant: str, data: bytes, name: str | None, ttl_s: float) -> None:
        expected = self.publish(tenant, data, name, ttl_s)
        entry, version = self.store.put(tenant, data, name=name, ttl_s=ttl_s)
        assert (entry.ref, entry.nbytes, version) == (content_hash(data), len(data), expected)

    @rule(
        parts=st.lists(st.tuples(TENANTS, CONTENTS, st.none() | NAMES, TTLS), max_size=4),
        replies=st.lists(st.tuples(TENANTS, IDS, st.sampled_from([b"r", b"R" * 9000])), max_size=3),
        fail=st.booleans(),
    )
    def transact(self, parts: list[Any], replies: list[Any], fail: bool) -> None:
        staged = []
        for tenant, data, _, _ in parts:
            staged.append(self.store.stage(tenant, len(data)))
            staged[-1].data[:] = data
        try:
            with self.store.transaction() as txn:
                for each, (_, _, name, ttl_s) in zip(staged, parts, strict=True):
                    txn.publish(each, name=name, ttl_s=ttl_s)
                recorded = []
                for tenant, request_id, reply in replies:
                    outcome = Outcome(body="b", reply=reply, created=self.now, expires=self.now + 100)
                    recorded.append((tenant, request_id, outcome, txn.record(tenant, request_id, outcome)))
                if fail:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            for each in staged:
                each.discard()
            return
        for tenant, data, name, ttl_s in parts:
            self.publish(tenant, data, name, ttl_s)
        self.forget_expired()
        for tenant, request_id, outcome, done in recorded:
            assert done == ((tenant, request_id) not in self.outcomes)
            self.outcomes.setdefault((tenant, request_id), outcome)

    @rule(tenant=TENANTS, name=NAMES)
    def delete_name(self, tenant: str, name: str) -> None:
        self.forget_expired()
        if (tenant, name) not in self.names:
            with pytest.raises(errors.NameNotFound):
                self.store.delete(tenant, name=name)
            return
        self.store.delete(tenant, name=name)
        ref, version = self.names.pop((tenant, name))
        self.floor[tenant] = max(version, self.floor.get(tenant, 0))
        self.items[tenant, ref].names.discard(name)

    @rule(tenant=TENANTS, data=CONTENTS)
    def delete_object(self, tenant: str, data: bytes) -> None:
        self.forget_expired()
        ref = content_hash(data)
        item = self.items.get((tenant, ref))
        if item is None or item.names:
            with pytest.raises(errors.NameNotFound if item is None else errors.BadRequest):
                self.store.delete(tenant, ref=ref)
            return
        self.store.delete(tenant, ref=ref)
        del self.items[tenant, ref]

    @rule(seconds=st.sampled_from([0.5, 40.0, 700.0, 5000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def collect(self) -> None:
        assert self.store.gc().orphans == 0
        self.forget_expired()
        usage = self.store.usage()
        assert (usage.objects, usage.names, usage.outcomes) == (len(self.items), len(self.names), len(self.outcomes))
        assert usage.used == sum(len(each.data) for each in self.items.values()) + sum(
            len(each.reply) for each in self.outcomes.values()
        )

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.make(self.folder, lambda: self.now)

    # --------------------------------------------------------------------------------------------------- invariants

    @invariant()
    def same(self) -> None:
        self.forget_expired()
        for tenant in ("a", "b"):
            objects = {each.ref: each.expires for each in self.store.objects(tenant)}
            assert objects == {
                ref: None if item.names else item.kept_until
                for (owner, ref), item in self.items.items()
                if owner == tenant
            }
            names = [(each.name, each.object.ref, each.version) for each in self.store.names(tenant)]
            assert names == sorted((n, *where) for (owner, n), where in self.names.items() if owner == tenant)
            for request_id in ("1", "2"):
                assert self.store.outcome(tenant, request_id) == self.outcomes.get((tenant, request_id))
        for (tenant, ref), item in self.items.items():
            with self.store.open(tenant, ref) as reading:
                assert reading.data == item.data


def lmdb(folder: str, clock: Callable[[], float]) -> BufferStore:
    return open_store(folder, sync=False, inline_bytes=300, clock=clock)


@pytest.mark.parametrize("make", [lmdb])
def test_the_store_answers_like_the_model(make: Callable[..., BufferStore]) -> None:
    machine = type("Machine", (StoreMachine,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

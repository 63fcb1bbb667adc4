"""Workflows whose store is full, at whatever moment: they wait, or say so. And many who wait for one."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from kaasq.flows.model import Asked, FlowCall, FlowInput, FlowReply, FlowSpec, FlowStep, From, MapSpec
from kaasq_faults.conditions import small_file_system
from kaasq_workers.flows.records import Book, Looked
from tests.support.flow_system import TENANT, System
from tests.support.graphs import held, saxpy
from tests.support.raw_flows import RawFlows
from tests.support.waiting import until

N = 64 << 10  # elements of what is stored: 256 KiB
ROOM = 2 << 20
PATIENCE_S = 1.0
WAITING = 64  # graph_limits.waiting


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with System(tmp_path / "store") as made:
        yield made


def spec(folder: Path, *, keep: str | None = None) -> FlowSpec:
    """Waits until it may go on; then two large items, and their outputs together."""
    y = np.ones(N, np.float32).tobytes()
    return FlowSpec(
        name="test.scarce",
        inputs=(FlowInput(name="x", dtype="float32", shape=(N,)),),
        graphs={"held": held(folder).freeze(), "add": saxpy(N, "add").freeze()},
        maps={"m": MapSpec(count=2)},
        steps=(
            FlowStep(name="w", graph="held"),
            FlowStep(
                name="a",
                graph="add",
                map="m",
                after=("w",),
                bind={"x": From(input="x"), "y": y},
                keep={"out": "kept/{item}"},
            ),
        ),
        outputs={"all": From(step="a", output="out")},
    )


def begin(raw: RawFlows, folder: Path, flow_id: str) -> None:
    """Start it; it runs its first step."""
    raw.start(spec(folder), bind={"x": np.ones(N, np.float32).tobytes()}, request_id=flow_id)
    until((folder / "begun").exists)


def check(system: System, reply: FlowReply) -> None:
    assert (reply.status, reply.error) == ("ok", None)
    assert reply.outputs["all"].nbytes == 2 * 4 * N
    assert {each.name: each.version for each in system.store.names(TENANT, "kept/")} == {"kept/0": 1, "kept/1": 1}


def fill(system: System, leave: int) -> Callable[[], object]:
    """Have the store so full; how to make room again."""
    used = system.store.usage().used
    system.store.put("other", bytes(ROOM - used - leave), name="filler")
    return lambda: system.store.delete("other", name="filler")


def test_a_start_that_a_full_store_cannot_take_is_told_so(system: System, tmp_path: Path) -> None:
    system.start(store_capacity=ROOM)
    make_room = fill(system, 4096)
    (tmp_path / "end").touch()
    with system.raw() as raw:
        given = {"bind": {"x": np.ones(N, np.float32).tobytes()}, "request_id": "f"}
        error = raw.run(spec(tmp_path), **given).error
        assert error is not None
        assert error.code == "store_full"
        make_room()
        check(system, raw.run(spec(tmp_path), **given))


def book(system: System) -> Book:
    return Book(Looked(system.store, TENANT, "f"))


@pytest.mark.parametrize(
    ("leave", "met"),
    [(100_000, lambda book: book.item(1, 0).attempt > 1), (700_000, lambda book: book.head.tries > 0)],
    ids=["steps", "join"],
)
def test_what_finds_no_room_is_done_once_there_is(
    system: System, tmp_path: Path, leave: int, met: Callable[[Book], bool]
) -> None:
    system.start(isolate=True, store_capacity=ROOM, inline_limit=1024)
    with system.raw() as raw:
        begin(raw, tmp_path, "f")
        make_room = fill(system, leave)
        (tmp_path / "end").touch()
        until(lambda: met(book(system)))
        make_room()
        check(system, raw.reply("f"))


def test_a_full_disk_in_the_middle_of_a_workflow_is_waited_for(tmp_path: Path) -> None:
    try:
        with small_file_system(tmp_path / "disk") as disk:
            system = System(disk / "store")
            try:
                full_disk(system, disk, tmp_path)
            finally:
                system.stop()
                system.store.close()
    except PermissionError as error:
        warnings.warn(f"not run: mounting a small file system needs root ({error})", stacklevel=1)


def full_disk(system: System, disk: Path, folder: Path) -> None:
    system.start(isolate=True, inline_limit=1024, workflow_patience=PATIENCE_S)
    filler = disk / "filler"
    with system.raw() as raw:
        begin(raw, folder, "f")
        for nbytes in (1 << 20, 4096):
            with filler.open("ab", buffering=0) as file, suppress(OSError):  # until there is no space left
                while file.write(bytes(nbytes)) == nbytes:
                    pass
        (folder / "end").touch()
        error = raw.ask("f", "wait").error
        assert error is not None
        assert error.code == "store_full"
        error = raw.run(spec(folder), bind={"x": np.ones(N, np.float32).tobytes()}, request_id="g").error
        assert error is not None
        assert error.code == "store_full"
        filler.unlink()
        check(system, raw.reply("f"))


def test_a_thousand_may_wait_for_one_workflow_and_those_too_many_are_told_so(system: System, tmp_path: Path) -> None:
    system.start(isolate=True)
    with system.raw() as raw:
        begin(raw, tmp_path, "f")
        asked = [raw.send(FlowCall(flow=Asked(id="f", do="wait"))) for _ in range(1000)]
        (tmp_path / "end").touch()
        told = Counter(each.error.code if (each := raw.reply(one)).error else each.status for one in asked)
        assert told == {"quota_exceeded": 1000 - WAITING, "ok": WAITING}
        assert raw.ask("f", "wait").status == "ok"

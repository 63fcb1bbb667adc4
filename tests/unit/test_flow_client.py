"""What the clients make of workflows, against a scripted worker: what is sent, what comes of the replies, who waits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from kaasq import BadRequest, BufferMissing, BufferSize, Keep, Output, Then, Workflow, topology
from kaasq.broker import Message, State
from kaasq.errors import BrokerLost, Conflict, KaasqError, KernelFailed, NameNotFound, QuotaExceeded, ReplyTimeout
from kaasq.flows.model import (
    Asked,
    FlowCall,
    FlowInput,
    FlowLine,
    FlowList,
    FlowReply,
    FlowsCall,
    FlowStart,
    FlowStatus,
    ItemStatus,
    Sought,
    StepStatus,
)
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.messages import Cancel, ErrorBody, Stored
from kaasq.messages import Output as Sent
from kaasq.model import Buffer, GraphSpec
from kaasq.settings import Settings
from kaasq_producers import AsyncClient, BufferRef, Client
from kaasq_producers.storing import packed
from tests.support.fake_worker import INFO, FakeWorker, Held
from tests.support.flows import GRAPHS
from tests.support.graphs import spec
from tests.support.loops import play
from tests.support.messaging import States

ONES = np.ones(4, np.float32)
TILES = [np.full(4, index, np.float32) for index in range(3)]


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def worker(node: MemoryNode, held: Held) -> Iterator[FakeWorker]:
    with FakeWorker(MemoryBroker(node, "worker"), held) as made:
        yield made


def tiles() -> Workflow:
    flow = Workflow("tiles")
    listed = flow.inputs("tiles", shape=4, dtype="float32")
    weights = flow.input("weights", nbytes=16)
    strength = flow.scalar("strength", "float32", default=2)
    blur = flow.map("blur", GRAPHS["blur"], x=listed.each, weights=weights, a=strength)
    join = flow.step("join", GRAPHS["join"], all=blur["out"], ok=blur.mask)
    flow.output("sum", join["sum"])
    return flow


def wide(nbytes: int) -> GraphSpec:
    """A graph that takes so many bytes."""
    taken, given = Buffer(name="x", role="input", nbytes=nbytes), Buffer(name="y", role="output", nbytes=4)
    return spec(taken, given, name=f"g{nbytes}")


def in_thread(function: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """The function in a thread of its own, which the test may leave behind."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(function())
        except KaasqError as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


FLOW = tiles()


def status(flow_id: str, **changes: Any) -> FlowStatus:
    steps = (
        StepStatus(name="blur", graph="blur", state="completed", map="tiles", items=3, completed=3),
        StepStatus(name="join", graph="join", state="completed", waits_for=("blur",)),
    )
    return FlowStatus(
        **{"id": flow_id, "name": "tiles", "state": "completed", "started_ms": 1, "steps": steps, **changes}
    )


def ended(flow_id: str, **changes: Any) -> FlowReply:
    """How the workflow replies when it has completed."""
    total = np.float32([6])
    outputs = {"sum": Sent(nbytes=4, dtype="float32", shape=(1,), inline=total.tobytes())}
    return FlowReply(
        **{"id": flow_id, "status": "ok", "outputs": outputs, "flow": status(flow_id), "worker": INFO, **changes}
    )


def failed(flow: str) -> FlowReply:
    error = ErrorBody(
        code="kernel_failed", message="step 'blur', item 1: it crashed", detail={"step": "blur", "item": 1}
    )
    return ended(flow, status="error", outputs={}, error=error, flow=status(flow, state="failed", error=error))


def answer(start: FlowStart | FlowCall, message: Message) -> FlowReply:
    """As a worker for which everything has ended already."""
    return ended(start.flow.id if isinstance(start, FlowCall) else str(message.message_id))


def cancelled(node: MemoryNode) -> list[str]:
    """Which requests the workers were told not to run."""
    queue = topology.control_queue("default", "fake")
    return [msgspec.msgpack.decode(each.body, type=Cancel).cancel for each in node.messages(queue)]


# -- run and submit


def test_a_workflow_is_run_with_lists_scalars_and_kept_outputs(client: Client, worker: FakeWorker, held: Held) -> None:
    future = client.submit(FLOW, tiles=TILES, weights=b"w" * 16, strength=3, keep={"sum": "sums/1"}, timeout=7)
    start, message = held.next()
    assert isinstance(start, FlowStart)
    assert start == FlowStart(
        workflow=FLOW.spec,
        bind={"tiles": tuple(each.tobytes() for each in TILES), "weights": b"w" * 16},
        scalars={"strength": 3},
        keep={"sum": "sums/1"},
        timeout_ms=7000,
    )
    assert message.expiration_ms is not None
    assert message.expiration_ms <= 7000
    worker.reply(message, ended(str(message.message_id)))
    result = future.result(5)
    assert list(result["sum"]) == [6]
    assert result.id == future.request_id == message.message_id
    assert (result.name, result.flow.state) == ("tiles", "completed")
    assert {name: (each.state, each.items, each.completed) for name, each in result.steps.items()} == {
        "blur": ("completed", 3, 3),
        "join": ("completed", None, 0),
    }
    assert repr(result) == f"<FlowResult of workflow 'tiles', {result.id}: {{sum: float32 (1,)}}>"


def test_a_result_is_copied_with_its_outputs(client: Client, worker: FakeWorker) -> None:
    worker.answer = answer
    result = client.run(FLOW, tiles=TILES, weights=ONES)
    again = copy.copy(result)
    assert list(again["sum"]) == [6]
    assert (again.id, again.steps.keys()) == (result.id, result.steps.keys())


def test_items_are_arrays_numbers_or_stored_and_a_list_is_an_array_with_one_axis_more(
    client: Client, worker: FakeWorker, held: Held
) -> None:
    client.submit(FLOW, tiles=np.stack(TILES), weights=Stored(name="w"))
    start, _ = held.next()
    assert start.bind == {"tiles": tuple(each.tobytes() for each in TILES), "weights": Stored(name="w")}
    client.submit(FLOW, tiles=([1, 2, 3, 4], BufferRef(ref="ab" * 32, nbytes=16)), weights=ONES)
    start, _ = held.next()
    assert start.bind["tiles"] == (np.float32([1, 2, 3, 4]).tobytes(), Stored(ref="ab" * 32))


def test_large_inputs_go_to_the_store_those_of_lists_too(
    node: MemoryNode, settings: Settings, worker: FakeWorker, held: Held
) -> None:
    """The limit is for all together; the largest go first, as few as needed."""
    flow = Workflow("f")
    listed, one = flow.inputs("listed", nbytes=64), flow.input("one", nbytes=256)
    flow.step("s", GRAPHS["split"], x=one.at(offset=0))
    flow.map("m", GRAPHS["split"], x=listed.each)
    small = msgspec.structs.replace(settings, inline_limit=200)
    with Client(MemoryBroker(node, "ann"), settings=small) as client:
        client.submit(flow, listed=[bytes([n]) * 64 for n in range(4)], one=bytes(256))
        start, _ = held.next()
        items = start.bind["listed"]
        assert [type(each) for each in items] == [Stored, bytes, bytes, bytes]
        assert isinstance(start.bind["one"], Stored)
        assert client.get(BufferRef(ref=items[0].ref, nbytes=64)).tobytes() == bytes(64)


@pytest.mark.parametrize(
    ("count", "nbytes", "writes"), [(600, 64, 1), (2500, 64, 3), (300, 60_000, 2), (9, 1 << 20, 8)]
)
def test_items_that_are_many_and_small_share_objects_and_are_made_durable_together(
    node: MemoryNode,
    settings: Settings,
    worker: FakeWorker,
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    nbytes: int,
    writes: int,
) -> None:
    """A write that waits for the disk takes milliseconds: one for each item would be seconds for a thousand."""
    flow = Workflow("f")
    flow.map("m", wide(nbytes), x=flow.inputs("l", nbytes=nbytes).each)
    begun = 0
    nothing_inline = msgspec.structs.replace(settings, inline_limit=0)
    with Client(MemoryBroker(node, "ann"), settings=nothing_inline) as client:
        client.put(b"x")
        store = client.buffers._opened
        assert store is not None
        transaction = store.transaction

        def counted() -> Any:
            nonlocal begun
            begun += 1
            return transaction()

        monkeypatch.setattr(store, "transaction", counted)
        items = [(index % (count - 1)).to_bytes(4, "big") * (nbytes // 4) for index in range(count)]  # two are equal
        client.submit(flow, l=items)
        start, _ = held.next()
        monkeypatch.undo()
        assert begun == writes
        bound = start.bind["l"]
        for index in (0, 1, count // 2, count - 1):
            whole, at = client.get(BufferRef(ref=bound[index].ref, nbytes=0)).tobytes(), bound[index].offset
            assert (whole if at is None else whole[at : at + nbytes]) == items[index]


@pytest.mark.parametrize(
    ("sizes", "packs"),
    [
        ([], []),
        ([5], [(0, 1)]),
        ([1 << 20, 1, 1], [(0, 1), (1, 3)]),
        ([1 << 15, 1 << 15, 1], [(0, 2), (2, 3)]),
        ([1, 1 << 16, 1], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_items_are_put_together_as_far_as_an_object_goes(sizes: list[int], packs: list[tuple[int, int]]) -> None:
    assert packed(sizes) == packs


def test_a_workflow_larger_than_a_message_is_refused_naming_its_largest_steps(
    node: MemoryNode, settings: Settings
) -> None:
    flow = Workflow("f")
    for name, size in {"small": 16, "large": 4096}.items():
        flow.step(name, wide(size), x=bytes(size))
    with Client(MemoryBroker(node, "ann"), settings=msgspec.structs.replace(settings, message_limit=4000)) as client:
        with pytest.raises(BadRequest) as caught:
            client.run(flow)
    assert caught.value.message.startswith("workflow: a message with workflow 'f' has ")
    assert "and may have 4000 (message_limit). Its largest steps, in bytes: 'large' (" in caught.value.message


def test_a_workflow_that_fails_raises_the_error_of_its_step_and_says_how_the_others_ended(
    client: Client, worker: FakeWorker
) -> None:
    worker.answer = lambda _, message: failed(str(message.message_id))
    with pytest.raises(KernelFailed, match=r"^step 'blur', item 1: it crashed$") as caught:
        client.run(FLOW, tiles=TILES, weights=ONES)
    assert (caught.value.step, caught.value.item) == ("blur", 1)
    assert caught.value.flow.state == "failed"
    assert caught.value.flow.id == caught.value.request_id
    with pytest.raises(AttributeError, match="has no field 'flow'"):
        KaasqError("another").flow  # noqa: B018


def test_a_workflow_whose_start_is_refused_raises_why(client: Client, worker: FakeWorker) -> None:
    error = ErrorBody.of(BufferMissing("input 'weights' is bound to name 'w', which the store does not hold"))
    worker.answer = lambda _, message: FlowReply(id=str(message.message_id), status="error", error=error)
    with pytest.raises(BufferMissing, match="which the store does not hold"):
        client.run(FLOW, tiles=TILES, weights=Stored(name="w"))


def test_cancelling_the_future_cancels_the_workflow(
    node: MemoryNode, client: Client, worker: FakeWorker, held: Held
) -> None:
    future = client.submit(FLOW, tiles=TILES, weights=ONES)
    held.next()
    assert future.cancel()
    client.close()
    assert cancelled(node) == [future.request_id]


def test_a_workflow_that_mends_has_the_time_for_it(client: Client, worker: FakeWorker) -> None:
    """Steps that run when others fail, or always, have time of their own once that of the workflow is over."""
    flow = Workflow("f")
    first = flow.step("first", GRAPHS["blur"], x=ONES, weights=ONES)
    flow.step("mend", GRAPHS["tell"], on="failed", after=first, timeout=3)
    future = client.submit(flow, timeout=2)
    assert client._core is not None
    (call,) = client._core.pending.calls()
    assert call.given_up_at - call.started == pytest.approx(2 + 1 + 3)
    future.cancel()


@pytest.mark.parametrize(
    ("bind", "error", "message"),
    [
        ({"tiles": TILES}, BufferMissing, "nothing is bound to input 'weights'"),
        ({"weights": ONES}, BufferMissing, "nothing is bound to list 'tiles'"),
        (
            {"tiles": 1, "weights": ONES},
            BadRequest,
            "bind.tiles: expected a list of what an input takes, or an array with an axis for the items, given a int",
        ),
        (
            {"tiles": [ONES, ONES[:2]], "weights": ONES},
            BufferSize,
            "buffer 'tiles[1]' is declared as float32 (4,) (16 bytes), but float32 (2,) (8 bytes) was given",
        ),
        (
            {"tiles": [ONES, Output("x")], "weights": ONES},
            BadRequest,
            "bind.tiles[1]: Output('x'): only what follows a request, a kaasq.Then, takes its outputs",
        ),
        (
            {"tiles": TILES, "weights": FLOW.item},
            BadRequest,
            "bind.weights: <the item's number of workflow 'tiles'>: only a step of its workflow takes it",
        ),
        (
            {"tiles": TILES, "weights": ONES, "what": 1},
            BadRequest,
            "bind.what: the workflow has no buffer or scalar 'what'; it has 'weights', 'sum', 'strength'",
        ),
        (
            {"tiles": TILES, "weights": ONES, "then": Then(GRAPHS["tell"])},
            BadRequest,
            "then: a workflow has none itself; its steps may have",
        ),
        (
            {"tiles": [ONES] * 9, "weights": ONES},
            BufferSize,
            (
                "steps[1] (join).bind.all: buffer 'all' is declared with 128 bytes, but output 'out' of step 'blur' "
                "takes 16 for each item, 144 for 9"
            ),
        ),
    ],
)
def test_what_does_not_fit_a_workflow_is_refused_before_it_is_sent(
    client: Client, bind: dict[str, Any], error: type[KaasqError], message: str
) -> None:
    with pytest.raises(error) as caught:
        client.run(FLOW, **bind)
    assert caught.value.message == message


def test_outputs_are_kept_by_keep_as_a_request_s_are(client: Client, worker: FakeWorker, held: Held) -> None:
    client.submit(FLOW, tiles=TILES, weights=ONES, sum=Keep("sums/1"))
    start, _ = held.next()
    assert start.keep == {"sum": "sums/1"}


def test_workflows_as_data_are_run_too(client: Client, worker: FakeWorker) -> None:
    worker.answer = answer
    assert client.run(FLOW.spec, tiles=TILES, weights=ONES).steps.keys() == {"blur", "join"}
    with pytest.raises(BadRequest, match=r"^workflow\.inputs: input 'x' is never used"):
        client.run(msgspec.structs.replace(FLOW.spec, inputs=(*FLOW.spec.inputs, FlowInput(name="x", nbytes=4))))


# -- start, attach and what can be asked then


def test_a_started_workflow_is_left_to_itself_once_it_is_durable(
    node: MemoryNode, client: Client, worker: FakeWorker
) -> None:
    starts: list[FlowStart] = []

    def begin(start: FlowStart | FlowCall, message: Message) -> FlowReply:
        if isinstance(start, FlowStart):
            starts.append(start)
            return ended(str(message.message_id), outputs={}, flow=status(str(message.message_id), state="running"))
        return answer(start, message)

    worker.answer = begin
    run = client.start(FLOW, tiles=TILES, weights=ONES)
    assert run.id == worker.messages[0].message_id
    (start,) = starts
    assert (start.reply, start.timeout_ms) == ("started", None)
    client.start(FLOW, tiles=TILES, weights=ONES, timeout=90000)
    assert starts[1].timeout_ms == 90_000_000
    assert list(run.wait()["sum"]) == [6]
    client.close()
    assert cancelled(node) == []


def test_a_workflow_is_started_under_an_id_as_often_as_one_likes(client: Client, worker: FakeWorker) -> None:
    worker.answer = answer
    runs = [client.start(FLOW, tiles=TILES, weights=ONES, id="nightly-1") for _ in range(2)]
    assert [run.id for run in runs] == ["nightly-1", "nightly-1"]
    first, second = worker.messages
    assert first.message_id == second.message_id == "nightly-1"
    assert first.body == second.body
    assert first.correlation_id != second.correlation_id  # two may start it at the same time
    worker.answer = lambda *_: FlowReply(
        id="nightly-1", status="error", error=ErrorBody.of(Conflict("it began with another body"))
    )
    with pytest.raises(Conflict, match="it began with another body"):
        client.start(FLOW, tiles=TILES[:1], weights=ONES, id="nightly-1")


def test_who_gives_up_starting_a_named_workflow_does_not_cancel_it(
    node: MemoryNode, settings: Settings, worker: FakeWorker
) -> None:
    """It may have begun long ago."""
    with Client(MemoryBroker(node, "ann"), settings=msgspec.structs.replace(settings, timeout=0.05)) as client:
        with pytest.raises(ReplyTimeout, match=r"^workflow nightly to pool 'default' got no reply within 0\.05 s"):
            client.start(FLOW, tiles=TILES, weights=ONES, id="nightly")
    assert cancelled(node) == []


@pytest.mark.parametrize(
    ("flow_id", "message"),
    [
        ("nightly+3", "id: 'nightly+3' is the id of a step: that of a workflow does not end in +number"),
        ("", "message_id: a request needs an id of 1 to 128 bytes, this one has 0"),
        (7, "id: expected the id of a workflow, given a int"),
    ],
)
def test_what_is_no_id_of_a_workflow_is_refused(client: Client, flow_id: Any, message: str) -> None:
    for attempt in (lambda: client.attach(flow_id), lambda: client.start(FLOW, tiles=TILES, weights=ONES, id=flow_id)):
        with pytest.raises(BadRequest) as caught:
            attempt()
        assert caught.value.message == message


def test_another_client_attaches_to_a_workflow_by_its_id(node: MemoryNode, client: Client, worker: FakeWorker) -> None:
    asked: list[Asked] = []

    def told(call: FlowCall, message: Message) -> FlowReply:
        asked.append(call.flow)
        return answer(call, message)

    worker.answer = told
    run = client.attach("f")
    assert run.status().steps[0].completed == 3
    assert list(run.wait(timeout=5)["sum"]) == [6]
    run.cancel()
    client.close()
    assert asked == [Asked(id="f", do="status"), Asked(id="f", do="wait")]
    assert cancelled(node) == ["f"]
    assert repr(run) == "<Run of workflow f>"


def test_items_come_in_pages_and_are_put_together(client: Client, worker: FakeWorker) -> None:
    numbers = [1, 2, 5, 6, 9]

    def page(call: FlowCall, message: Message) -> FlowReply:
        rest = [each for each in numbers if each > call.flow.after]
        assert call.flow.items
        items = tuple(ItemStatus(step="blur", item=each, number=each) for each in rest[:2])
        return ended("f", outputs={}, flow=status("f", state="running", items=items, more=len(rest) > 2))

    worker.answer = page
    found = client.attach("f").status(items=True)
    assert [each.number for each in found.items] == numbers
    assert not found.more


def lines(*ids: str) -> tuple[FlowLine, ...]:
    return tuple(FlowLine(id=each, name="tiles", state="running", started_ms=1, steps=2, ended=1) for each in ids)


def paged(pages: dict[str, FlowList], asked: list[Sought]) -> Callable[[FlowsCall, Message], FlowReply]:
    """A worker that has those pages, by what they come after."""

    def page(call: FlowsCall, message: Message) -> FlowReply:
        asked.append(call.flows)
        found = pages[call.flows.after]
        shown = msgspec.structs.replace(found, found=found.found[: call.flows.most])
        return FlowReply(id=str(message.message_id), status="ok", flows=shown, worker=INFO)

    return page


PAGES = {
    "": FlowList(found=lines("e", "d"), total=5, next="1-d"),
    "1-d": FlowList(found=lines("c", "b"), total=5, next="1-b"),
    "1-b": FlowList(found=lines("a"), total=5),
}


@pytest.mark.parametrize(("limit", "ids", "asked"), [(9, "edcba", 3), (5, "edcba", 3), (3, "edc", 2), (2, "ed", 1)])
def test_workflows_are_listed_page_by_page_up_to_a_limit(
    client: Client, worker: FakeWorker, limit: int, ids: str, asked: int
) -> None:
    sought: list[Sought] = []
    worker.answer = paged(PAGES, sought)
    found = client.workflows("running", limit=limit)
    assert [each.id for each in found] == list(ids)
    assert (found.total, found[0].steps, found[0].ended) == (5, 2, 1)
    assert repr(found) == f"<{len(ids)} of 5 workflows>"
    assert len(sought) == asked
    assert sought[0] == Sought(state="running", most=limit)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"state": "waiting"}, "state: expected 'running', 'completed', 'failed', 'cancelled', 'expired' or None"),
        ({"limit": 0}, "limit: expected a number of workflows, 1 or more, given 0"),
        ({"limit": "9"}, "limit: expected a whole number from 0 on, given '9'"),
    ],
)
def test_what_is_no_list_of_workflows_is_refused(client: Client, given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        client.workflows(**given)
    assert caught.value.message.startswith(message)


def test_asking_after_a_workflow_that_there_is_not_says_so(client: Client, worker: FakeWorker) -> None:
    error = ErrorBody.of(NameNotFound("there is no workflow 'f' in this pool"))
    worker.answer = lambda _, message: FlowReply(id=str(message.message_id), status="error", error=error)
    run = client.attach("f")
    for ask in (run.status, run.wait):
        with pytest.raises(NameNotFound, match="there is no workflow 'f' in this pool"):
            ask()


def test_waiting_for_a_workflow_that_fails_raises_its_error(client: Client, worker: FakeWorker) -> None:
    worker.answer = lambda *_: failed("f")
    with pytest.raises(KernelFailed) as caught:
        client.attach("f").wait()
    assert (caught.value.step, caught.value.flow.state, caught.value.request_id) == ("blur", "failed", "f")


def test_waiting_ends_after_its_timeout_and_leaves_the_workflow_alone(
    node: MemoryNode, client: Client, worker: FakeWorker, held: Held
) -> None:
    run = client.attach("f")
    began = time.monotonic()
    with pytest.raises(ReplyTimeout, match=r"^workflow f to pool 'default' got no reply within 0\.2 s"):
        run.wait(timeout=0.2)
    assert time.monotonic() - began < 2
    assert client._core is not None
    assert len(client._core.pending) == 0
    _, message = held.next()
    worker.reply(message, ended("f"))  # nobody waits for it any more
    client.close()
    assert cancelled(node) == []


def test_waiting_without_end_asks_again_after_the_connection_was_lost(
    node: MemoryNode, settings: Settings, worker: FakeWorker, held: Held
) -> None:
    broker = MemoryBroker(node, "ann")
    with Client(broker, settings=settings) as client:
        run = client.attach("f")
        waiting = in_thread(run.wait)
        _, first = held.next()
        assert first.expiration_ms is None
        again = first
        for _ in range(2):
            states = States(broker)
            broker.interrupt()
            states.wait_for(State.CONNECTED)
            _, again = held.next()
            assert (again.message_id, again.body) == (first.message_id, first.body)
        worker.reply(again, ended("f"))
        assert list(waiting.result(5)["sum"]) == [6]
        assert client._core is not None
        assert len(client._core.pending) == 0


@pytest.mark.parametrize("running", [False, True])
def test_who_waits_long_asks_again_for_the_worker_may_have_forgotten(
    client: Client, worker: FakeWorker, held: Held, monkeypatch: pytest.MonkeyPatch, *, running: bool
) -> None:
    for name in ("WAIT_AGAIN_S", "RUN_AGAIN_S"):
        monkeypatch.setattr(f"kaasq_producers.flows.calls.{name}", 0.05)
    run = client.attach("f")
    waiting = in_thread((lambda: client.run(FLOW, tiles=TILES, weights=ONES)) if running else run.wait)
    asked = [held.next()[1] for _ in range(3)]
    assert len({(each.message_id, each.correlation_id, each.body) for each in asked}) == 1
    worker.reply(asked[0], ended("f"))
    assert list(waiting.result(5)["sum"]) == [6]
    worker.answer = answer
    before = len(worker.messages)
    time.sleep(0.2)  # when it would have asked again
    run.status()
    assert len(worker.messages) <= before + 2  # one may have been on its way


@pytest.mark.parametrize("running", [False, True])
def test_who_is_forgotten_since_too_many_wait_asks_again_when_it_is_time_to(
    client: Client, worker: FakeWorker, held: Held, monkeypatch: pytest.MonkeyPatch, *, running: bool
) -> None:
    monkeypatch.setattr(f"kaasq_producers.flows.calls.{'RUN' if running else 'WAIT'}_AGAIN_S", 0.5)
    began = time.monotonic()
    waiting = in_thread((lambda: client.run(FLOW, tiles=TILES, weights=ONES)) if running else client.attach("f").wait)
    _, first = held.next()
    too_many = ErrorBody(code="quota_exceeded", message="more wait", detail={"which": "waiting"})
    worker.reply(first, FlowReply(id="f", status="error", error=too_many))
    _, again = held.next()
    assert time.monotonic() - began > 0.4
    assert (again.message_id, again.correlation_id, again.body) == (first.message_id, first.correlation_id, first.body)
    worker.reply(again, ended("f"))
    assert list(waiting.result(5)["sum"]) == [6]


def test_who_waits_is_told_of_other_quotas(client: Client, worker: FakeWorker, held: Held) -> None:
    waiting = in_thread(client.attach("f").wait)
    _, message = held.next()
    queued = ErrorBody(code="quota_exceeded", message="too many", detail={"which": "queued"})
    worker.reply(message, FlowReply(id="f", status="error", error=queued))
    with pytest.raises(QuotaExceeded, match="too many"):
        waiting.result(5)


def test_a_workflow_is_asked_for_again_after_the_connection_was_lost(
    node: MemoryNode, settings: Settings, worker: FakeWorker, held: Held
) -> None:
    broker = MemoryBroker(node, "ann")
    with Client(broker, settings=settings) as client:
        future = client.submit(FLOW, tiles=TILES, weights=ONES)
        _, first = held.next()
        broker.interrupt()
        _, again = held.next()
        assert (again.message_id, again.body) == (first.message_id, first.body)
        worker.reply(again, ended(str(again.message_id)))
        assert list(future.result(5)["sum"]) == [6]


def test_closing_the_client_ends_waiting(client: Client, worker: FakeWorker, held: Held) -> None:
    waiting = in_thread(client.attach("f").wait)
    held.next()
    client.close()
    with pytest.raises(BrokerLost, match="the client was closed before workflow f had its reply"):
        waiting.result(5)


def test_workflows_count_among_what_may_be_pending(
    node: MemoryNode, settings: Settings, worker: FakeWorker, held: Held
) -> None:
    with Client(MemoryBroker(node, "ann"), settings=msgspec.structs.replace(settings, pending_limit=1)) as client:
        first = client.submit(FLOW, tiles=TILES, weights=ONES)
        waiting = in_thread(client.attach("f").wait)
        with pytest.raises(ReplyTimeout, match="pending_limit is 1"):
            client.submit(FLOW, tiles=TILES, weights=ONES, timeout=0.05)
        _, message = held.next()
        worker.reply(message, ended(str(message.message_id)))
        first.result(5)
        _, message = held.next()
        worker.reply(message, ended("f"))
        assert waiting.result(5).id == "f"


# -- event loops


@pytest.fixture
def ann(node: MemoryNode) -> MemoryBroker:
    return MemoryBroker(node, "ann")


def test_an_async_client_runs_workflows(ann: MemoryBroker, settings: Settings, worker: FakeWorker) -> None:
    worker.answer = answer

    async def main() -> None:
        async with AsyncClient(ann, settings=settings) as client:
            result = await client.run(FLOW, tiles=TILES, weights=ONES)
            assert list(result["sum"]) == [6]
            assert result.steps["blur"].items == 3
            future = client.submit(FLOW, tiles=TILES, weights=ONES)
            assert (await future).id == future.request_id
            run = await client.start(FLOW, tiles=TILES, weights=ONES, id="nightly")
            assert run.id == "nightly"
            assert (await run.status()).state == "completed"
            assert list((await client.attach("nightly").wait())["sum"]) == [6]
            assert repr(run) == "<AsyncRun of workflow nightly>"
            worker.answer = paged(PAGES, [])
            assert [each.id for each in await client.workflows(limit=4)] == ["e", "d", "c", "b"]

    play(main)


def test_cancelling_a_task_cancels_the_workflow_that_it_runs_but_not_one_that_it_waits_for(
    node: MemoryNode, ann: MemoryBroker, settings: Settings, worker: FakeWorker, held: Held
) -> None:
    ids: list[str | None] = []

    async def main() -> None:
        async with AsyncClient(ann, settings=settings) as client:
            for waiting in (client.run(FLOW, tiles=TILES, weights=ONES), client.attach("f").wait()):
                task = asyncio.ensure_future(waiting)
                _, message = await asyncio.to_thread(held.next)
                ids.append(message.message_id)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await client.attach("g").cancel()

    play(main)
    assert cancelled(node) == [ids[0], "g"]


def test_an_async_wait_without_end_is_given_up_by_its_task_s_timeout(
    ann: MemoryBroker, settings: Settings, worker: FakeWorker
) -> None:
    async def main() -> None:
        async with AsyncClient(ann, settings=settings) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.attach("f").wait()
            assert client._core is not None
            assert len(client._core.pending) == 0
            with pytest.raises(ReplyTimeout, match=r"^workflow f .* within 0\.1 s"):
                await client.attach("f").wait(timeout=0.1)

    play(main)


def test_an_async_client_raises_what_a_workflow_failed_with(
    ann: MemoryBroker, settings: Settings, worker: FakeWorker
) -> None:
    worker.answer = lambda _, message: failed(str(message.message_id))

    async def main() -> None:
        async with AsyncClient(ann, settings=settings) as client:
            with pytest.raises(KernelFailed) as caught:
                await client.run(FLOW, tiles=TILES, weights=ONES)
            assert caught.value.flow.state == "failed"
            with pytest.raises(BadRequest, match="a workflow has none itself"):
                await client.run(FLOW, tiles=TILES, weights=ONES, then=Then(GRAPHS["tell"]))

    play(main)

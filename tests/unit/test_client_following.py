"""What the clients make of continuations: what is sent, whose future gets what, and who is told when a chain ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import kaasq
from kaasq import Output, Then
from kaasq.broker import Message as Sent
from kaasq.errors import BadRequest, BufferMissing, KernelFailed, NotReached
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.messages import Condition, Element, ErrorBody, Next, Reply, Request, Source
from kaasq.settings import Settings
from kaasq_producers import AsyncClient, Client
from tests.support import graphs
from tests.support.fake_worker import INFO, FakeWorker, Held, saxpy, sends_hash, unknown_graph

X = np.arange(4, dtype=np.float32)
GRAPH = graphs.saxpy()
OTHER = graphs.saxpy(name="other")


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def worker(node: MemoryNode, held: Held) -> Iterator[FakeWorker]:
    with FakeWorker(MemoryBroker(node, "worker"), held) as made:
        yield made


def chain(**changes: Any) -> Then:
    """Two after each other, and what hangs on a condition."""
    last = Then(GRAPH, x=Output("out"), y=X, name="last")
    return Then(OTHER, **{"x": Output("out"), "y": X, "name": "next", "then": last, **changes})


def step(message: Sent, number: int, reply: Reply) -> tuple[Reply, str]:
    key = f"{message.message_id}+{number}"
    return Reply(id=key, status=reply.status, outputs=reply.outputs, error=reply.error, worker=INFO), key


def ok(request: Request, message: Sent) -> Reply:
    return saxpy(request, message)


FAILED = Reply(id="", status="error", error=ErrorBody(code="kernel_failed", message="it crashed"))


def test_the_request_says_what_follows(client: Client, worker: FakeWorker, held: Held) -> None:
    when = Output("out", index=1) > np.float32(2.5)
    client.submit(GRAPH, x=X, y=X, then=chain(a=Output("out", index=3), when=when, pool="far", timeout=2))
    request, _ = held.next()
    (following,) = request.then
    assert following.graph == OTHER.freeze()
    assert following.condition == Condition(output="out", index=1, op=">", value=2.5)
    assert following.bind == {"x": Source(output="out"), "y": X.tobytes()}
    assert following.scalars == {"a": Element(output="out", index=3)}
    assert (following.name, following.pool, following.timeout_ms) == ("next", "far", 2000)
    assert [each.name for each in following.then] == ["last"]


def test_graphs_travel_whole_once_and_then_as_hashes(client: Client, worker: FakeWorker) -> None:
    worker.answer = ok
    for _ in range(3):
        client.run(GRAPH, x=X, y=X, then=chain())
    sizes = [len(each.body) for each in worker.messages]
    assert [sends_hash(each) for each in worker.messages] == [False, True, True]
    assert sizes[1] < sizes[0] / 2
    worker.forget_graphs()
    client.run(GRAPH, x=X, y=X, then=chain())
    assert worker.unknown == 1
    assert not sends_hash(worker.messages[-1])
    assert worker.requests[-1].then[0].graph == OTHER.freeze()


def test_each_step_has_its_reply_whatever_comes_first(client: Client, worker: FakeWorker, held: Held) -> None:
    future = client.submit(GRAPH, x=X, y=X, then=chain())
    request, message = held.next()
    reply = saxpy(request, message)
    for number in (2, 1):
        answer, key = step(message, number, reply)
        worker.reply(message, answer, correlation_id=key)
    assert future.then["last"].result(5).request_id == f"{message.message_id}+2"
    assert future.then[0].result(5).request_id == future.then["next"].request_id
    assert not future.done()
    worker.reply(message, reply)
    assert future.result(5).then is future.then
    assert len(client._usable().pending) == 0


def test_a_condition_that_did_not_hold_is_told(client: Client, worker: FakeWorker, held: Held) -> None:
    future = client.submit(GRAPH, x=X, y=X, then=[chain(), Then(GRAPH, x=X, y=Output("out"), name="sibling")])
    request, message = held.next()
    first = message.message_id
    told = (Next(id=f"{first}+1", name="next", skipped="so it is"), Next(id=f"{first}+3", name="sibling"))
    reply = saxpy(request, message)
    worker.reply(message, Reply(id=reply.id, status="ok", outputs=reply.outputs, then=told, worker=INFO))
    future.result(5)
    for name in ("next", "last"):
        with pytest.raises(NotReached, match=f"step '{name}' does not run: so it is"):
            future.then[name].result(5)
    assert not future.then["sibling"].done()


def test_after_a_failure_those_who_wait_for_what_follows_learn_the_cause(
    client: Client, worker: FakeWorker, held: Held
) -> None:
    future = client.submit(GRAPH, x=X, y=X, then=chain())
    request, message = held.next()
    worker.reply(message, saxpy(request, message))
    answer, key = step(message, 1, FAILED)
    worker.reply(message, answer, correlation_id=key)
    with pytest.raises(KernelFailed):
        future.then["next"].result(5)
    with pytest.raises(NotReached, match="ended with kernel_failed: it crashed") as caught:
        future.then["last"].result(5)
    assert caught.value.detail["cause"] == "kernel_failed"
    assert isinstance(caught.value.__cause__, KernelFailed)


def test_the_time_is_that_of_the_whole_chain(client: Client, worker: FakeWorker, held: Held) -> None:
    future = client.submit(GRAPH, x=X, y=X, timeout=0.2, then=chain())
    request, message = held.next()
    worker.reply(message, saxpy(request, message))
    future.result(5)
    for each in future.then:
        with pytest.raises(kaasq.ReplyTimeout):
            each.result(5)


def test_cancelling_a_request_cancels_what_follows(client: Client, worker: FakeWorker, held: Held) -> None:
    future = client.submit(GRAPH, x=X, y=X, then=chain())
    held.next()
    assert future.cancel()
    for each in future.then:
        with pytest.raises(kaasq.Cancelled):
            each.result(5)
    assert len(client._usable().pending) == 0


def test_cancelling_a_step_cancels_what_follows_that(client: Client, worker: FakeWorker, held: Held) -> None:
    future = client.submit(GRAPH, x=X, y=X, then=[chain(), Then(GRAPH, x=X, y=X, name="sibling")])
    held.next()
    assert future.then["next"].cancel()
    with pytest.raises(kaasq.Cancelled):
        future.then["last"].result(5)
    with pytest.raises(concurrent.futures.CancelledError):
        future.then["next"].result(5)
    assert not future.done()
    assert not future.then["sibling"].done()


def test_replies_that_were_lost_are_asked_for_by_asking_for_the_request(
    node: MemoryNode, settings: Settings, worker: FakeWorker, held: Held
) -> None:
    broker = MemoryBroker(node, "ann")
    with Client(broker, settings=settings) as client:
        worker.answer = ok
        for graph in (GRAPH, OTHER):
            client.run(graph, x=X, y=X)
        worker.answer = held
        future = client.submit(GRAPH, x=X, y=X, then=chain())  # by its graphs' hashes now
        request, message = held.next()
        worker.reply(message, saxpy(request, message))
        future.result(5)
        worker.forget_graphs()  # it was restarted, too
        core, call = client._usable(), future._call
        core._publishing.ask_for_replies()
        request, message = held.next()
        assert worker.unknown == 1
        assert message.message_id == call.id
        for number in (1, 2):
            answer, key = step(message, number, saxpy(request, message))
            worker.reply(message, answer, correlation_id=key)
        assert future.then["last"].result(5)["out"].shape == (4,)
        assert not core.pending._chains


def test_closing_tells_everybody(client: Client, worker: FakeWorker, held: Held) -> None:
    future = client.submit(GRAPH, x=X, y=X, then=chain())
    held.next()
    client.close()
    for each in (future, *future.then):
        with pytest.raises(kaasq.BrokerLost):
            each.result(5)


def test_what_could_not_be_published_has_no_steps(client: Client) -> None:
    future = client.submit(GRAPH, x=X, y=X, then=chain())
    with pytest.raises(kaasq.Unroutable):
        future.result(5)
    for each in future.then:
        with pytest.raises(NotReached, match="ended with unroutable"):
            each.result(5)


@pytest.mark.parametrize(
    ("then", "kind", "told"),
    [
        (GRAPH, BadRequest, "then: expected kaasq.Then, or several of them, given a Graph"),
        ([GRAPH], BadRequest, "then: expected kaasq.Then, or several of them, given a Graph"),
        ("next", BadRequest, "then: expected kaasq.Then, or several of them, given a str"),
        (lambda: Then(3), BadRequest, "then[0].graph: expected a kaasq.Graph, given a int"),  # type: ignore[arg-type]
        (lambda: Then(GRAPH, x=X), BufferMissing, "then[0].bind.y: nothing is bound to input 'y'"),
        (lambda: Then(GRAPH, x=X, y=X, q=X), BadRequest, "then[0].bind.q: the graph has no buffer or scalar 'q'"),
        (lambda: Then(GRAPH, x=Output("no"), y=X), BadRequest, "then[0].bind.x: graph 'saxpy' has no output 'no'"),
        (lambda: Then(GRAPH, x=Output("out", index=1), y=X), BadRequest, "then[0].bind.x: an input takes an output"),
        (lambda: Then(GRAPH, x=Output("out", offset=-1), y=X), BadRequest, "then[0].bind.x.offset: expected a whole"),
        (lambda: Then(GRAPH, x=Output(3), y=X), BadRequest, "then[0].bind.x: an output's name is a str"),  # type: ignore[arg-type]
        (lambda: Then(GRAPH, x=X, y=X, a=Output("out", offset=1)), BadRequest, "then[0].scalars.a: a scalar takes"),
        (lambda: Then(GRAPH, x=X, y=X, timeout=-1), BadRequest, "then[0].timeout: expected a time"),
        (lambda: Then(GRAPH, x=X, y=X, when=True), BadRequest, "then[0].when: expected a comparison of an Output"),  # type: ignore[arg-type]
        (lambda: Then(GRAPH, x=X, y=X, when=Output("out") > "1"), BadRequest, "when: an output is compared with a"),  # type: ignore[operator]
        (lambda: Then(GRAPH, x=X, y=X, pool="No Pool"), BadRequest, "then[0].pool: 'No Pool' is no pool"),
        (lambda: [chain(), chain()], BadRequest, "then[1].name: 'next' is the name of then[0] already"),
        (lambda: Then(GRAPH, x=X, y=X, out=kaasq.Keep("")), BadRequest, "then[0].keep.out: '' is no name"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_sent(client: Client, then: Any, kind: Any, told: str) -> None:
    with pytest.raises(kind) as caught:
        client.submit(GRAPH, x=X, y=X, then=then() if callable(then) else then)
    assert str(caught.value).startswith(told)


def test_only_what_follows_takes_outputs(client: Client) -> None:
    with pytest.raises(BadRequest, match=r"bind.x: Output\('out'\): only what follows a request"):
        client.submit(GRAPH, x=Output("out"), y=X)


def test_steps_that_are_not_there_are_named(client: Client, worker: FakeWorker, held: Held) -> None:
    future = client.submit(GRAPH, x=X, y=X, then=chain())
    held.next()
    with pytest.raises(KeyError, match="nothing that follows is called 'nope': 'next', 'last'"):
        future.then["nope"]
    assert len(client.submit(GRAPH, x=X, y=X).then) == 0


# -------------------------------------------------------------------------------------------------------- event loops


def test_in_an_event_loop_what_follows_is_awaited(
    node: MemoryNode, settings: Settings, worker: FakeWorker, held: Held
) -> None:
    async def main() -> None:
        async with AsyncClient(MemoryBroker(node, "ann"), settings=settings) as client:
            future = client.submit(GRAPH, x=X, y=X, then=chain())
            request, message = await asyncio.to_thread(held.next)
            worker.reply(message, saxpy(request, message))
            result = await future
            assert result.then is future.then
            answer, key = step(message, 1, saxpy(request, message))
            worker.reply(message, answer, correlation_id=key)
            assert (await result.then["next"]).request_id == key
            answer, key = step(message, 2, FAILED)
            worker.reply(message, answer, correlation_id=key)
            with pytest.raises(KernelFailed):
                await result.then["last"]

    asyncio.run(main())


def test_in_an_event_loop_a_cancelled_request_takes_what_follows_with_it(
    node: MemoryNode, settings: Settings, worker: FakeWorker, held: Held
) -> None:
    async def main() -> None:
        async with AsyncClient(MemoryBroker(node, "ann"), settings=settings) as client:
            never = client.submit(GRAPH, x=X, y=X, then=chain())
            never.cancel()  # before it was sent
            assert all(each.cancelled() for each in never.then)
            sent = client.submit(GRAPH, x=X, y=X, then=chain())
            await asyncio.to_thread(held.next)
            sent.cancel()
            for each in sent.then:
                with pytest.raises(kaasq.Cancelled):
                    await each
            wrong = client.submit(GRAPH, x=X, then=chain())
            with pytest.raises(BufferMissing):
                await wrong
            with pytest.raises(NotReached):
                await wrong.then["next"]

    asyncio.run(main())


def test_a_reply_that_a_worker_does_not_know_a_graph_is_not_the_end_of_a_chain(
    client: Client, worker: FakeWorker, held: Held
) -> None:
    worker.answer = ok
    client.run(GRAPH, x=X, y=X, then=chain())
    worker.answer = held
    future = client.submit(GRAPH, x=X, y=X, then=chain())
    _, message = held.next()
    worker.reply(message, unknown_graph(message))
    request, message = held.next()
    assert not sends_hash(message)
    worker.reply(message, saxpy(request, message))
    assert future.result(5)["out"].shape == (4,)

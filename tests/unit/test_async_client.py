"""What only AsyncClient does: it belongs to a loop, blocks nothing, ends quietly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaasq.broker import Message, State
from kaasq.errors import BadRequest, BrokerLost, BrokerRefused, BufferMissing, BufferSize, KaasqError, ReplyTimeout
from kaasq.memory import MemoryBroker
from kaasq.messages import Output, Reply, Request, Stored
from kaasq_producers import AsyncClient, BufferRef
from kaasq_producers.prepare import QUICK_BYTES, Preparer
from tests.support import graphs
from tests.support.async_clients import Bench, Gate, GatedBroker, bench
from tests.support.fake_worker import saxpy
from tests.support.loops import Ticker, play, until

ROOT = Path(__file__).parents[2]
X = np.arange(4, dtype=np.float32)
GRAPH = graphs.saxpy()
MIB = 1 << 20
TRIES = 3  # the machine may be busy with something else for longer than what is measured


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


# ------------------------------------------------------------------------------------------------------------- window


def test_ten_thousand_at_once_are_bounded_by_the_limit(on: Bench) -> None:
    most = 0

    async def main() -> None:
        async with on.client(pending_limit=100, timeout=60.0) as client:
            await client.connect()

            def answer(request: Request, message: Message) -> Reply:
                nonlocal most
                assert client._core is not None
                most = max(most, len(client._core.pending))
                return saxpy(request, message)

            on.worker.answer = answer
            results = await asyncio.gather(*(client.run(GRAPH, x=X, y=X, a=float(i)) for i in range(10_000)))
            for i, result in enumerate(results):
                assert result["out"][1] == i + 1
            assert client._core is not None
            assert len(client._core.pending) == 0

    play(main)
    assert 50 <= most <= 100


def test_loop_has_its_turns_while_thousands_are_sent_and_answered(on: Bench) -> None:
    """Counted in requests, not in seconds: those of one turn of the loop are few, however many could be dealt with."""

    async def main() -> None:
        async with on.client(pending_limit=2_500, timeout=60.0) as client:
            answered = most_answered = most_sent = 0

            def count(_: object) -> None:
                nonlocal answered
                answered += 1

            futures = [client.submit(GRAPH, x=X, y=X) for _ in range(5_000)]
            for each in futures:
                each.add_done_callback(count)
            await until(lambda: client._core is not None)
            assert client._core is not None
            piled_up = False
            while answered < len(futures):
                if answered + len(client._core.pending) > 1_000 and not piled_up:
                    while client._core.pending:  # the loop does not give way until all of them are answered
                        time.sleep(0.001)  # noqa: ASYNC251
                    piled_up = True
                before = answered, answered + len(client._core.pending)
                await asyncio.sleep(0)  # a turn of the loop
                most_answered = max(most_answered, answered - before[0])
                most_sent = max(most_sent, answered + len(client._core.pending) - before[1])
            await asyncio.gather(*futures)
            assert piled_up
            assert most_answered <= 500
            assert most_sent <= 500

    play(main)


def test_streaming_many_with_a_window(on: Bench) -> None:
    async def main() -> None:
        async with on.client() as client:
            seen = set()
            async for done in client.map(GRAPH, ({"x": X, "a": float(i)} for i in range(2_000)), limit=32, y=X):
                assert done.result["out"][1] == done.index + 1
                assert client._core is not None
                assert len(client._core.pending) <= 32
                seen.add(done.index)
            assert seen == set(range(2_000))

    play(main)


def test_wrong_inputs_in_a_stream_are_errors_of_their_own(on: Bench) -> None:
    async def main() -> None:
        async with on.client() as client:
            inputs = [{"x": X}, {"x": X[:3]}, {"x": X, "y": X}]
            ended = {done.index: done.error async for done in client.map(GRAPH, inputs, y=X)}
            assert ended[0] is None
            assert isinstance(ended[1], BufferSize)
            assert "'y' is given twice" in str(ended[2])
            with pytest.raises(BadRequest, match=r"inputs: expected mappings .* given a ndarray"):
                async for _ in client.map(GRAPH, [X]):  # type: ignore[list-item]
                    pass
            with pytest.raises(BadRequest, match="limit: expected a number of requests, 1 or more, given 0"):
                client.map(GRAPH, [], limit=0)

    play(main)


# ----------------------------------------------------------------------------------------------------- never blocking


def test_whatever_may_block_runs_on_other_threads(on: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[int]] = {}

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            seen.setdefault(name, set()).add(threading.get_ident())
            return function(*args, **named)

        return call

    for name in ("open", "close"):
        monkeypatch.setattr(MemoryBroker, name, watched(f"broker {name}", getattr(MemoryBroker, name)))

    async def main() -> None:
        async with on.client(inline_limit=8) as client:
            for name in ("put", "get", "read", "delete", "names", "close"):
                monkeypatch.setattr(client.buffers, name, watched(name, getattr(client.buffers, name)))
            ref = await client.put(X, "n")
            on.answers_with(out=Output(nbytes=16, ref=ref.ref, dtype="float32", shape=(4,)))
            result = await client.run(GRAPH, x=X, y=X)
            np.testing.assert_array_equal(result["out"], X)
            np.testing.assert_array_equal(await client.get("n"), X)
            await client.names()
            await client.delete("n")

    play(main)
    assert seen.keys() == {"broker open", "broker close", "put", "get", "read", "delete", "names", "close"}
    assert not any(threading.get_ident() in each for each in seen.values())


def test_loop_ticks_while_large_outputs_are_read(on: Bench) -> None:
    """The longest gap is well below the time that reading them takes."""

    async def main() -> None:
        async with on.client() as client:
            data = np.random.default_rng(1).random(16 * MIB, dtype=np.float32)  # 64 MiB
            ref = await client.put(data)
            same = Output(nbytes=data.nbytes, ref=ref.ref, dtype="float32", shape=data.shape)
            on.answers_with(a=same, b=same, c=same, d=same)
            ratios = []
            for _ in range(TRIES):
                started = time.perf_counter()
                for _ in range(4):
                    client.buffers.get(ref)
                alone = time.perf_counter() - started
                async with Ticker() as ticker:
                    result = await client.run(GRAPH, x=X, y=X)
                ratios.append(ticker.longest_s / alone)
                started = time.thread_time()  # others may have the processor meanwhile
                assert [result[name].nbytes for name in "abcd"] == [64 * MIB] * 4
                assert time.thread_time() - started < alone / 4  # no copy
            assert min(ratios) < 0.5, ratios

    play(main)


def test_loop_ticks_while_large_inputs_are_stored(on: Bench) -> None:
    async def main() -> None:
        async with on.client() as client:
            on.answers_with()
            graph = graphs.saxpy(16 * MIB)
            ratios = []
            for seed in range(TRIES):
                data = np.random.default_rng(seed).random(16 * MIB, dtype=np.float32)
                async with Ticker() as ticker:
                    started = time.perf_counter()
                    await client.run(graph, x=data, y=data)
                    ratios.append(ticker.longest_s / (time.perf_counter() - started))
                assert {type(each) for each in on.worker.requests[-1].bind.values()} == {Stored}
            assert min(ratios) < 0.5, ratios

    play(main)


@pytest.mark.parametrize(
    ("given", "quick"),
    [
        (np.zeros(QUICK_BYTES // 8, np.float32), True),
        ([0.0] * 512, True),
        ([0.0] * 4096, False),
        (np.zeros(QUICK_BYTES // 4, np.float32), False),
        (BufferRef(ref="ab" * 32, nbytes=QUICK_BYTES), True),
    ],
    ids=["array", "short list", "list", "large array", "stored"],
)
def test_quick_requests_are_prepared_on_the_loop(on: Bench, given: Any, quick: bool) -> None:
    n = given.nbytes // 4 if isinstance(given, BufferRef) else len(given)
    preparer = Preparer(on.client().settings, None)
    assert preparer.is_quick(graphs.saxpy(n), {"x": given, "a": 2.0}, {"y": given}) is quick
    assert preparer.is_quick(graphs.saxpy(n), {"x": given}, {"y": given}, {"a": 2.0}) is quick


# ------------------------------------------------------------------------------------------------------------ outputs


def test_kept_outputs_are_read_when_they_are_asked_for(on: Bench) -> None:
    async def main() -> None:
        async with on.client() as client:
            ref = await client.put(X)
            on.answers_with(
                kept=Output(nbytes=16, ref=ref.ref, dtype="float32", shape=(4,), name="n", version=1),
                large=Output(nbytes=16, ref=ref.ref, dtype="float32", shape=(4,)),
                small=Output(nbytes=16, inline=X.tobytes(), dtype="float32", shape=(4,)),
            )
            result = await client.run(GRAPH, x=X, y=X)
            np.testing.assert_array_equal(result["small"], result["large"])
            with pytest.raises(
                BufferMissing, match=r"'kept' lies in the store.*await client.fetch\(result\)"
            ) as caught:
                result["kept"]
            assert (caught.value.buffer, caught.value.ref) == ("kept", ref.ref)
            np.testing.assert_array_equal((await client.fetch(result))["kept"], X)

    play(main)


def test_outputs_stay_in_the_store_if_wanted(on: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with on.client(fetch=False) as client:
            ref = await client.put(X)
            on.answers_with(out=Output(nbytes=16, ref=ref.ref, dtype="float32", shape=(4,)))
            result = await client.run(GRAPH, x=X, y=X)
            assert result.refs["out"].ref == ref.ref
            with pytest.raises(BufferMissing):
                result["out"]
            assert (await client.fetch(result)) is result
            np.testing.assert_array_equal(result["out"], X)

    play(main)


# --------------------------------------------------------------------------------------------------------- whose loop


def test_client_belongs_to_the_loop_of_its_first_use(on: Bench) -> None:
    client = on.client()

    async def use() -> None:
        await client.run(GRAPH, x=X, y=X)

    with asyncio.Runner() as runner:
        runner.run(use())
        for each in (use, client.close):
            with pytest.raises(KaasqError, match="belongs to another event loop"):
                asyncio.run(each())
        with pytest.raises(KaasqError, match=r"in a running event loop only.*kaasq\.Client is for threads"):
            client.submit(GRAPH, x=X, y=X)
        runner.run(client.close())


def test_forked_child_is_refused_its_parents_client(on: Bench) -> None:
    async def main() -> None:
        async with on.client() as client:
            await client.run(GRAPH, x=X, y=X)
            pid = os.fork()
            if pid == 0:
                code = 1
                with contextlib.suppress(BaseException):
                    try:
                        client.submit(GRAPH, x=X, y=X)
                    except KaasqError as error:
                        await client.close()  # leaves the parent's alone
                        code = 42 if "one client per process" in error.message else 2
                os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42  # noqa: ASYNC222
            await client.run(GRAPH, x=X, y=X)

    play(main)


def test_loop_that_is_closed_under_the_client(on: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Replies come to nobody, without a word; another loop may close the client."""
    held = on.held()
    client = on.client()
    loop = asyncio.new_event_loop()

    async def submit() -> list[Any]:
        return [client.submit(GRAPH, x=X, y=X) for _ in range(3)]

    futures = loop.run_until_complete(submit())
    loop.run_until_complete(client.connect())
    loop.run_until_complete(asyncio.sleep(0.05))
    taken = [held.next() for _ in futures]
    loop.close()
    for request, message in taken:
        on.worker.reply(message, saxpy(request, message))
    deadline = time.monotonic() + 5
    while client._core is not None and client._core.pending:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    play(client.close)
    assert not any(each.done() for each in futures)
    assert "callback.failed" not in "".join(capsys.readouterr())


# ---------------------------------------------------------------------------------------------------------------- end


def test_closing_ends_requests_wherever_they_are(on: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        client = on.client(pending_limit=1)
        held = on.held()
        gate = Gate()
        monkeypatch.setattr(client.buffers, "put_all", gate.before(client.buffers.put_all))
        sent = client.submit(GRAPH, x=X, y=X)
        await asyncio.to_thread(held.next)
        waiting = client.submit(GRAPH, x=X, y=X)
        large = graphs.saxpy(MIB)
        storing = client.submit(large, x=np.zeros(MIB, np.float32), y=np.zeros(MIB, np.float32))
        await until(gate.reached.is_set)
        closing = asyncio.gather(client.close(), client.close())
        await asyncio.sleep(0.01)
        gate.open()
        await closing
        for future in (sent, waiting, storing):
            assert future.done()
            with pytest.raises(BrokerLost, match="clos"):
                await future
        with pytest.raises(BrokerLost, match="the client is closed"):
            client.submit(GRAPH, x=X, y=X)
        with pytest.raises(BrokerLost, match="the client is closed"):
            await client.get("x")
        await client.close()

    play(main)


def test_inputs_that_are_ready_when_the_client_is_closed(on: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread has brought them to the store, and the loop hears of it in the same turn in which it closes."""

    async def main() -> None:
        def away(timeout_s: float) -> None:
            raise BrokerLost("nobody answers")

        broker = MemoryBroker(on.node, "ann")
        monkeypatch.setattr(broker, "open", away)
        client = on.client(broker, inline_limit=8)
        future = client.submit(GRAPH, x=X, y=X, timeout=60)
        time.sleep(0.3)  # noqa: ASYNC251  # not giving way
        side = client._side
        assert side is not None
        while not future.done():
            side.inbox._run()  # what the threads posted; their futures' callbacks come in the loop's next turn
            await client.close()
        with pytest.raises(BrokerLost):
            await future

    play(main)


def test_closing_is_quiet_about_futures_that_nobody_looks_at(on: Bench) -> None:
    async def main() -> None:
        on.held()
        async with on.client(pending_limit=2) as client:
            for _ in range(5):
                client.submit(GRAPH, x=X, y=X)
            await client.connect()

    play(main)  # fails over "exception was never retrieved"


def test_closing_waits_for_a_read_of_the_store(on: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    async def main() -> None:
        client = on.client()
        await client.put(X, "x")
        gate, get, close = Gate(), client.buffers.get, client.buffers.close

        def reading(key: str) -> Any:
            gate()
            value = get(key)
            order.append("read")
            return value

        def closing_it() -> None:
            order.append("closed")
            close()

        monkeypatch.setattr(client.buffers, "get", reading)
        monkeypatch.setattr(client.buffers, "close", closing_it)
        got = asyncio.create_task(client.get("x"))
        await until(gate.reached.is_set)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0.02)
        gate.open()
        await closing
        with pytest.raises(BrokerLost):
            await got

    play(main)
    assert order == ["read", "closed"]


def test_broker_that_is_lost_for_good_ends_all_requests(on: Bench) -> None:
    async def main() -> None:
        broker = MemoryBroker(on.node, "ann")
        async with on.client(broker, pending_limit=1) as client:
            held = on.held()
            futures = [client.submit(GRAPH, x=X, y=X) for _ in range(3)]
            await asyncio.to_thread(held.next)
            broker._io.post(broker._tell, State.FAILED, BrokerRefused("the user was deleted"))
            for each in futures:
                with pytest.raises(BrokerRefused, match="the user was deleted"):
                    await each
            with pytest.raises(BrokerRefused):
                await client.run(GRAPH, x=X, y=X)

    play(main)


def test_timeout_while_connecting_says_so(on: Bench) -> None:
    broker = GatedBroker(on.node)

    async def main() -> None:
        async with on.client(broker) as client:
            with pytest.raises(ReplyTimeout, match=r"had not answered yet after 0\.05 s"):
                await client.run(GRAPH, x=X, y=X, timeout=0.05)
            broker.gate.open()

    play(main)


def test_client_that_was_never_used_can_be_closed(on: Bench) -> None:
    async def main() -> None:
        async with AsyncClient("amqp://bob:x@nowhere.invalid/", settings=on.client().settings) as client:
            assert repr(client) == "<AsyncClient of pool 'default' as 'bob', not connected yet>"
        await AsyncClient("amqp://bob:x@nowhere.invalid/", settings=on.client().settings).close()
        with pytest.raises(BadRequest, match="threads: expected 1 thread or more, given 0"):
            AsyncClient(threads=0)

    play(main)


INTERRUPTED = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.support.async_clients import bench
from tests.support import graphs

async def main(on):
    on.held()
    async with on.client() as client:
        await client.connect()
        asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGINT)
        await asyncio.gather(*(client.run(graphs.saxpy(), x=[1, 2, 3, 4], y=[0, 0, 0, 0]) for _ in range(5)))

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
with bench(Path(sys.argv[1])) as on:
    try:
        asyncio.run(main(on))
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_keyboard_interrupt_ends_quietly(tmp_path: Path) -> None:
    program = [sys.executable, "-W", "error", "-c", INTERRUPTED, str(tmp_path)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\n", "", 0)

"""A stream of requests: its window, its order, its errors, and its end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from kaasq.errors import BrokerLost, KaasqError
from kaasq.messages import Reply
from kaasq.model import GraphSpec
from kaasq_producers.completions import completions
from kaasq_producers.result import Result
from tests.support.loops import play, until


class Requests:
    """Where a stream submits to: futures that the test settles."""

    def __init__(self) -> None:
        self.open: dict[int, asyncio.Future[Result]] = {}
        self.most = 0

    def __call__(self, inputs: Any) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.open[inputs["n"]] = future
        self.most = max(self.most, self.running)
        return future

    @property
    def running(self) -> int:
        return sum(not each.done() for each in self.open.values())

    def succeed(self, n: int) -> None:
        self.open[n].set_result(Result(Reply(id=str(n), status="ok"), GraphSpec(name="g")))


class Numbers:
    """A source that knows how far it was asked."""

    def __init__(self, count: int | None = None) -> None:
        self.asked = 0
        self._count = count

    def __iter__(self) -> Iterator[dict[str, int]]:
        for n in itertools.count():
            self.asked += 1
            if n == self._count:
                return
            yield {"n": n}


def test_results_come_in_the_order_of_completion() -> None:
    async def main() -> None:
        requests = Requests()
        stream = completions(requests, Numbers(4), 4)
        first = asyncio.ensure_future(anext(stream))
        await until(lambda: len(requests.open) == 4)
        for n in (2, 0, 3, 1):
            requests.succeed(n)
        seen = [await first, *[each async for each in stream]]
        assert [each.index for each in seen] == [2, 0, 3, 1]
        assert [each.result.request_id for each in seen] == ["2", "0", "3", "1"]
        assert [each.inputs for each in seen] == [{"n": 2}, {"n": 0}, {"n": 3}, {"n": 1}]

    play(main)


def test_window_counts_what_is_not_taken_yet() -> None:
    async def main() -> None:
        requests = Requests()
        source = Numbers()  # without an end
        stream = completions(requests, source, 3)
        taken = 0
        async with aclosing(stream):
            first = asyncio.ensure_future(anext(stream))
            await until(lambda: len(requests.open) == 3)
            for n in range(3):
                requests.succeed(n)
            await first
            for _ in range(20):  # the consumer takes its time; all is answered at once
                await asyncio.sleep(0)
                for n, future in list(requests.open.items()):
                    if not future.done():
                        requests.succeed(n)
            assert source.asked == 3  # the first is still in the consumer's hands
            async for _ in stream:
                taken += 1
                for n, future in list(requests.open.items()):
                    if not future.done():
                        requests.succeed(n)
                await asyncio.sleep(0)
                assert source.asked <= 1 + taken + 3
                if taken == 50:
                    break
        assert requests.most <= 3

    play(main)


def test_error_of_one_request_is_its_own() -> None:
    async def main() -> None:
        requests = Requests()
        stream = completions(requests, Numbers(3), 3)
        first = asyncio.ensure_future(anext(stream))
        await until(lambda: len(requests.open) == 3)
        requests.succeed(0)
        requests.open[1].set_exception(BrokerLost("gone"))
        requests.succeed(2)
        seen = [await first, *[each async for each in stream]]
        assert [each.error is None for each in seen] == [True, False, True]
        with pytest.raises(BrokerLost, match="gone"):
            _ = seen[1].result

    play(main)


def test_error_that_is_no_requests_ends_the_stream() -> None:
    async def main() -> None:
        requests = Requests()
        stream = completions(requests, Numbers(2), 2)
        first = asyncio.ensure_future(anext(stream))
        await until(lambda: len(requests.open) == 2)
        requests.open[0].set_exception(MemoryError())
        with pytest.raises(MemoryError):
            await first
        assert requests.open[1].cancelled()

    play(main)


def test_error_of_the_source_is_raised_after_what_was_sent() -> None:
    def broken() -> Iterator[dict[str, int]]:
        yield {"n": 0}
        yield {"n": 1}
        raise ZeroDivisionError

    async def main() -> None:
        requests = Requests()
        stream = completions(requests, broken(), 8)
        first = asyncio.ensure_future(anext(stream))
        await until(lambda: len(requests.open) == 2)
        requests.succeed(1)
        assert (await first).index == 1
        second = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        assert not second.done()
        requests.succeed(0)
        assert (await second).index == 0
        with pytest.raises(ZeroDivisionError):
            await anext(stream)

    play(main)


def test_slow_source_holds_no_results_back() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def slow() -> AsyncIterator[dict[str, int]]:
            yield {"n": 0}
            await go.wait()
            yield {"n": 1}

        requests = Requests()
        stream = completions(requests, slow(), 8)
        first = asyncio.ensure_future(anext(stream))
        await until(lambda: len(requests.open) == 1)
        requests.succeed(0)
        assert (await first).index == 0
        second = asyncio.ensure_future(anext(stream))
        go.set()
        await until(lambda: len(requests.open) == 2)
        requests.succeed(1)
        assert (await second).index == 1
        assert [each async for each in stream] == []

    play(main)


@pytest.mark.parametrize("how", ["break", "cancel"])
def test_stopping_early_cancels_what_is_on_its_way(how: str) -> None:
    async def main() -> None:
        requests = Requests()
        source = Numbers()

        async def consume() -> None:
            async with aclosing(completions(requests, source, 4)) as stream:
                async for _ in stream:
                    if how == "break":
                        break

        consuming = asyncio.ensure_future(consume())
        await until(lambda: len(requests.open) == 4)
        requests.succeed(0)
        if how == "cancel":
            await until(lambda: len(requests.open) == 5)
            consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        assert requests.running == 0
        assert sum(each.cancelled() for each in requests.open.values()) >= 3
        asked = source.asked
        await asyncio.sleep(0.01)
        assert source.asked == asked

    play(main)


def test_nothing_goes_on_once_the_stream_is_closed() -> None:
    async def main() -> None:
        requests = Requests()
        async with aclosing(completions(requests, Numbers(), 4)) as stream:
            taking = asyncio.ensure_future(anext(stream))
            await until(lambda: len(requests.open) == 4)
            requests.succeed(0)
            await taking
        for _ in range(5):
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await asyncio.sleep(0)

    play(main)


def test_nothing_to_do_is_done_at_once() -> None:
    async def main() -> list[Any]:
        return [each async for each in completions(Requests(), [], 1)]

    assert play(main) == []


def test_refused_submit_ends_the_stream() -> None:
    def refuse(_: Any) -> Any:
        raise KaasqError("the client belongs to another event loop")

    async def main() -> None:
        with pytest.raises(KaasqError, match="another event loop"):
            await anext(completions(refuse, Numbers(), 2))

    play(main)

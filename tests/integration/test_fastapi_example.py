"""The example service: driven over HTTP in this process, and once as a user starts it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import kaasq
from examples.fastapi_service import failures
from examples.fastapi_service.app import MAX_BATCH, WINDOW, create_app
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.settings import Settings
from kaasq_bench.children import tied
from tests.support.async_clients import Bench, bench
from tests.support.loops import play, until
from tests.support.workers import running_worker

ROOT = Path(__file__).parents[2]
VECTORS = np.random.default_rng(1).standard_normal((300, 16)).astype(np.float32)


def expected(query: list[float], top: int) -> list[int]:
    vector = np.array(query, np.float32)
    scores = VECTORS @ vector / np.linalg.norm(VECTORS, axis=1) / np.linalg.norm(vector)
    return [int(each) for each in np.argsort(-scores)[:top]]


@asynccontextmanager
async def service(open_client: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(open_client, VECTORS)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://search") as http,
    ):
        yield http


def ids(found: dict[str, Any]) -> list[int]:
    return [each["id"] for each in found["matches"]]


def test_searches_health_batches_and_refusals() -> None:
    async def main() -> None:
        async with service(lambda: kaasq.local_async(device="cpu")) as http:
            query = [1.0, -2.0, *[0.5] * 14]
            found = await http.post("/search", json={"vector": query, "top": 3})
            assert found.status_code == 200
            assert ids(found.json()) == expected(query, 3)
            health = await http.get("/health")
            assert (health.status_code, health.json()["status"]) == (200, "ok")

            queries = np.random.default_rng(2).standard_normal((200, 16)).tolist()
            queries[7] = [1.0] * 3
            batch = await http.post("/search/batch", json={"vectors": queries, "top": 2})
            lines = {each["index"]: each for each in map(json.loads, batch.text.splitlines())}
            assert batch.headers["content-type"] == "application/x-ndjson"
            assert lines.keys() == set(range(200))
            assert lines[7]["error"]["code"] == "buffer_size"
            assert all(ids(each) == expected(queries[i], 2) for i, each in lines.items() if i != 7)

            wrong = await http.post("/search", json={"vector": [1.0, 2.0]})
            assert wrong.status_code == 400
            assert wrong.json()["error"]["code"] == "buffer_size"
            assert "declared as float32 (16,)" in wrong.json()["error"]["message"]
            refused: list[dict[str, Any]] = [{"vector": []}, {"vector": query, "top": 0}, {"vector": "x"}]
            for body in refused:
                assert (await http.post("/search", json=body)).status_code == 422
            many = {"vectors": [[1.0]] * (MAX_BATCH + 1)}
            assert (await http.post("/search/batch", json=many)).status_code == 422

    play(main)


def test_pool_without_a_worker_is_unavailable(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings(store=str(tmp_path / "store"))
        broker = MemoryBroker(MemoryNode(), "ann")
        async with service(lambda: kaasq.AsyncClient(broker, settings=settings)) as http:
            for answer in (await http.get("/health"), await http.post("/search", json={"vector": [1.0] * 16})):
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "unroutable"

    play(main)


def test_every_code_has_a_status_and_own_faults_tell_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    errors = [each for each in vars(kaasq).values() if isinstance(each, type) and issubclass(each, kaasq.KaasqError)]
    assert set(failures.STATUS) <= {each.code for each in errors}
    assert failures.status(kaasq.BufferSize(buffer="x", expected=1, given=2)) == 400
    assert failures.status(kaasq.KernelFailed("segmentation fault at 0x10")) == 500
    told = failures.body(kaasq.KernelFailed("segmentation fault at 0x10", request_id="r"))
    assert told == {"error": {"code": "kernel_failed", "message": "the service failed", "request_id": "r"}}
    assert caplog.messages == ["kernel_failed: request r: segmentation fault at 0x10"]


class Caller:
    """An HTTP client that hangs up when the test says so."""

    def __init__(self, path: str, body: object) -> None:
        self.scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "query_string": b"", "scheme": "http", "server": ("search", 80),
            "client": ("caller", 1), "headers": [(b"content-type", b"application/json")],
        }  # fmt: skip
        self._body = json.dumps(body).encode()
        self._asked = False
        self.hang_up = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        pass


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "body", "running"),
    [
        ("/search", {"vector": [1.0] * 16}, 1),
        ("/search/batch", {"vectors": [[1.0] * 16] * 500}, WINDOW),
    ],
)
def test_caller_that_hangs_up_cancels_what_it_asked_for(on: Bench, path: str, body: object, running: int) -> None:
    async def main() -> None:
        on.held()
        client = on.client()
        app = create_app(lambda: client, VECTORS)
        async with app.router.lifespan_context(app):
            caller = Caller(path, body)
            serving = asyncio.create_task(app(caller.scope, caller.receive, caller.send))
            await until(lambda: len(on.worker.messages) == running)
            core = client._core
            assert core is not None
            assert len(core.pending) == running
            caller.hang_up.set()
            await serving
            await until(lambda: len(core.pending) == 0)
        assert len(on.worker.messages) == running

    play(main)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def uvicorn(port: int, log: Path, **environment: str) -> Iterator[str]:
    """The service, as its own process; nothing may have gone wrong in it unheard."""
    command = ["-m", "uvicorn", "--factory", "examples.fastapi_service.app:create_app", "--port", str(port)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            tied(sys.executable, *command), cwd=ROOT, env={**os.environ, **environment}, stderr=errors
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until_s = time.monotonic() + 60
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until_s
            try:
                httpx.get(f"{url}/docs", timeout=2)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
        process.terminate()
        assert process.wait(30) in {0, -15}  # uvicorn ends itself with the signal, once all is closed
        assert "Traceback" not in log.read_text(), log.read_text()
        assert "never retrieved" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def test_as_the_readme_starts_it(broker_url: str, pool: str, tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", VECTORS)
    store = tmp_path / "store"
    places = {"KAASQ_BROKER_URL": broker_url, "KAASQ_POOL": pool, "KAASQ_STORE": str(store)}
    with (
        running_worker(broker_url, pool, store),
        uvicorn(free_port(), tmp_path / "uvicorn.log", SEARCH_VECTORS=str(tmp_path / "vectors.npy"), **places) as url,
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        until_s = time.monotonic() + 60
        while http.get("/health").status_code == 504:  # the first request compiles the kernel
            assert time.monotonic() < until_s
        query = [1.0, *[0.25] * 15]
        assert ids(http.post("/search", json={"vector": query, "top": 4}).json()) == expected(query, 4)
        with http.stream("POST", "/search/batch", json={"vectors": [query] * 100}) as answer:
            lines = [json.loads(each) for each in answer.iter_lines()]
        assert sorted(each["index"] for each in lines) == list(range(100))
        with http.stream("POST", "/search/batch", json={"vectors": [query] * 5000}) as answer:
            next(answer.iter_lines())  # and hang up
        assert http.get("/health").status_code == 200

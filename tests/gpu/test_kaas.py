"""Requests in the KaaS format on a GPU, as JSON over RabbitMQ: what the same requests give on the CPU device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import kaasq
from kaasq.ids import new_id
from tests.support.foreign import Program
from tests.support.kaas import CASES, FOLDER, SPELLINGS, Case, check, put
from tests.support.workers import running_worker

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def served(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[kaasq.Client, Program]]:
    store = tmp_path_factory.mktemp("kaas") / "store"
    pool = f"t{new_id()[-10:]}"
    with (
        running_worker(broker_url, pool, store, "--modules", str(FOLDER), device="cuda:0"),
        kaasq.Client(broker_url, pool=pool, store=store) as client,
        Program(broker_url, pool) as program,
    ):
        yield client, program


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_json_body_runs_as_it_stands(served: tuple[kaasq.Client, Program], case: Case, spelling: str) -> None:
    client, program = served
    for _ in range(2):  # the second one finds its inputs on the device
        put(client, case)
        reply = program.ask(case.body(spelling))
        assert reply["status"] == "ok", reply
        assert reply["worker"]["device"] == "cuda:0"
        check(client, case)

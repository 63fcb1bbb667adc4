"""Requests in the KaaS format on the CPU device: as JSON from a foreign program over RabbitMQ, and with kaasq.local."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaasq
from kaasq import kaas
from kaasq.ids import new_id
from kaasq.settings import Settings
from tests.support.foreign import Program
from tests.support.kaas import CASES, FOLDER, SPELLINGS, Case, check, put
from tests.support.workers import running_worker

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kaas"
DOCUMENTATION = ROOT / "docs" / "compatibility.md"
DOT = next(case for case in CASES if case.name == "dot")
POWERS = next(case for case in CASES if case.name == "powers")
SUM = next(case for case in CASES if case.name == "sum")

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_spelling = pytest.mark.parametrize("spelling", SPELLINGS)


class Served:
    """A pool with a worker whose module folder is ours to change."""

    def __init__(self, url: str, pool: str, folder: Path) -> None:
        self.modules = folder / "modules"
        self.client = kaasq.Client(url, pool=pool, store=folder / "store")
        self.program = Program(url, pool)

    def ask(self, body: dict[str, Any], request_id: str | None = None) -> dict[str, Any]:
        return self.program.ask(body, request_id)


@pytest.fixture(scope="module")
def served(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("kaas")
    shutil.copytree(FOLDER, folder / "modules")
    pool = f"t{new_id()[-10:]}"
    with running_worker(broker_url, pool, folder / "store", "--modules", str(folder / "modules")):
        made = Served(broker_url, pool, folder)
        with made.client, made.program:
            yield made


@pytest.fixture(scope="module")
def local() -> Iterator[kaasq.Client]:
    with kaasq.local(device="cpu", settings=Settings(modules=str(FOLDER))) as client:
        yield client


# -------------------------------------------------------------------------------- from a program that sends JSON


@each_case
@each_spelling
def test_json_body_runs_as_it_stands(served: Served, case: Case, spelling: str) -> None:
    for _ in range(2):  # the second one finds its inputs on the device
        put(served.client, case)
        reply = served.ask(case.body(spelling))
        assert reply["status"] == "ok", reply
        assert {each["name"] for each in reply["outputs"].values()} == set(case.left)
        check(served.client, case)


def test_other_keys_with_the_kernels_and_by_the_graphs_hash(served: Served) -> None:
    put(served.client, DOT)
    ones = np.ones(1024, np.uint32)
    served.client.put(ones, name="ones")
    whole = served.ask({**DOT.body(), "keys": {"b": "ones", "dot": "sum of a"}})
    assert whole["outputs"]["dot"]["name"] == "sum of a"
    by_hash = {
        "kaasq": 1,
        "graph": whole["graph"],
        "bind": {"a": {"name": "ones"}, "b": {"name": "vectors/b"}},
        "keep": {"dot": "sum of b"},
    }
    again = served.ask(by_hash)
    assert (again["status"], again["cache"]["misses"]) == ("ok", 0)
    assert "graph" not in again
    for key, array in (("sum of a", "vectors/a"), ("sum of b", "vectors/b")):
        assert served.client.get(key).view(np.uint32)[0] == DOT.given[array].sum(dtype=np.uint32)


def test_hash_that_the_worker_does_not_know_is_told(served: Served) -> None:
    assert served.ask({"kaasq": 1, "graph": "0" * 64})["error"]["code"] == "unknown_graph"


def test_reply_names_a_whole_graph_of_any_format_also_when_the_request_fails(served: Served) -> None:
    body = {**POWERS.body(), "keys": {"x": "no such object"}}
    reply = served.ask(body)
    assert (reply["error"]["code"], reply["error"]["detail"]["buffer"]) == ("buffer_missing", "x")
    assert reply["graph"] == kaas.load(body).graph.hash
    graph = json.loads(json.dumps({"graph": {"name": "g", "buffers": [{"name": "x", "role": "inout", "nbytes": 4}]}}))
    graph["graph"]["modules"] = {"m": {"source": 'extern "C" __global__ void k(int* x) { *x += 1; }'}}
    graph["graph"]["launches"] = [{"module": "m", "kernel": "k", "args": ["x"]}]
    graph["bind"] = {"x": "AQAAAA=="}
    reply = served.ask(graph)
    assert reply["outputs"]["x"]["inline"] == "AgAAAA=="
    again = served.ask({**graph, "graph": reply["graph"]})
    assert again["outputs"] == reply["outputs"]


def test_same_id_is_answered_from_its_outcome(served: Served) -> None:
    put(served.client, SUM)
    key = new_id()
    first, second = (served.ask(SUM.body(spelling), key) for spelling in SPELLINGS)
    assert first["outputs"]["total"]["version"] == second["outputs"]["total"]["version"]
    assert served.ask({**SUM.body(), "keys": {"total": "other"}}, key)["error"]["code"] == "conflict"


def test_wrong_request_is_told_with_its_place(served: Served) -> None:
    body = DOT.body()
    body["kernels"][1]["arguments"][0][0]["size"] = 17
    error = served.ask(body)["error"]
    assert (error["code"], error["detail"]["at"]) == ("bad_request", "kernels[1].arguments[0][0].size")


def test_object_too_small_for_its_offset_is_told(served: Served) -> None:
    served.client.put(np.zeros(1023, np.uint32), name="model/weights")
    error = served.ask(next(case for case in CASES if case.name == "offset").body())["error"]
    assert error["code"] == "buffer_size"


@pytest.mark.parametrize(
    ("library", "code", "says"),
    [
        ("../store/data.mdb", "forbidden", "not below"),
        ("/etc/passwd", "forbidden", "not below"),
        ("none.cu", "module_rejected", "kernels.cu"),
        ("@no such object", "module_rejected", "no object of that name"),
        ("host.so", "module_rejected", "device code only"),
        ("broken.cu", "module_rejected", "library 'broken.cu': the module does not compile"),
        ("empty.cu", "module_rejected", "library 'empty.cu': the module has no kernel 'sum'"),
    ],
)
def test_library_that_cannot_be_used_is_told(served: Served, library: str, code: str, says: str) -> None:
    (served.modules / "host.so").write_bytes(Path(sys.executable).resolve().read_bytes()[:4096])
    (served.modules / "broken.cu").write_text(
        'extern "C" __global__ void sum(unsigned *x, unsigned *out) { nonsense; }'
    )
    (served.modules / "empty.cu").write_text("// nothing")
    put(served.client, SUM)
    body = SUM.body()
    body["kernels"][0]["library"] = library
    error = served.ask(body)["error"]
    assert error["code"] == code
    assert says in error["message"]


def test_changed_library_is_used_from_the_next_request_on(served: Served) -> None:
    source = 'extern "C" __global__ void k(int* out) { *out = %d; }'
    launch = {"kernel": "k", "nGrid": 1, "nBlock": 1, "arguments": [[{"name": "out", "size": 4}, "o"]]}
    stored, file = ({"kernels": [{**launch, "library": library}]} for library in ("@modules/k", "k.cu"))
    for value in (1, 2, 3):
        (served.modules / "k.cu").write_text(source % value)
        served.client.put((source % (10 * value)).encode(), name="modules/k")
        for body, expected in ((file, value), (stored, 10 * value), (file, value)):
            assert served.ask(body)["status"] == "ok"
            assert served.client.get("out").view(np.int32)[0] == expected


def test_kaasq_run_takes_the_file(served: Served, tmp_path: Path) -> None:
    put(served.client, DOT)
    body = {**DOT.body("code"), "keys": {"dot": "from the shell"}}
    body["kernels"][0]["gridDims"] = 4
    body["kernels"][1]["arguments"][0]["ofset"] = 0
    (tmp_path / "dot.json").write_text(json.dumps(body))
    np.save(tmp_path / "b.npy", np.ones(1024, np.uint32))
    program = [sys.executable, "-m", "kaasq", "run", f"{tmp_path}/dot.json", "--input", f"b={tmp_path}/b.npy"]
    settings = served.client.settings
    where = ["--broker", settings.broker_url, "--store", str(settings.store_path), "--pool", settings.pool]
    done = subprocess.run([*program, *where], capture_output=True, text=True, check=True, timeout=100)
    total = DOT.given["vectors/a"].sum(dtype=np.uint32)
    assert served.client.get("from the shell").view(np.uint32)[0] == total
    assert "unknown key 'gridDims' in kernels[0] is ignored; did you mean 'gridDim'?" in done.stderr
    assert "unknown key 'ofset' in kernels[1].arguments[0] is ignored; did you mean 'offset'?" in done.stderr
    assert done.stderr.count("warning") == 2


# -------------------------------------------------------------------------------- in Python


@each_case
def test_loaded_request_runs(local: kaasq.Client, case: Case) -> None:
    request = kaas.load(FOLDER / f"{case.name}.json")
    put(local, case)
    local.run(request)
    check(local, case)


def test_loaded_request_with_other_keys_bindings_and_names(local: kaasq.Client) -> None:
    put(local, DOT)
    ones = np.ones(1024, np.uint32)
    request = kaas.load(DOT.body())
    local.put(ones, name="ones")
    total = DOT.given["vectors/a"].sum(dtype=np.uint32)
    for result in (
        local.run(request.with_keys({"b": "ones", "dot": "moved"})),
        local.run(request, b=ones, dot=kaasq.Keep("moved")),
        local.run(request, bind={"b": ones}, keep={"dot": "moved"}),
        local.submit(request, b=kaasq.Stored(name="ones"), keep={"dot": "moved"}).result(30),
    ):
        assert result.refs["dot"].name == "moved"
        assert result["dot"].view(np.uint32)[0] == total
    inline = local.run(request.graph, bind={**request.bind, "b": ones})
    assert inline["dot"].view(np.uint32)[0] == total
    assert not inline.refs


def test_asynchronous_client_runs_it_likewise() -> None:
    async def run() -> None:
        settings = Settings(modules=str(FOLDER))
        async with kaasq.local_async(device="cpu", settings=settings) as client:
            for key, array in POWERS.given.items():
                await client.put(array, name=key)
            result = await client.run(kaas.load(POWERS.body()), cube=kaasq.Keep("moved"))
            assert result.refs["square"].name == "square"
            np.testing.assert_allclose((await client.get("moved")).view(np.float32), POWERS.left["cube"], rtol=1e-5)

    asyncio.run(run())


def test_inout_may_be_kept_elsewhere_and_stays_bound(local: kaasq.Client) -> None:
    case = next(case for case in CASES if case.name == "inplace")
    put(local, case)
    local.run(kaas.load(case.body()), x=kaasq.Keep("scaled"))
    np.testing.assert_allclose(local.get("scaled").view(np.float32), case.left["state"], rtol=1e-5)
    np.testing.assert_array_equal(local.get("state"), case.given["state"])


def test_mistakes_beside_a_loaded_request_are_told(local: kaasq.Client) -> None:
    request = kaas.load(POWERS.body())
    with pytest.raises(kaasq.BadRequest, match="given twice"):
        local.run(request, x=POWERS.given["x"], bind={"x": POWERS.given["x"]})
    with pytest.raises(kaasq.BadRequest, match="under one name"):
        local.run(request, square=kaasq.Keep("cube"))
    with pytest.raises(kaasq.BadRequest, match="no buffer or scalar 'y'"):
        local.run(request, y=1)
    with pytest.raises(kaasq.BufferSize):
        local.run(request, x=POWERS.given["x"][1:])


def test_worker_with_a_module_folder_that_is_none_does_not_start() -> None:
    with pytest.raises(kaasq.BadRequest, match="modules: '/nowhere' is no folder"):
        kaasq.local(device="cpu", settings=Settings(modules="/nowhere"))


def test_documentations_snippet_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(kaasq, "Client", lambda: kaasq.local(device="cpu", settings=Settings(modules=".")))
    (snippet,) = re.findall(r"```python\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    names: dict[str, Any] = dict(zip("abc", (*DOT.given.values(), np.ones(1024, np.uint32))))
    exec(snippet, names)
    assert names["result"]["dot"].view(np.uint32)[0] == DOT.left["vectors/dot"][0]


def test_example_runs() -> None:
    program = [sys.executable, EXAMPLE / "run.py", "--device", "cpu"]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=100)
    assert "= 357389824" in done.stdout

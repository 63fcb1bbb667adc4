"""kaasq.local: the whole of kaasq in one process; and the documentation's snippets, run with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import kaasq
from kaasq.quotas import Quotas
from kaasq.settings import STORE_LEAST_BYTES, Settings
from kaasq.signing import signature_of
from tests.support.graphs import SAXPY, saxpy, sum_of_squares

ROOT = Path(__file__).parents[2]
N = 1000
X = np.arange(N, dtype=np.float32)


@pytest.fixture(scope="module")
def client() -> Iterator[kaasq.Client]:
    with kaasq.local(device="cpu") as made:
        yield made


def test_run(client: kaasq.Client) -> None:
    result = client.run(saxpy(N), x=X, y=X, a=3.0)
    np.testing.assert_allclose(result["out"], 4 * X)
    assert result.worker.pid == os.getpid()
    assert result.worker.device == "cpu"


def test_inputs_and_outputs_of_any_size(client: kaasq.Client) -> None:
    n = 1 << 20
    x = np.random.default_rng(1).random(n, dtype=np.float32)
    result = client.run(saxpy(n), x=x, y=x)
    assert result.refs["out"].nbytes == 4 * n
    np.testing.assert_allclose(result["out"], 3 * x, rtol=1e-6)


def test_graph_with_temp_and_many_requests(client: kaasq.Client) -> None:
    graph = sum_of_squares(N)
    futures = [client.submit(graph, x=X / 1000 + i) for i in range(50)]
    for i, future in enumerate(futures):
        np.testing.assert_allclose(future.result(30)["out"], [((X / 1000 + i) ** 2).sum()], rtol=1e-4)


def test_outputs_kept_and_bound_again(client: kaasq.Client) -> None:
    result = client.run(saxpy(N), x=X, y=X, out=kaasq.Keep("kept"))
    assert result.refs["out"].name == "kept"
    again = client.run(saxpy(N), x=result.refs["out"], y=client.put(X))
    np.testing.assert_allclose(again["out"], 7 * X)
    np.testing.assert_allclose(client.get("kept"), 3 * X)


def test_bad_module_is_rejected_and_the_next_request_served(client: kaasq.Client) -> None:
    with pytest.raises(kaasq.ModuleRejected, match="nonsense"):
        client.run(saxpy(N, source=SAXPY.replace("a * x[i]", "nonsense")), x=X, y=X)
    np.testing.assert_allclose(client.run(saxpy(N), x=X, y=X)["out"], 3 * X)


def test_temporary_store_is_gone_at_the_end_and_threads_too() -> None:
    before = {each.name for each in threading.enumerate()}
    with kaasq.local(device="cpu") as client:
        client.put(X, name="x")
        path = client.settings.store_path
        assert path.exists()
    assert not path.exists()
    assert {each.name for each in threading.enumerate()} <= before


def test_an_output_that_was_not_looked_at_before_the_end_is_told_to_be_gone_and_no_new_store_is_made() -> None:
    with kaasq.local(device="cpu") as client:
        large = np.ones(1 << 20, np.float32)
        result = client.run(saxpy(1 << 20), x=large, y=large)
        path = client.settings.store_path
    with pytest.raises(kaasq.StoreUnavailable, match=r"closed, and its store .* look at results before"):
        result["out"]
    assert not path.exists()
    assert not path.parent.exists()


def test_given_store_is_kept(tmp_path: Path) -> None:
    settings = Settings(store_sync=False, store_capacity=1 << 26)
    for device in ("cpu", "cpu"):
        with kaasq.local(device=device, store=tmp_path / "store", settings=settings) as client:
            if client.names():
                np.testing.assert_array_equal(client.get("x"), X)
            else:
                client.put(X, name="x")
    assert (tmp_path / "store").exists()


def test_the_least_capacity_of_a_store_suffices_for_requests(tmp_path: Path) -> None:
    settings = Settings(store_sync=False, store_capacity=STORE_LEAST_BYTES)
    with kaasq.local(device="cpu", store=tmp_path / "store", settings=settings) as client:
        for a in range(3):
            np.testing.assert_array_equal(client.run(saxpy(N), x=X, y=X, a=a)["out"], (a + 1) * X)
        client.put(np.zeros(1 << 16, np.float32), name="x")


def test_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(kaasq.KaasqError, match="cuda:99"), kaasq.local(device="cuda:99"):
        pass


def test_nothing_is_printed_by_using_kaasq_as_a_library() -> None:
    program = "import kaasq\nwith kaasq.local(device='cpu') as client: client.put(b'x', name='x')\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")


def test_closing_the_client_is_enough() -> None:
    client = kaasq.local(device="cpu")
    path = client.settings.store_path
    np.testing.assert_allclose(client.run(saxpy(N), x=X, y=X)["out"], 3 * X)
    client.put(X)
    assert path.exists()
    client.close()
    client.close()
    assert not path.exists()


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("entered", [False, True])
def test_what_is_left_open_costs_no_time_at_the_end(entered: bool, isolate: bool) -> None:
    program = f"""
import time, numpy, kaasq
from tests.support.graphs import saxpy
LOCAL = kaasq.local(device="cpu", isolate={isolate})
client = LOCAL.__enter__() if {entered} else LOCAL
x = numpy.ones({N}, "f4")
client.run(saxpy({N}), x=x, y=x)
client.put(x)
print(client.settings.store_path, time.time())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    ended = time.time()
    path, started = done.stdout.split()
    assert done.stderr == ""
    assert ended - float(started) < 5  # 0.1 s on an idle machine; it took every time-out of the drain, 15 s
    assert not Path(path).exists()


def test_forked_child_leaves_the_store_of_its_parent_alone(client: kaasq.Client) -> None:
    client.put(X, name="kept")
    pid = os.fork()
    if pid == 0:
        client.close()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    np.testing.assert_array_equal(client.get("kept"), X)
    np.testing.assert_allclose(client.run(saxpy(N), x=X, y=X)["out"], 3 * X)


def one_kernel(body: str) -> kaasq.Graph:
    graph = kaasq.Graph("one")
    module = kaasq.Module.from_source(f'extern "C" __global__ void one(volatile int* out) {{ {body} }}')
    graph.launch(module.kernel("one"), grid=1, block=1, args=[graph.output("out", shape=1, dtype="int32")])
    return graph


def test_isolated_kernels_may_crash_or_never_end() -> None:
    with kaasq.local(device="cpu", isolate=True) as client:
        assert client.run(one_kernel("out[0] = 5;"))["out"] == [5]
        with pytest.raises(kaasq.KernelFailed, match="SIGSEGV"):
            client.run(one_kernel("*(volatile int*)8 = 1;"), timeout=30)
        with pytest.raises(kaasq.KernelFailed, match=r"killed its executor 2 times \(exit code 0\)"):
            client.run(one_kernel("::exit(0);"), timeout=30)
        result = client.run(one_kernel("out[0] = 6;"), timeout=30)
        assert result["out"] == [6]
        assert result.worker.pid != os.getpid()
        with pytest.raises(kaasq.DeadlineExceeded, match="still running"):
            client.run(one_kernel("for (;;) out[0] = 1;"), timeout=2)
        assert client.run(one_kernel("out[0] = 7;"), timeout=30)["out"] == [7]


def test_a_client_whose_module_was_refused_is_served_once_it_is_signed(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "keys").mkdir()
    (tmp_path / "team.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "keys" / "team.pem").write_bytes(public)
    plain = one_kernel("out[0] = 5;").freeze()
    ((name, module),) = plain.modules.items()
    signature = signature_of(module.hash, tmp_path / "team.key")
    signed = msgspec.structs.replace(plain, modules={name: msgspec.structs.replace(module, signature=signature)})
    settings = Settings(module_policy="signed", module_keys=str(tmp_path / "keys"))
    with kaasq.local(device="cpu", settings=settings) as client:
        for _ in range(2):
            with pytest.raises(kaasq.Forbidden, match="is not signed"):
                client.run(plain)
        for graph in (signed, signed, plain):  # it is the same code
            assert client.run(graph)["out"] == [5]


@pytest.mark.parametrize("configured", [False, True])
def test_an_isolated_executor_logs_as_its_program_does(configured: bool) -> None:
    program = f"""
import contextlib, kaasq, structlog
from kaasq.log import configure
from tests.integration.test_local import one_kernel
if {configured}:
    configure("info", "json")
with kaasq.local(device="cpu", isolate=True) as client, contextlib.suppress(kaasq.ModuleRejected):
    client.run(one_kernel("no C"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    if configured:
        assert "request.failed" in [json.loads(line)["event"] for line in done.stderr.splitlines()]
    else:
        assert done.stderr == ""


def test_files_in_the_current_folder_are_no_modules_of_an_executor(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the folder that it was started in')")
    program = f"""
import sys, kaasq
sys.path.append({str(ROOT)!r})
from tests.integration.test_local import one_kernel
with kaasq.local(device="cpu", isolate=True) as client:
    print(client.run(one_kernel("out[0] = 5;"))["out"])
"""
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[5]\n", "")


SNIPPET = re.compile(r"^```python run\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_snippets_of_the_documentation_run(
    page: Path, client: kaasq.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    names: dict[str, object] = {"client": client}
    for found in SNIPPET.finditer(text):
        line = text.count("\n", 0, found.start(1))
        code = compile("\n" * line + found.group(1), str(page), "exec")  # so that a failure names the page's line
        exec(code, names)


@pytest.mark.parametrize(("page", "least"), [("client.md", 7), ("events.md", 5)])
def test_pages_about_clients_have_snippets(page: str, least: int) -> None:
    assert len(SNIPPET.findall((ROOT / "docs" / page).read_text())) >= least


def test_a_quota_that_the_worker_has_holds_for_its_clients_puts() -> None:
    with kaasq.local(device="cpu", settings=Settings(quotas=Quotas(stored_bytes=1000))) as client:
        client.put(bytes(900), name="kept")
        with pytest.raises(kaasq.QuotaExceeded, match="has 900 bytes in the store, its quota is 1000"):
            client.put(bytes(range(200)))

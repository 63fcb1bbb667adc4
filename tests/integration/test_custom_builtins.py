"""Built-ins that other packages add: the example as its users have it, and packages that get everything wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import kaasq
from kaasq import BadArguments, Graph, KernelFailed, ModuleRejected, OutOfMemory
from kaasq.ids import new_id
from tests.support.packages import install, install_project
from tests.support.workers import RunningWorker, running_worker

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_builtin"

FAULTY = """
import sys
from kaasq.builtins import Builtin, number, reads, writes

def fail(xp, operands, attrs):
    raise RuntimeError("no " + "luck " * 1000)

def leave(xp, operands, attrs):
    sys.exit(3)

def hoard(xp, operands, attrs):
    operands["out"][:] = xp.empty((1 << 60,), "float32")[:4]

def answer(xp, operands, attrs):
    return operands["x"]

def scribble(xp, operands, attrs):
    operands["x"][:] = 0

def misread(xp, operands, attrs):
    operands["out"][:] = operands["x"].reshape(3, -1)

def well(xp, operands, attrs):
    xp.add(operands["x"], operands["alpha"], out=operands["out"])

def confused(call):
    return call.attrs["nothing"]

def made(run, check=lambda call: None):
    return Builtin("faulty." + run.__name__, (reads("x"), writes("out"), number("alpha", 0.5)), check, run=run)

FAIL, LEAVE, HOARD, ANSWER = made(fail), made(leave), made(hoard), made(answer)
SCRIBBLE, MISREAD, WELL = made(scribble), made(misread), made(well)
CONFUSED = Builtin("faulty.confused", (reads("x"), writes("out")), confused, run=well)
NAMELESS = Builtin("nameless", (), lambda call: None, run=well)
RUNLESS = Builtin("faulty.runless", (), lambda call: None)
SHIPPED = 4
"""
ENTRIES = (
    "FAIL",
    "LEAVE",
    "HOARD",
    "ANSWER",
    "SCRIBBLE",
    "MISREAD",
    "WELL",
    "CONFUSED",
    "NAMELESS",
    "RUNLESS",
    "SHIPPED",
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    install_project(folder, EXAMPLE)
    entries = {each.lower(): f"faulty:{each}" for each in ENTRIES} | {"lost": "no.such.module:IT"}
    install(folder, "faulty", {"faulty": FAULTY}, {"kaasq.builtins": entries})
    return folder


@pytest.fixture(scope="module")
def served(broker_url, packages, tmp_path_factory) -> Iterator[tuple[RunningWorker, kaasq.Client]]:
    """A worker process that has the packages, and a client that has not."""
    store, pool = tmp_path_factory.mktemp("served") / "store", f"t{new_id()[-10:]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(packages))
        with running_worker(broker_url, pool, store) as worker:
            with kaasq.Client(broker_url, pool=pool, store=store) as client:
                yield worker, client


@pytest.fixture
def client(served) -> kaasq.Client:
    return served[1]


def graph_of(name: str, n: int = 4) -> Graph:
    graph = Graph("custom")
    x, out = graph.input("x", shape=n, dtype="float32"), graph.output("out", shape=n, dtype="float32")
    graph.call(name, x, out)
    return graph


def spectrum(window: str = "none", dtype: str = "float32") -> Graph:
    graph = Graph("spectrum")
    x = graph.input("x", shape=(3, 64), dtype=dtype)
    out = graph.output("out", shape=(3, 33), dtype=dtype)
    gain = graph.scalar("gain", "float32", default=1.0)
    graph.call("spectrum.power", x, out, gain, window=window)
    return graph


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_worker_runs_a_builtin_that_its_client_has_never_seen(client, dtype):
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(dtype)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(64), np.arange(33)) / 64)
    expected = np.abs(x @ waves) ** 2 / 64
    np.testing.assert_allclose(
        client.run(spectrum(dtype=dtype), x=x, timeout=60)["out"], expected, rtol=1e-4, atol=1e-6
    )
    louder = client.run(spectrum(dtype=dtype), x=x, gain=2.0, timeout=60)["out"]
    np.testing.assert_allclose(louder, 4 * expected, rtol=1e-4, atol=1e-6)
    tapered = np.abs((x * np.hanning(64)) @ waves) ** 2 / 64
    given = client.run(spectrum("hann", dtype), x=x, timeout=60)["out"]
    np.testing.assert_allclose(given, tapered, rtol=1e-4, atol=1e-6)


def test_its_own_check_refuses_a_wrong_call(client):
    with pytest.raises(
        BadArguments, match=r"attrs.window: spectrum.power\(x, out, \[gain\]\): window is one of none, hann"
    ):
        client.run(spectrum("flat"), x=np.zeros((3, 64), np.float32), timeout=60)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("fail", KernelFailed, r"built-in 'faulty.fail' failed: RuntimeError: no luck .* \(faulty.py:6\)"),
        ("leave", KernelFailed, r"built-in 'faulty.leave' failed: SystemExit: 3"),
        ("hoard", OutOfMemory, "built-in 'faulty.hoard' needs more host memory: Unable to allocate"),
        ("answer", KernelFailed, "'faulty.answer' returned a ndarray; it is to write into its operands"),
        ("scribble", KernelFailed, "failed: ValueError: assignment destination is read-only"),
        ("misread", KernelFailed, "failed: ValueError: cannot reshape array of size 4"),
        ("confused", ModuleRejected, r"the check of built-in 'faulty.confused' failed: KeyError: 'nothing'"),
        (
            "absent",
            ModuleRejected,
            "there is no built-in 'faulty.absent' here .*; there are .* faulty.fail, .* spectrum.power",
        ),
        ("runless", ModuleRejected, "there is no built-in 'faulty.runless' here"),
    ],
)
def test_what_it_does_wrong_is_told_and_the_worker_goes_on(client, name, error, message):
    x = np.arange(4, dtype=np.float32)
    with pytest.raises(error, match=message) as caught:
        client.run(graph_of(f"faulty.{name}"), x=x, timeout=60)
    assert len(caught.value.message) < 2000
    assert caught.value.detail.get("kernel", f"faulty.{name}") == f"faulty.{name}"
    well = client.run(graph_of("faulty.well"), x=x, timeout=60)
    np.testing.assert_array_equal(well["out"], x + 0.5)  # an absent number has its default


def test_what_cannot_be_loaded_is_logged_and_left_out(client, served):
    client.run(graph_of("faulty.well"), x=np.zeros(4, np.float32), timeout=60)
    worker, _ = served
    reasons = {each["entry_point"]: each["reason"] for each in worker.events() if each["event"] == "builtin.not_loaded"}
    assert reasons.keys() == {"nameless", "runless", "shipped", "lost"}
    assert "needs a name with a dot" in reasons["nameless"]
    assert "faulty:SHIPPED is a int, not a kaasq.builtins.Builtin" in reasons["shipped"]


def test_the_example_finds_its_tones(packages):
    """With the package beside it, the program also has its calls checked at their line."""
    ran = subprocess.run(
        [sys.executable, EXAMPLE / "run.py"],
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ran.stdout == "tones at 440 1000\n", ran.stderr

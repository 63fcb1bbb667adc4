"""The commands: what they print, what they write, how they fail."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import kaasq.cli
import kaasq.rabbit
from kaasq.codec import JSON, MSGPACK, encode
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.messages import ErrorBody, Output, Reply, Request
from kaasq.served import is_served
from kaasq.settings import Settings
from kaasq_producers.buffers import Buffers
from kaasq_producers.commands.display import plain
from kaasq_storage.protocol import Object
from tests.support import graphs
from tests.support.commands import Run, runner
from tests.support.fake_worker import INFO, FakeWorker

X = np.arange(4, dtype=np.float32)
NO_DEFAULT = {"timeout"}  # of kaasq run: the request's own comes first


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(tmp_path, monkeypatch, capsys)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorker]:
    """A worker that the commands reach instead of RabbitMQ."""
    node = MemoryNode()
    monkeypatch.setattr(kaasq.rabbit, "RabbitBroker", lambda url, **_: MemoryBroker(node, "guest"))
    with FakeWorker(MemoryBroker(node, "worker")) as made:
        yield made


@pytest.fixture
def request_file(tmp_path: Path) -> str:
    """A graph alone, as JSON, and its inputs as files."""
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "y.bin").write_bytes(np.ones(4, np.float32).tobytes())
    (tmp_path / "saxpy.json").write_bytes(graphs.saxpy().to_json())
    return "saxpy.json"


@pytest.mark.parametrize("command", ["run", "put", "get", "ls", "rm", "gc"])
def test_help_says_how_to_use_it(cli: Run, command: str) -> None:
    code, out, _ = cli(command, "--help")
    assert code == 0
    assert f"Usage: kaasq {command}" in out or "Usage:" in out
    assert "--store DIR" in out
    assert "\\b" not in out


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_ctrl_c_counts_whatever_putting_things_away_fails_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stop: BaseException, code: int
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        try:
            raise stop
        finally:
            raise kaasq.BrokerLost("the connection was amid something")

    monkeypatch.setattr(kaasq.cli.kaasq, "main", interrupted)
    with pytest.raises(SystemExit) as end:
        kaasq.cli.main([])
    assert end.value.code == code
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["list", "show", "replay", "export", "drop"])
def test_help_of_dead_shows_each_example_on_a_line_of_its_own(cli: Run, command: str) -> None:
    _, out, _ = cli("dead", command, "--help")
    assert "\\b" not in out
    assert command == "show" or f"\n  kaasq dead {command} " in out


@pytest.mark.parametrize("command", ["worker", "run", "serve", "put"])
def test_help_says_what_a_setting_is_by_default(cli: Run, command: str) -> None:
    _, out, _ = cli(command, "--help")
    options = {line.split()[0][2:] for line in out.splitlines() if line.startswith("  --")}
    told = {each.split()[0] for each in re.split(r"\n  --", out)[1:] if "default" in each}
    settings = {each.replace("_", "-") for each in Settings.__struct_fields__} | {"broker"}
    assert options & settings - NO_DEFAULT <= told


def test_help_of_the_worker_is_in_sections(cli: Run) -> None:
    _, out, _ = cli("worker", "--help")
    titles = [line[:-1] for line in out.splitlines() if re.fullmatch(r"[A-Z].*:", line)]
    assert titles == [
        "Where",
        "The device, and what runs on it",
        "Queue and store",
        "When something goes wrong",
        "Other options",
    ]


# ----------------------------------------------------------------------------------------------------------------- run


def test_mistyped_command_is_told_what_was_meant(cli: Run) -> None:
    assert "No such command 'rn'. Did you mean 'run'?" in cli("rn")[2]
    assert "Did you mean" not in cli("xyzzy")[2]


def test_run_takes_a_graph_and_files(cli: Run, worker: FakeWorker, request_file: str) -> None:
    code, out, err = cli(
        "run", request_file, "--input", "x=x.npy", "--input", "y=y.bin", "--scalar", "a=3", "--output", "out=out.npy"
    )
    assert (code, err) == (0, "")
    np.testing.assert_array_equal(np.load("out.npy"), 3 * X + 1)
    assert "ran on none of fake" in out
    assert "out: float32 (4,) [ 1.  4.  7. 10.] -> out.npy" in out
    assert "kernel 0 µs" in out


def test_run_writes_raw_bytes_too(cli: Run, worker: FakeWorker, request_file: str) -> None:
    code, _, _ = cli("run", request_file, "--input", "x=x.npy", "--input", "y=y.bin", "--output", "out=out.bin")
    assert code == 0
    np.testing.assert_array_equal(np.fromfile("out.bin", np.float32), 2 * X + 1)


@pytest.mark.parametrize(
    ("suffix", "content_type"), [(".json", JSON), ("", JSON), (".msgpack", MSGPACK), ("", MSGPACK)]
)
def test_run_takes_a_whole_request(cli: Run, worker: FakeWorker, suffix: str, content_type: str) -> None:
    request = Request(
        graph=graphs.saxpy().freeze(),
        bind={"x": X.tobytes(), "y": X.tobytes()},
        scalars={"a": 5},
        keep={"out": "n"},
        timeout_ms=3000,
    )
    Path(f"request{suffix}").write_bytes(encode(request, content_type))
    code, _, err = cli("run", f"request{suffix}")
    assert (code, err) == (0, "")
    assert worker.requests == [request]


def test_run_prints_json_for_programs(cli: Run, worker: FakeWorker, request_file: str) -> None:
    code, out, _ = cli(
        "run", request_file, "--input", "x=x.npy", "--input", "y=y.bin", "--output", "out=o.npy", "--json"
    )
    shown = json.loads(out)
    assert code == 0
    assert shown["outputs"] == {"out": {"nbytes": 16, "dtype": "float32", "shape": [4], "file": "o.npy"}}
    assert shown["worker"]["host"] == "fake"
    assert shown["timings"]["kernel"] == 0
    assert shown["id"] == worker.messages[0].message_id


def test_run_keeps_outputs_and_takes_stored_inputs(cli: Run, worker: FakeWorker, request_file: str) -> None:
    cli("put", "x.npy", "--name", "weights")

    def answer(_: Request, message: object) -> Reply:
        output = Output(nbytes=16, dtype="float32", shape=(4,), ref="ab" * 32, name="y/1", version=7)
        return Reply(id="1", status="ok", outputs={"out": output}, worker=INFO)

    worker.answer = answer
    code, out, _ = cli("run", request_file, "--input", "x=@weights", "--input", "y=y.bin", "--keep", "out=y/1")
    (request,) = worker.requests
    assert code == 0
    assert msgspec.to_builtins(request.bind["x"]) == {"name": "weights"}
    assert request.keep == {"out": "y/1"}
    assert "out: float32 (4,) 16 B, kept as 'y/1' version 7" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--input", "x=x.npy"], "kaasq: buffer_missing: nothing is bound to input 'y'"),
        (["--input", "x=gone.npy"], "kaasq: bad_request: gone.npy: cannot read it: No such file"),
        (
            ["--input", "x=model/w1"],
            (
                "kaasq: bad_request: model/w1: cannot read it: No such file or directory; "
                "what the store has under a name is written @model/w1\n"
            ),
        ),
        (["--input", "x=/gone.npy"], "kaasq: bad_request: /gone.npy: cannot read it: No such file or directory\n"),
        (["--input", "x=saxpy.json", "--input", "y=y.bin"], "kaasq: buffer_size: buffer 'x' is declared with 16 bytes"),
        (["--scalar", "a=three"], "kaasq: bad_request: --scalar: 'three' is no number"),
        (["--scalar", "b=3"], "kaasq: bad_request: --scalar: the graph has no scalar 'b'; it has 'a'"),
        (["--input", "out=x.npy"], "kaasq: bad_request: --input: the graph has no input 'out'; it has 'x', 'y'"),
        (["--keep", "oud=y/1"], "kaasq: bad_request: --keep: the graph has no output 'oud'; did you mean 'out'?"),
        (["--output", "x=x.npy"], "kaasq: bad_request: --output: the graph has no output 'x'"),
        (["--output", "out=nowhere/out.npy"], "kaasq: bad_request: --output: there is no folder "),
        (["--timeout", "-1"], "kaasq: bad_request: timeout: expected a time from 0.001 to"),
    ],
)
def test_run_fails_with_a_code_and_a_reason(
    cli: Run, worker: FakeWorker, request_file: str, arguments: list[str], says: str
) -> None:
    code, out, err = cli("run", request_file, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(says)
    assert not worker.messages


def test_run_with_a_pair_that_is_none_is_wrong_usage(cli: Run, request_file: str) -> None:
    code, _, err = cli("run", request_file, "--input", "x.npy")
    assert code == 2
    assert "expected NAME=VALUE" in err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "body: the body is not valid JSON"),
        (b'{"name": "g", "launches": 5}', "launches: Expected `array`"),
        (b'{"graph": {"name": "g", "launches": 5}}', "graph.launches: Expected `array`"),
        (b'{"kernels": [{"library": 5}]}', "kernels[0].library: Expected `str`"),
        (b'{"graph": "%s"}' % (b"ab" * 32), "graph: holds a graph's hash only"),
        (b'{"kaasq": 2, "graph": {"name": "g"}}', "kaasq: version 2 of the protocol; this kaasq speaks 1"),
        (b'{"kaasq": 2, "kernels": []}', "kaasq: version 2 of the protocol"),
        (b'{"name": "w", "steps": [], "graphs": {}}', "is a workflow, not a request: `kaasq flow run` runs it"),
        (b'{"workflow": {"name": "w", "steps": []}}', "is a workflow, not a request: `kaasq flow run` runs it"),
    ],
)
def test_run_says_what_is_wrong_with_the_file(cli: Run, content: bytes, says: str) -> None:
    Path("request.json").write_bytes(content)
    code, _, err = cli("run", "request.json")
    assert code == 1
    assert err.startswith(f"kaasq: bad_request: request.json: {says}")


@pytest.mark.parametrize("content", [b"", b"import kaasq\n", b"[]", b"\x93NUMPY"])
def test_run_of_a_file_that_is_no_request_says_what_it_expects(cli: Run, content: bytes) -> None:
    Path("saxpy.py").write_bytes(content)
    code, _, err = cli("run", "saxpy.py")
    assert code == 1
    assert err == "kaasq: bad_request: saxpy.py: is no request: expected a JSON object or a MessagePack map\n"


@pytest.mark.parametrize("content", [b"{}", b'{"grahp": {}}', b"\x80"])
def test_run_of_an_object_that_is_no_request_says_what_one_has(cli: Run, content: bytes) -> None:
    Path("some").write_bytes(content)
    code, _, err = cli("run", "some")
    assert code == 1
    assert "some: is no request: expected one with `graph`, a graph alone (`name`, `buffers`, `launches`)" in err


def test_run_with_a_port_that_is_no_number_is_an_error_not_a_crash(cli: Run, request_file: str) -> None:
    code, _, err = cli("run", request_file, "--broker", "amqp://ann:secret@localhost:abc/")
    assert code == 1
    assert err.startswith("kaasq: broker_refused: --broker: the broker URL does not have the form")
    assert "secret" not in err


@pytest.mark.parametrize(
    "command",
    [
        *(["ls"], ["rm", "x"], ["gc"], ["get", "x", "x.npy"], ["put", "x.npy"], ["worker"]),
        *(["dead", "list"], ["dead", "show", "x"], ["events", "follow"], ["events", "list"], ["events", "rm", "x"]),
        *(["flow", "ls"], ["serve", "x.py"], ["bench"]),
        ["run", "saxpy.json", "--input", "x=x.npy", "--input", "y=y.bin"],
    ],
)
def test_a_broker_of_another_scheme_is_refused_everywhere_with_one_message(
    cli: Run, request_file: str, command: list[str]
) -> None:
    assert Path(request_file).exists()
    code, _, err = cli(*command, "--broker", "http://ann:secret@localhost:15672/")
    assert code == 1
    assert "broker_refused" in err
    assert (
        "--broker: the broker URL does not have the form amqp://user:password@host:5672/vhost (amqps:// for TLS): "
        "it does not start with amqp:// or amqps://"
    ) in err
    assert "secret" not in err


def test_run_without_a_worker_says_what_to_start(cli: Run, monkeypatch: pytest.MonkeyPatch, request_file: str) -> None:
    monkeypatch.setattr(kaasq.rabbit, "RabbitBroker", lambda url, **_: MemoryBroker(MemoryNode(), "guest"))
    code, _, err = cli("run", request_file, "--input", "x=x.npy", "--input", "y=y.bin", "--pool", "images")
    assert code == 1
    assert err.startswith("kaasq: unroutable: no worker ever served pool 'images'")
    assert "kaasq worker --pool images" in err


RUN = ["run", "saxpy.json", "--input", "x=x.npy", "--input", "y=y.bin"]


@pytest.mark.parametrize("given", [[*RUN, "--timeout", "0.5"], ["flow", "ls"]], ids=["run", "flow"])
def test_a_person_who_waits_for_a_pool_whose_workers_have_gone_is_told_once_what_to_start(
    cli: Run, monkeypatch: pytest.MonkeyPatch, worker: FakeWorker, request_file: str, given: list[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("kaasq_producers.commands.arguments.REPLY_PATIENCE_S", 0.05)
    monkeypatch.setenv("KAASQ_TIMEOUT", "0.5")
    worker.__exit__(None, None, None)
    code, _, err = cli(*given)
    said = "kaasq: nobody serves pool 'default' now: start a worker with `kaasq worker --pool default`; waiting ..."
    assert code == 1
    assert err.count(said) == 1
    assert err.startswith(said)


def test_a_person_who_waits_for_a_worker_that_takes_its_time_is_told_nothing(
    cli: Run, monkeypatch: pytest.MonkeyPatch, worker: FakeWorker, request_file: str
) -> None:
    looked = threading.Event()

    def look(*arguments: Any) -> bool:
        try:
            return is_served(*arguments)
        finally:
            looked.set()

    def answer(_: Request, message: object) -> Reply:
        assert looked.wait(10)
        return Reply(id="1", status="error", error=ErrorBody(code="kernel_failed", message="it crashed"))

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("kaasq_producers.commands.arguments.REPLY_PATIENCE_S", 0.05)
    monkeypatch.setattr("kaasq_producers.base.is_served", look)
    worker.answer = answer
    assert cli(*RUN) == (1, "", "kaasq: kernel_failed: it crashed\n")


def test_run_warns_of_keys_that_mean_nothing(cli: Run, worker: FakeWorker) -> None:
    request = {
        "graph": json.loads(graphs.saxpy().to_json()),
        "bind": {name: base64.b64encode(X.tobytes()).decode() for name in "xy"},
        "scalrs": {"a": 7},
    }
    request["graph"]["buffers"][1]["rol"] = "input"
    request["graph"]["comment"] = "mine"
    Path("request.json").write_text(json.dumps(request))
    code, _, err = cli("run", "request.json")
    assert code == 0
    assert err.splitlines() == [
        "kaasq: warning: request.json: unknown key 'rol' in graph.buffers[1] is ignored; did you mean 'role'?",
        (
            "kaasq: warning: request.json: unknown key 'comment' in graph is ignored; known are name, buffers, "
            "scalars, modules, launches, iterations"
        ),
        "kaasq: warning: request.json: unknown key 'scalrs' is ignored; did you mean 'scalars'?",
    ]
    Path("graph.msgpack").write_bytes(msgspec.msgpack.encode({**request["graph"], "iteration": 2}))
    assert "unknown key 'iteration' is ignored; did you mean 'iterations'?" in cli("run", "graph.msgpack")[2]


def test_run_waits_for_the_broker_as_long_as_it_is_told_and_says_so(
    cli: Run, request_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("kaasq_producers.commands.arguments.PATIENCE_S", 0.0)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        started = time.monotonic()
        url = f"amqp://ann:secret@127.0.0.1:{port}/"
        code, _, err = cli("run", request_file, "--broker", url, "--connect-timeout", "0.5")
    assert code == 1
    assert time.monotonic() - started < 5
    assert err.startswith(f"kaasq: waiting for 127.0.0.1:{port} ...\nkaasq: broker_lost: ")
    assert "secret" not in err


def test_error_of_the_worker_is_printed(cli: Run, worker: FakeWorker, request_file: str) -> None:
    worker.answer = lambda _, message: msgspec.convert(
        {"id": "1", "status": "error", "error": {"code": "kernel_failed", "message": "it crashed"}}, Reply
    )
    code, _, err = cli("run", request_file, "--input", "x=x.npy", "--input", "y=y.bin")
    assert (code, err) == (1, "kaasq: kernel_failed: it crashed\n")


# --------------------------------------------------------------------------------------------------------------- store


def test_put_ls_get_rm(cli: Run) -> None:
    np.save("w.npy", X.reshape(2, 2))
    code, out, _ = cli("put", "w.npy", "--name", "model/w")
    assert code == 0
    assert out.endswith("16 B  model/w version 1\n")
    code, out, _ = cli("ls", "model/")
    assert code == 0
    assert "model/w" in out
    assert "float32" in out
    assert "2x2" in out
    assert "used by 1 object; 1 name, 0 outcomes" in out
    code, out, _ = cli("get", "model/w", "back.npy")
    assert (code, out) == (0, "back.npy: float32 (2, 2), 16 B\n")
    np.testing.assert_array_equal(np.load("back.npy"), X.reshape(2, 2))
    code, out, _ = cli("rm", "model/w")
    assert (code, out) == (0, "removed model/w\n")
    assert cli("rm", "model/w")[2].startswith("kaasq: name_not_found: ")


@pytest.mark.parametrize("shape", ["25,x", "25,,1", ",25", "-5,-5", "a", "5x", "1.5", "5,5,"])
def test_put_refuses_a_shape_that_is_none(cli: Run, shape: str) -> None:
    Path("raw.bin").write_bytes(bytes(100))
    code, _, err = cli("put", "raw.bin", "--dtype", "float32", f"--shape={shape}")
    assert (code, err) == (1, f"kaasq: bad_request: --shape: {shape!r} is no shape: expected N,M,... or NxM...\n")


@pytest.mark.parametrize(("shape", "stored"), [("25", [25]), ("25,", [25]), ("5, 5", [5, 5]), ("5x5", [5, 5])])
def test_put_takes_shapes_as_people_write_them(cli: Run, shape: str, stored: list[int]) -> None:
    Path("raw.bin").write_bytes(bytes(100))
    code, out, err = cli("put", "raw.bin", "--dtype", "float32", "--shape", shape, "--json")
    assert (code, err, json.loads(out)["shape"]) == (0, "", stored)


def test_put_raw_file_with_dtype_and_shape(cli: Run) -> None:
    Path("x.bin").write_bytes(X.tobytes())
    code, out, _ = cli("put", "x.bin", "--dtype", "float32", "--shape", "2,2", "--name", "x", "--json")
    ref = json.loads(out)
    assert code == 0
    assert (ref["name"], ref["version"], ref["dtype"], ref["shape"], ref["nbytes"]) == ("x", 1, "float32", [2, 2], 16)
    cli("get", ref["ref"], "raw.bin")
    assert Path("raw.bin").read_bytes() == X.tobytes()


def standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_minus_is_standard_input_and_output(cli: Run, monkeypatch: pytest.MonkeyPatch, request_file: str) -> None:
    data = np.frombuffer(b"abcdefgh", np.float32)
    standard_input(monkeypatch, data.tobytes())
    assert cli("put", "-", "--dtype", "float32", "--name", "x")[0] == 0
    assert cli("get", "x", "-") == (0, "abcdefgh", "-: float32 (2,), 8 B\n")
    assert not Path("-").exists()


def test_run_with_minus_reads_and_writes_raw_bytes(
    cli: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, request_file: str
) -> None:
    zeros = np.zeros(4, np.float32)
    standard_input(monkeypatch, zeros.tobytes())
    code, out, err = cli(
        "run", request_file, "--input", "x=x.npy", "--input", "y=-", "--scalar", "a=0", "--output", "out=-"
    )
    assert (code, out) == (0, zeros.tobytes().decode())
    assert "ran on none of fake" in err


def test_first_digits_of_a_ref_will_do(cli: Run) -> None:
    np.save("x.npy", X)
    _, out, _ = cli("put", "x.npy")
    ref = out.split()[0]
    code, out, err = cli("get", ref[:12], "back.npy")
    assert (code, err) == (0, "")
    np.testing.assert_array_equal(np.load("back.npy"), X)
    assert cli("get", ref[:7], "back.npy")[2].startswith("kaasq: name_not_found")
    assert cli("get", "0" * 12, "back.npy")[2].startswith("kaasq: name_not_found")
    assert cli("rm", ref[:8]) == (0, f"removed {ref[:8]}\n", "")
    assert cli("get", ref, "back.npy")[0] == 1


def test_what_is_plainly_a_ref_is_said_to_be_no_object(cli: Run) -> None:
    np.save("x.npy", X)
    cli("put", "x.npy")
    for command in (["get", "3f8a5c0d1e22", "-"], ["rm", "3f8a5c0d1e22"]):
        code, _, err = cli(*command)
        says = "the store has no object whose ref starts with '3f8a5c0d1e22', and no name '3f8a5c0d1e22'"
        assert (code, err) == (1, f"kaasq: name_not_found: {says}\n")


def test_rm_removes_what_it_can_and_tells_the_rest(cli: Run) -> None:
    np.save("x.npy", X)
    for name in ("y/1", "hello"):
        cli("put", "x.npy", "--name", name)
    code, out, err = cli("rm", "y/1", "nope", "hello")
    assert (code, out) == (1, "removed y/1\nremoved hello\n")
    assert err == "kaasq: name_not_found: the store has no name 'nope'\n"


def test_tables_neither_break_nor_cut_names_on_a_narrow_terminal(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("kaasq_producers.commands.display.PIPE_COLUMNS", 40)
    np.save("x.npy", X)
    name = "models/of the largest kind/weights of the first layer"
    ref = json.loads(cli("put", "x.npy", "--name", name, "--json")[1])["ref"]
    header, row, _ = cli("ls")[1].splitlines()
    assert header.split() == ["NAME", "REF", "VERSION", "DTYPE", "SHAPE", "SIZE", "AGE"]
    assert row.startswith(f"{name}  {ref[:12]}")
    assert ref in cli("ls", "--objects")[1].splitlines()[1]


def test_name_that_looks_like_a_ref_is_a_name(cli: Run) -> None:
    np.save("x.npy", X)
    np.save("y.npy", -X)
    ref = cli("put", "x.npy")[1].split()[0]
    cli("put", "y.npy", "--name", ref[:8])
    cli("get", ref[:8], "back.npy")
    np.testing.assert_array_equal(np.load("back.npy"), -X)


def test_ambiguous_beginning_of_a_ref_is_refused(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save("x.npy", X)
    cli("put", "x.npy")
    both = [Object(ref="ab" * 4 + each * 56, nbytes=4) for each in "12"]
    monkeypatch.setattr(Buffers, "objects", lambda _: both)
    assert cli("rm", "abababab")[2] == (
        "kaasq: bad_request: abababab: 2 objects have refs that start so: give more of the digits\n"
    )


def test_ls_shows_objects_too(cli: Run) -> None:
    np.save("x.npy", X)
    cli("put", "x.npy", "--ttl", "7000")
    _, out, _ = cli("ls", "--objects")
    assert "float32" in out
    assert re.search(r"[12] h\b", out)
    (listed,) = json.loads(cli("ls", "--objects", "--json")[1])
    assert (listed["nbytes"], listed["dtype"], listed["shape"]) == (16, "float32", [4])
    assert json.loads(cli("ls", "--json")[1]) == []


def test_gc_prints_what_it_removed(cli: Run) -> None:
    np.save("x.npy", X)
    cli("put", "x.npy", "--ttl", "0.001")
    code, out, _ = cli("gc")
    assert code == 0
    assert "removed 1 object (16 B)" in out
    assert json.loads(cli("gc", "--json")[1])["removed"]["objects"] == 0


def test_gc_verifies_what_is_stored(cli: Run) -> None:
    np.save("x.npy", X)
    np.save("large.npy", np.arange(100_000, dtype=np.float32))
    cli("put", "x.npy", "--name", "x")
    cli("put", "large.npy", "--name", "large")
    code, out, _ = cli("gc", "--verify")
    assert (code, "verified: 0 objects damaged" in out) == (0, True)
    (file,) = Path("store/objects").rglob("?" * 64)
    file.chmod(0o600)
    file.write_bytes(bytes(400_000))
    code, out, err = cli("gc", "--verify")
    assert code == 1
    assert f"damaged: object {file.name}: its bytes have changed" in err
    assert "verified: 1 object damaged" in out
    file.write_bytes(bytes(10))
    code, out, _ = cli("gc", "--verify", "--json")
    assert (code, list(json.loads(out)["damaged"])) == (1, [file.name])


@pytest.mark.parametrize("command", [["ls"], ["get", "x", "x.npy"], ["rm", "x"], ["gc"]])
def test_mistyped_folder_does_not_become_a_store(cli: Run, command: list[str]) -> None:
    code, _, err = cli(*command, "--store", "nowhere")
    assert code == 1
    assert err.startswith("kaasq: store_unavailable: there is no store in nowhere")
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["put", "gone.npy"], "kaasq: bad_request: gone.npy: cannot read it"),
        (["put", "text.npy"], "kaasq: bad_request: text.npy: no valid .npy file"),
        (["put", "objects.npy"], "kaasq: bad_request: objects.npy: no valid .npy file"),
        (
            ["put", "x.npy", "--dtype", "float32"],
            "kaasq: bad_request: --dtype: a .npy file says dtype and",
        ),
        (["put", "text.bin", "--dtype", "float64"], "kaasq: bad_request: put: 4 bytes were given"),
        (["put", "text.bin", "--dtype", "u1", "--shape", "a"], "kaasq: bad_request: --shape: 'a' is no shape"),
        (["put", "x.npy", "--name", ""], "kaasq: bad_request"),
        (["get", "gone", "gone.npy"], "kaasq: name_not_found: "),
        (["get", "x", "no/such/folder.npy"], "kaasq: bad_request: no/such/folder.npy: cannot write it"),
    ],
)
def test_store_commands_fail_with_a_code_and_a_reason(cli: Run, arguments: list[str], says: str) -> None:
    np.save("x.npy", X)
    Path("text.npy").write_text("text")
    Path("text.bin").write_text("text")
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    cli("put", "x.npy", "--name", "x")
    code, _, err = cli(*arguments)
    assert code == 1
    assert err.startswith(says)


def test_tenants_have_names_of_their_own(cli: Run) -> None:
    np.save("x.npy", X)
    cli("put", "x.npy", "--name", "x", "--broker", "amqp://ann:secret@broker.example/")
    assert json.loads(cli("ls", "--json")[1]) == []
    (listed,) = json.loads(cli("ls", "--json", "--broker", "amqp://ann@broker.example/")[1])
    assert listed["name"] == "x"


def test_plain_shows_bytes_by_their_length() -> None:
    reply = Reply(id="1", status="ok", outputs={"out": Output(nbytes=16, shape=(4,), inline=b"\xfe" * 16)})
    shown = json.loads(json.dumps(plain(reply)))
    assert shown["outputs"]["out"]["inline"] == "<16 bytes>"
    assert shown["outputs"]["out"]["shape"] == [4]

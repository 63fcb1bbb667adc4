"""``kaasq flow``: what it reads, sends, prints, draws and writes, against a scripted worker."""

from __future__ import annotations

import io
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest

import kaasq.rabbit
from kaasq import Workflow, codec, topology
from kaasq.broker import Message
from kaasq.errors import NameNotFound
from kaasq.flows.model import Asked, FlowCall, FlowLine, FlowList, FlowReply, FlowsCall, FlowStart, FlowStatus, Sought
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.messages import Cancel, ErrorBody, Output, Stored
from kaasq_producers.flows.run import Run as FlowRun
from tests.support import flow_statuses
from tests.support.commands import Run, runner
from tests.support.fake_worker import INFO, FakeWorker, Held
from tests.support.flows import GRAPHS
from tests.support.waiting import is_in, until

ONES = np.ones(4, np.float32)
BEGAN_MS = 1_795_685_400_000
TILES = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(tmp_path, monkeypatch, capsys)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> MemoryNode:
    """What the commands reach instead of RabbitMQ."""
    made = MemoryNode()
    monkeypatch.setattr(kaasq.rabbit, "RabbitBroker", lambda url, **_: MemoryBroker(made, "guest"))
    return made


class Answers:
    """A worker for which everything is as the test says."""

    def __init__(self) -> None:
        self.starts: list[tuple[FlowStart, str]] = []
        self.calls: list[FlowCall] = []
        self.standing: list[FlowStatus] = [flow_statuses.tiles(3)]  # the last one for ever
        self.error: ErrorBody | None = None
        self.sought: list[Sought] = []
        self.listed = FlowList()

    def __call__(self, call: FlowStart | FlowCall | FlowsCall, message: Message) -> FlowReply:
        flow = str(message.message_id)
        if isinstance(call, FlowsCall):
            self.sought.append(call.flows)
            return FlowReply(id=flow, status="ok", flows=self.listed, worker=INFO)
        if isinstance(call, FlowStart):
            self.starts.append((call, flow))
        else:
            self.calls.append(call)
            flow = call.flow.id
        standing = self.standing[0] if len(self.standing) == 1 else self.standing.pop(0)
        status = msgspec.structs.replace(standing, id=flow)
        if self.error is not None:
            return FlowReply(id=flow, status="error", error=self.error, flow=status, worker=INFO)
        given = {} if isinstance(call, FlowCall) and call.flow.do == "status" else {"sum": SUM}
        return FlowReply(id=flow, status="ok", outputs=given, flow=status, worker=INFO)


SUM = Output(nbytes=4, dtype="float32", shape=(1,), inline=np.float32([66]).tobytes())


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def worker(node: MemoryNode, answers: Answers) -> Iterator[FakeWorker]:
    with FakeWorker(MemoryBroker(node, "worker"), answers) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A workflow in a file, with its inputs as files."""
    flow = Workflow("tiles")
    tiles = flow.inputs("tiles", shape=4, dtype="float32")
    blur = flow.map("blur", GRAPHS["blur"], x=tiles.each, weights=flow.input("w", nbytes=16), a=flow.scalar("a", "f4"))
    flow.output("sum", flow.step("join", GRAPHS["join"], all=blur["out"], ok=blur.mask)["sum"])
    (tmp_path / "tiles.json").write_bytes(flow.to_json())
    np.save(tmp_path / "tiles.npy", TILES)
    for index, each in enumerate(TILES):
        np.save(tmp_path / f"tile{index}.npy", each)
    (tmp_path / "w.bin").write_bytes(bytes(16))
    return "tiles.json"


INPUTS = ("--input", "tiles=tiles.npy", "--input", "w=w.bin", "--scalar", "a=3")


def test_run_reads_inputs_from_files_and_writes_outputs_to_files(
    cli: Run, worker: FakeWorker, answers: Answers, file: str
) -> None:
    code, out, err = cli("flow", "run", file, *INPUTS, "--output", "sum=sum.npy", "--keep", "sum=s", "--timeout", "7")
    ((start, flow),) = answers.starts
    assert (code, err) == (0, f"kaasq: workflow {flow}\n")
    assert start.bind == {"tiles": tuple(each.tobytes() for each in TILES), "w": bytes(16)}
    assert (start.scalars, start.keep, start.timeout_ms, start.reply) == ({"a": 3}, {"sum": "s"}, 7000, "ended")
    assert list(np.load("sum.npy")) == [66]
    head, *outputs = out.splitlines()
    assert head.startswith(f"workflow {flow} (images) completed in ")
    assert head.endswith("; steps: 3 completed")
    assert outputs == ["  sum: float32 (1,) [66.] -> sum.npy"]


def test_a_list_is_given_item_by_item_or_from_the_store(
    cli: Run, worker: FakeWorker, answers: Answers, file: str
) -> None:
    items = ("--input", "tiles=tile2.npy", "--input", "tiles=@t/1", "--input", "tiles=tile0.npy")
    assert cli("flow", "run", file, *items, "--input", "w=@w", "--scalar", "a=1")[0] == 0
    ((start, _),) = answers.starts
    assert start.bind["tiles"] == (TILES[2].tobytes(), Stored(name="t/1"), TILES[0].tobytes())
    assert start.bind["w"] == Stored(name="w")


def test_a_file_may_say_what_the_workflow_starts_with(
    cli: Run, worker: FakeWorker, answers: Answers, file: str, tmp_path: Path
) -> None:
    flow = msgspec.json.decode((tmp_path / file).read_bytes())
    whole = {"workflow": flow, "bind": {"w": {"name": "w"}}, "scalars": {"a": 1}, "timeout_ms": 9000, "unknwon": 1}
    (tmp_path / "start.json").write_bytes(msgspec.json.encode(whole))
    code, _, err = cli("flow", "run", "start.json", "--input", "tiles=tiles.npy", "--scalar", "a=2")
    ((start, _),) = answers.starts
    assert code == 0
    assert start.bind["w"] == Stored(name="w")
    assert (start.scalars, start.timeout_ms) == ({"a": 2}, 9000)
    assert err.startswith("kaasq: warning: start.json: unknown key 'unknwon' is ignored")


def test_run_prints_json_for_programs(cli: Run, worker: FakeWorker, answers: Answers, file: str) -> None:
    code, out, _ = cli("flow", "run", file, *INPUTS, "--json")
    said = json.loads(out)
    assert code == 0
    assert said["id"] == answers.starts[0][1]
    assert said["outputs"] == {"sum": {"nbytes": 4, "dtype": "float32", "shape": [1]}}
    assert [each["state"] for each in said["flow"]["steps"]] == ["completed"] * 3


def test_run_of_a_workflow_that_fails_shows_how_its_steps_ended(
    cli: Run, worker: FakeWorker, answers: Answers, file: str
) -> None:
    answers.standing = [flow_statuses.tiles(5, failed=1)]
    answers.error = ErrorBody(code="kernel_failed", message="step 'blur', item 1: it crashed", detail={"step": "blur"})
    code, out, err = cli("flow", "run", file, *INPUTS)
    assert (code, out) == (1, "")
    assert "4/5 (1 failed)" in err
    assert err.splitlines()[-1] == "kaasq: kernel_failed: step 'blur', item 1: it crashed"
    assert err.count("kernel_failed") == 1  # not in the tree, too
    assert "cuda:0" in err  # where they ran
    assert "not run, since step 'blur' failed: join" in err


def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error is one."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("kaasq_producers.commands.flow_watching.REDRAWN_S", 0.1)


def test_run_shows_how_it_goes_on_a_terminal(
    cli: Run, node: MemoryNode, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal(monkeypatch)
    answers, starts = Answers(), list[Message]()
    running = flow_statuses.tiles(3, running=True)

    def scripted(call: FlowStart | FlowCall | FlowsCall, message: Message) -> FlowReply | None:
        if isinstance(call, FlowStart):
            starts.append(message)
            return None
        if len(answers.calls) == 2:  # it has been shown twice
            answers.standing = [flow_statuses.tiles(3)]
            fake.reply(starts[0], answers(FlowCall(flow=Asked(id=str(starts[0].message_id), do="wait")), starts[0]))
        else:
            answers.standing = [running]
        return answers(call, message)

    with FakeWorker(MemoryBroker(node, "worker"), scripted) as fake:
        code, out, err = cli("flow", "run", file, *INPUTS)
    assert code == 0, err
    assert "running" in err
    assert out.startswith(f"workflow {starts[0].message_id} (images) completed in ")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts: a shell's background job begins with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_cancels_a_run_and_says_what_became_of_it(
    cli: Run, node: MemoryNode, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal(monkeypatch)
    answers = Answers()
    answers.standing = [flow_statuses.tiles(3, running=True)]

    def scripted(call: FlowStart | FlowCall | FlowsCall, message: Message) -> FlowReply | None:
        if isinstance(call, FlowStart):
            return None
        if not answers.calls:  # it is being shown
            signal.pthread_kill(int(threading.main_thread().ident or 0), signal.SIGINT)
        if node.messages(topology.control_queue("default", "fake")):
            answers.standing = [msgspec.structs.replace(answers.standing[0], state="cancelled")]
        return answers(call, message)

    with FakeWorker(MemoryBroker(node, "worker"), scripted):
        code, _, err = cli("flow", "run", file, *INPUTS)
    assert code == 130, err
    flow = answers.calls[0].flow.id
    assert err.startswith(f"kaasq: workflow {flow}\n")
    assert f"\nkaasq: workflow {flow} is cancelled\n" in err


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_again_before_a_run_is_cancelled_cancels_it_all_the_same(
    cli: Run, node: MemoryNode, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(_: object) -> None:
        raise KeyboardInterrupt

    def scripted(_call: object, _message: Message) -> None:
        main = int(threading.main_thread().ident or 0)
        until(lambda: is_in(main, "result"))
        signal.pthread_kill(main, signal.SIGINT)

    monkeypatch.setattr(FlowRun, "cancel", again)
    with FakeWorker(MemoryBroker(node, "worker"), scripted):
        code, _, err = cli("flow", "run", file, *INPUTS)
        (cancelled,) = node.messages(topology.control_queue("default", "fake"))
    flow = codec.decode(cancelled.body, cancelled.content_type, Cancel).cancel
    assert code == 130, err
    assert f"\nkaasq: workflow {flow} is to be cancelled" in err


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_what_is_awaited_and_says_how_to_go_on(cli: Run, node: MemoryNode) -> None:
    def scripted(call: FlowStart | FlowCall | FlowsCall, message: Message) -> FlowReply | None:
        signal.pthread_kill(int(threading.main_thread().ident or 0), signal.SIGINT)
        return None

    with FakeWorker(MemoryBroker(node, "worker"), scripted):
        code, _, err = cli("flow", "wait", "nightly-1")
    assert code == 130
    assert (
        "kaasq: workflow nightly-1 goes on: `kaasq flow show nightly-1` shows it, `kaasq flow cancel nightly-1` ends it"
    ) in err
    assert not node.messages(topology.control_queue("default", "fake"))


def test_start_prints_the_id_alone(cli: Run, worker: FakeWorker, answers: Answers, file: str) -> None:
    code, out, _ = cli("flow", "start", file, *INPUTS)
    ((start, flow),) = answers.starts
    assert (code, out) == (0, f"{flow}\n")
    assert (start.reply, start.timeout_ms) == ("started", None)
    assert cli("flow", "start", file, *INPUTS, "--id", "nightly-1", "--timeout", "90")[1] == "nightly-1\n"
    assert answers.starts[1][0].timeout_ms == 90_000


def test_show_prints_the_tree_with_items_where_asked_for(cli: Run, worker: FakeWorker) -> None:
    code, out, _ = cli("flow", "show", "nightly-1")
    assert code == 0
    assert "nightly-1" in out
    assert [line.split()[0] for line in out.splitlines() if "completed" in line and "3/3" in line]
    assert "  [2]   completed" in cli("flow", "show", "nightly-1", "--items", "3")[1]


def test_ls_lists_workflows_and_says_how_many_there_are(cli: Run, worker: FakeWorker, answers: Answers) -> None:
    assert cli("flow", "ls")[1] == "0 of 0 workflows\n"
    going = FlowLine(id="nightly-2", name="tiles", state="running", started_ms=BEGAN_MS, steps=4, ended=1)
    over = FlowLine(
        id="[red]\x1b", name="tiles", state="completed", started_ms=BEGAN_MS, ended_ms=BEGAN_MS + 7050, steps=4, ended=4
    )
    answers.listed = FlowList(found=(going, over), total=31)
    code, out, _ = cli("flow", "ls", "--limit", "2")
    head, first, second, foot = [line.split() for line in out.splitlines()]
    assert (code, head) == (0, ["ID", "NAME", "STATE", "STEPS", "STARTED", "TOOK"])
    assert first[:4] == ["nightly-2", "tiles", "running", "1/4"]
    assert (second[0], second[3], second[-2:]) == ("[red]\\x1b", "4/4", ["7.05", "s"])
    assert " ".join(foot) == "2 of 31 workflows"
    cli("flow", "ls", "--state", "running")
    assert answers.sought == [Sought(), Sought(most=2), Sought(state="running")]


def test_ls_prints_json_for_programs(cli: Run, worker: FakeWorker, answers: Answers) -> None:
    line = FlowLine(id="f", name="tiles", state="failed", started_ms=1, ended_ms=3, steps=2, ended=2)
    answers.listed = FlowList(found=(line,), total=1)
    code, out, _ = cli("flow", "ls", "--state", "failed", "--json")
    assert (code, json.loads(out)) == (0, {"workflows": [msgspec.to_builtins(line)], "total": 1})


@pytest.mark.parametrize("options", [("--state", "waiting"), ("--limit", "0")])
def test_ls_refuses_what_it_does_not_know(cli: Run, options: tuple[str, str]) -> None:
    code, _, err = cli("flow", "ls", *options)
    assert code == 2
    assert "Invalid value for '--" in err


def test_show_draws_into_files(cli: Run, worker: FakeWorker, answers: Answers, tmp_path: Path) -> None:
    options = ("--svg", "f.svg", "--html", "f.html", "--trace", "f.json")
    code, _, err = cli("flow", "show", "nightly-1", *options)
    assert (code, err) == (0, "kaasq: wrote f.svg\nkaasq: wrote f.html\nkaasq: wrote f.json\n")
    assert [(each.flow.do, each.flow.items) for each in answers.calls] == [("status", True)]
    assert ET.parse(tmp_path / "f.svg").getroot().tag.endswith("svg")
    assert "<!DOCTYPE html>" in (tmp_path / "f.html").read_text()
    assert json.loads((tmp_path / "f.json").read_text())["otherData"]["id"] == "nightly-1"


def test_show_prints_json_with_items_where_asked_for(cli: Run, worker: FakeWorker, answers: Answers) -> None:
    said = json.loads(cli("flow", "show", "nightly-1", "--json")[1])
    assert (said["id"], said["state"]) == ("nightly-1", "completed")
    cli("flow", "show", "nightly-1", "--json", "--items", "1")
    assert [each.flow.items for each in answers.calls] == [False, True]


@pytest.mark.parametrize("json_wanted", [False, True])
def test_show_watches_until_the_workflow_has_ended(
    cli: Run, worker: FakeWorker, answers: Answers, monkeypatch: pytest.MonkeyPatch, *, json_wanted: bool
) -> None:
    monkeypatch.setattr("kaasq_producers.commands.flow_watching.REDRAWN_S", 0.01)
    running = flow_statuses.tiles(3, running=True)
    answers.standing = [running, running, flow_statuses.tiles(3), flow_statuses.tiles(3)]
    code, out, _ = cli("flow", "show", "nightly-1", "--watch", *(["--json"] if json_wanted else []))
    assert code == 0
    assert len(answers.calls) == 4
    if json_wanted:
        assert json.loads(out)["state"] == "completed"
    else:
        assert "3/3" in out
        assert out.endswith("\n")


def test_wait_prints_and_writes_what_a_workflow_gave(cli: Run, worker: FakeWorker, answers: Answers) -> None:
    code, out, _ = cli("flow", "wait", "nightly-1", "--output", "sum=sum.npy")
    assert code == 0
    assert out.startswith("workflow nightly-1 (images) completed in ")
    assert list(np.load("sum.npy")) == [66]
    assert [each.flow.do for each in answers.calls] == ["wait"]
    code, _, err = cli("flow", "wait", "nightly-1", "--output", "other=o.npy")
    assert (code, err) == (1, "kaasq: bad_request: --output: the workflow has no output 'other'\n")


def test_an_output_may_go_to_standard_output(cli: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw))
    code, _, err = cli("flow", "wait", "nightly-1", "--output", "sum=-")
    assert code == 0
    assert raw.getvalue() == np.float32([66]).tobytes()
    assert err.startswith("workflow nightly-1")


def test_cancel_tells_the_workers_first_and_then_says_what_became_of_it(
    cli: Run, worker: FakeWorker, answers: Answers, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaasq_producers.commands.flow_watching.REDRAWN_S", 0.01)
    assert cli("flow", "cancel", "nightly-1")[1] == "workflow nightly-1 has ended already: completed\n"
    running, told = flow_statuses.tiles(3, running=True), "the broker has that for each worker of the pool"
    answers.standing = [running, running, msgspec.structs.replace(running, state="cancelled")]
    assert cli("flow", "cancel", "nightly-1")[1] == "workflow nightly-1 is cancelled\n"
    monkeypatch.setattr("kaasq_producers.commands.flow_watching.ENDING_S", 0.0)
    answers.standing = [running]
    out = cli("flow", "cancel", "nightly-1")[1]
    assert out.startswith(f"workflow nightly-1 is to be cancelled: {told}. It has not ended yet: steps: ")
    heard = node.messages(topology.control_queue("default", "fake"))
    assert [msgspec.msgpack.decode(each.body, type=Cancel).cancel for each in heard] == ["nightly-1"] * 3


def test_cancel_says_what_it_knows_where_nobody_answers(
    cli: Run, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaasq_producers.commands.flow_watching.ASKED_S", 0.05)
    with FakeWorker(MemoryBroker(node, "worker"), Held()):
        code, out, _ = cli("flow", "cancel", "nightly-1")
    assert code == 0
    assert out == (
        "workflow nightly-1 is to be cancelled: the broker has that for each worker of the pool. None has said yet how "
        "it stands (0.05 s); `kaasq flow show nightly-1` asks again\n"
    )
    (heard,) = node.messages(topology.control_queue("default", "fake"))
    assert msgspec.msgpack.decode(heard.body, type=Cancel).cancel == "nightly-1"


@pytest.mark.parametrize("command", ["show", "wait", "cancel"])
def test_a_workflow_that_there_is_not_is_an_error(cli: Run, worker: FakeWorker, answers: Answers, command: str) -> None:
    answers.error = ErrorBody.of(NameNotFound("there is no workflow 'x' in this pool"))
    code, _, err = cli("flow", command, "x")
    assert code == 1
    told = "kaasq: name_not_found: there is no workflow 'x' in this pool"
    if command == "cancel":  # which the workers have heard all the same
        told += ". One that is sent under that id before result_ttl is over is cancelled"
    assert err.splitlines()[-1] == told


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"name": "f"}', "f.json: is no workflow: expected one (`name`, `steps`, `graphs`), or one with what it is"),
        (b'{"steps": []}', "f.json: body: Object missing required field `name`"),
        (b"\x80", "f.json: "),
        (b'{"name": "f", "steps": []}', "workflow.steps: a workflow needs at least one step"),
        (b'{"name": "f", "steps": [{"name": "s", "graph": "g", "retries": -1}]}', "f.json: "),
    ],
)
def test_a_file_that_is_no_workflow_is_refused(
    cli: Run, worker: FakeWorker, tmp_path: Path, body: bytes, message: str
) -> None:
    (tmp_path / "f.json").write_bytes(body)
    code, _, err = cli("flow", "run", "f.json")
    assert code == 1
    assert err.startswith(f"kaasq: bad_request: {message}")


def test_an_output_that_there_is_not_or_has_no_folder_is_refused_before_anything_runs(
    cli: Run, worker: FakeWorker, answers: Answers, file: str
) -> None:
    assert "the workflow has no output 'nope'" in cli("flow", "run", file, *INPUTS, "--output", "nope=o.npy")[2]
    assert "there is no folder" in cli("flow", "run", file, *INPUTS, "--output", "sum=a/b/o.npy")[2]
    assert "there is no folder" in cli("flow", "show", "x", "--svg", "a/b/f.svg")[2]
    assert not answers.starts


@pytest.mark.parametrize("command", ["run", "start", "ls", "show", "wait", "cancel"])
def test_help_shows_each_example_on_a_line_of_its_own(cli: Run, command: str) -> None:
    code, out, _ = cli("flow", command, "--help")
    assert code == 0
    assert "\\b" not in out
    assert command == "cancel" or f"\n  kaasq flow {command} " in out

"""Programs without kaasq, in other languages and with other libraries, on a real RabbitMQ with a real worker."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from kaasq.ids import new_id
from kaasq.rabbit import RabbitBroker
from kaasq.schema.documents import json_schema
from kaasq.topology import pool_topology
from real_broker import RealBroker
from tests.support.messaging import declare
from tests.support.workers import running_worker

ROOT = Path(__file__).parents[2]
NODEJS = ROOT / "examples" / "nodejs"
SHELL = ROOT / "examples" / "shell"
PAGE = ROOT / "docs" / "protocol.md"
WORKFLOWS = ROOT / "docs" / "workflows.md"
SNIPPET = re.compile(r"^```(\w+) ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMEOUT_S = 100


class Served(NamedTuple):
    """A pool that a worker serves, and a broker's address."""

    url: str
    pool: str
    broker: RealBroker

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "KAASQ_BROKER_URL": self.url, "KAASQ_POOL": self.pool}


@pytest.fixture(scope="module")
def served(broker: RealBroker, broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pool = f"t{new_id()[-10:]}"
    with running_worker(broker_url, pool, tmp_path_factory.mktemp("served") / "store"):
        yield Served(broker_url, pool, broker)


def run(
    *command: str | Path, environment: Mapping[str, str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. A missing one fails the test: ``./ops/test`` installs what is needed."""
    name = str(command[0])
    assert shutil.which(name), f"{name} is missing; ./ops/test installs it"
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


# --------------------------------------------------------------------------------------------------------- Node.js


def test_lock_files_name_no_place_but_the_public_registry() -> None:
    for lock in (NODEJS / "package-lock.json", ROOT / "tests" / "nodejs" / "package-lock.json"):
        for name, package in json.loads(lock.read_text())["packages"].items():
            if name:
                assert package["integrity"].startswith("sha512-")
                assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/")


@pytest.mark.parametrize("options", [(), ("--direct",)], ids=["own queue", "direct reply-to"])
def test_node_example_sends_the_graph_once(served: Served, options: tuple[str, ...]) -> None:
    ran = run("node", "saxpy.mjs", *options, environment=served.environment, folder=NODEJS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    first, second, *events = ran.stdout.splitlines()
    assert re.fullmatch(
        r"\[1 3 5 7 9 11 13 15\] from cpu, the graph sent whole, known as [0-9a-f]{8} from now on", first
    )
    assert second == "[1 11 21 31 41 51 61 71] from cpu, the graph sent by its hash"
    assert len(events) == 2
    assert all(re.fullmatch(r"kaasq\.request\.completed after \d+ us", each) for each in events)


def test_node_example_says_that_there_is_no_pool(served: Served) -> None:
    environment = {**served.environment, "KAASQ_POOL": f"none-{new_id()}"}
    ran = run("node", "saxpy.mjs", environment=environment, folder=NODEJS)
    assert ran.returncode == 1
    assert ran.stderr.startswith("unroutable: no worker ever served pool none-")


def test_node_client(served: Served, pool: str) -> None:
    broker = RabbitBroker(served.url)
    broker.open(10)
    try:
        assert declare(broker, pool_topology(pool, "gone")) is None
    finally:
        broker.close()
    environment = {**served.environment, "KAASQ_DESERTED_POOL": pool}
    ran = run("node", "--test", "tests/nodejs/client.test.mjs", environment=environment, folder=ROOT)
    assert ran.returncode == 0, ran.stdout
    passed = re.search(r"^\W*pass (\d+)$", ran.stdout, re.MULTILINE)
    assert passed
    assert int(passed.group(1)) >= 15


# ----------------------------------------------------------------------------------------------------------- shell


def shell(served: Served, request: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    assert served.broker.management is not None, "the management API is needed: set KAASQ_TEST_MANAGEMENT_URL"
    management = urlsplit(served.broker.management.url)
    assert shutil.which("curl"), "curl is missing; ./ops/test installs it"
    assert shutil.which("jq"), "jq is missing; ./ops/test installs it"
    environment = {
        **served.environment,
        "KAASQ_MANAGEMENT_URL": f"http://{management.hostname}:{management.port or 15672}",
        "KAASQ_USER": management.username or "guest",
        "KAASQ_PASSWORD": management.password or "guest",
        "KAASQ_VHOST": urlsplit(served.url).path[1:] or "/",
        **settings,
    }
    return run("bash", SHELL / "run.sh", request, environment=environment)


def test_shell_example(served: Served) -> None:
    ran = shell(served, SHELL / "request.json")
    assert ran.returncode == 0, ran.stderr
    reply = json.loads(ran.stdout)
    Draft202012Validator(json_schema("reply")).validate(reply)
    assert struct.unpack("<4f", base64.b64decode(reply["outputs"]["out"]["inline"])) == (10, 20, 30, 40)


def test_shell_example_leaves_no_queue(served: Served) -> None:
    assert shell(served, SHELL / "request.json").returncode == 0
    assert served.broker.management is not None
    names = [each["name"] for each in served.broker.management.queues(urlsplit(served.url).path[1:] or "/")]
    assert not [each for each in names if re.fullmatch(r"kaasq\.reply\.\w+\.[0-9a-f]{8}-[0-9a-f-]{27}", each)]


def test_shell_example_prints_the_error_of_a_reply(served: Served, tmp_path: Path) -> None:
    request = json.loads((SHELL / "request.json").read_text())
    request["graph"]["launches"][0]["block"] = 0
    (tmp_path / "wrong.json").write_text(json.dumps(request))
    ran = shell(served, tmp_path / "wrong.json")
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["error"]["code"] == "bad_request"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"KAASQ_POOL": "never-served"}, "unroutable: no worker ever served pool never-served"),
        ({"KAASQ_PASSWORD": "wrong"}, "cannot declare a queue"),
    ],
)
def test_shell_example_says_what_is_wrong(served: Served, settings: dict[str, str], says: str) -> None:
    ran = shell(served, SHELL / "request.json", **settings)
    assert ran.returncode == 1
    assert says in ran.stderr


# ----------------------------------------------------------------------------- what docs/protocol.md shows, and pika


def snippets(language: str, mark: str = "", page: Path = PAGE) -> list[str]:
    found = [each.group(3) for each in SNIPPET.finditer(page.read_text()) if each.groups()[:2] == (language, mark)]
    assert found, f"{page} has no snippet marked {language} {mark}"
    return found


@pytest.mark.parametrize("name", ["request", "reply", "event", "cancel"])
def test_json_of_the_page_fits_the_schema(name: str) -> None:
    validator = Draft202012Validator(json_schema(name))
    for each in snippets("json", name) + (snippets("json", name, WORKFLOWS) if name == "request" else []):
        validator.validate(json.loads(each))


def test_python_of_the_page_runs_its_requests(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = snippets("python", "pika")
    assert "guest.default.any" in code
    code = code.replace("amqp://guest:guest@localhost:5672/", served.url)
    code = code.replace("guest.default.any", f"guest.{served.pool}.any")
    requests = snippets("json", "request") + snippets("json", "request", WORKFLOWS)
    reply: dict[str, Any] = {}
    for request in requests + snippets("json", "workflow"):
        (tmp_path / "request.json").write_text(request)
        exec(compile(code, str(PAGE), "exec"), {})
        reply = json.loads(capsys.readouterr().out)
        Draft202012Validator(json_schema("reply")).validate(reply)
        assert reply["status"] == "ok", reply
    assert base64.b64decode(reply["outputs"]["sum"]["inline"]) == struct.pack("<f", 0.5 * sum(range(1, 9)))


# -------------------------------------------------------------------------------------------------------- AsyncAPI


def test_asyncapi_document_is_one() -> None:
    specification = ROOT / "tests" / "nodejs" / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"
    assert specification.exists(), "npm ci --prefix tests/nodejs fetches it, as ./ops/test does"
    document: dict[str, Any] = json.loads((ROOT / "docs" / "asyncapi.json").read_text())
    Draft7Validator(json.loads(specification.read_text())).validate(document)
    with pytest.raises(Exception, match="is not valid"):  # it does look inside
        Draft7Validator(json.loads(specification.read_text())).validate(
            {**document, "operations": {"run": {"action": "listen"}}}
        )

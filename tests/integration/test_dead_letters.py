"""``kaasq dead`` on a real RabbitMQ: what is not settled stays, in its order; what is replayed runs; errors say why."""

from __future__ import annotations

import json
import secrets
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pika
import pytest

from kaasq import codec
from kaasq.broker import Message
from kaasq.cli import main
from kaasq.dead_letter import bury, read
from kaasq.errors import ReplyTimeout
from kaasq.messages import Request, Stored
from kaasq.rabbit import RabbitBroker
from kaasq.rabbit.dead import DeadQueue
from kaasq.settings import Settings
from kaasq.topology import DEAD, REQUESTS, pool_topology, request_key
from kaasq_producers import Client
from kaasq_storage import open_store
from real_broker import RealBroker
from tests.support import graphs
from tests.support.fake_worker import FakeWorker
from tests.support.front_bench import Taken
from tests.support.messaging import Outcomes, declare
from tests.support.odd_properties import ODD, OddProperties
from tests.support.waiting import until

X = np.arange(4, dtype=np.float32)
EVIDENCE = {"how": "SIGSEGV", "kills": 2, "worker": "host 4711 cpu"}
BODY = codec.encode(Request(graph=graphs.saxpy().freeze(), bind={"x": X.tobytes(), "y": X.tobytes()}), codec.JSON)
Run = Callable[..., tuple[int, str, str]]


class Graveyard:
    """A vhost with a pool ``p`` and dead letters; ``url`` is the administrator's."""

    def __init__(self, url: str, real: RealBroker) -> None:
        self.url, self.real = url, real
        self.vhost = urlsplit(url).path[1:]
        self.users: list[str] = []
        self.broker = RabbitBroker(url)
        self.broker.open(10)
        assert declare(self.broker, pool_topology("p", "s")) is None

    def bury(self, *ids: str, tenant: str = "guest", code: str = "kernel_failed", body: bytes = BODY) -> None:
        done = Outcomes()
        for each in ids:
            taken = Taken(Message(body=body, content_type=codec.JSON, message_id=each, user_id=tenant))
            taken.routing_key = request_key(tenant, "p")
            message, exchange, key = bury(taken, tenant, code, "it crashed", EVIDENCE)
            self.broker.publish(message, exchange=exchange, routing_key=key, done=done)
        assert set(done.some(len(ids))) == {None}

    def expire(self, id_: str) -> None:
        done = Outcomes()
        message = Message(body=BODY, content_type=codec.JSON, message_id=id_, user_id="guest", expiration_ms=1)
        key = request_key("guest", "p")
        self.broker.publish(message, exchange=REQUESTS, routing_key=key, mandatory=True, done=done)
        assert done.one() is None
        deadline = time.monotonic() + 10
        while id_ not in self.ids():  # RabbitMQ moves it in its own time
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def ids(self) -> list[str]:
        with DeadQueue(self.url, timeout_s=10) as queue:
            return [read(each).id for each in queue.letters()]

    def login(self, *tags: str, read: str = ".*") -> str:
        """Another user of the vhost: its URL."""
        user = f"u{secrets.token_hex(4)}"
        management = self.real.management
        management.add_user(user, "secret", tags=",".join(tags))
        management.set_permissions(user, vhost=self.vhost, read=read)
        self.users.append(user)
        parts = urlsplit(self.url)
        return parts._replace(netloc=f"{user}:secret@{parts.hostname}:{parts.port}").geturl()

    def close(self) -> None:
        self.broker.close()
        for each in self.users:
            self.real.management.delete_user(each)


@pytest.fixture
def graveyard(rabbit_url: str, broker: RealBroker) -> Iterator[Graveyard]:
    made = Graveyard(rabbit_url, broker)
    yield made
    made.close()


@pytest.fixture
def dead(
    graveyard: Graveyard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs ``kaasq dead ...``: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAASQ_BROKER_URL", graveyard.url)
    monkeypatch.setenv("KAASQ_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("KAASQ_STORE_SYNC", "false")

    def run(*arguments: str, command: str = "dead") -> tuple[int, str, str]:
        code = 0
        try:
            main([command, *arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def test_looking_at_letters_loses_and_reorders_nothing(graveyard):
    ids = [f"letter-{number:04}" for number in range(600)]
    graveyard.bury(*ids)
    for _ in range(3):
        assert graveyard.ids() == ids
    with DeadQueue(graveyard.url, timeout_s=10) as queue:  # leaving early, and settling one in the middle
        for each in queue.letters():
            if each.message.message_id == "letter-0007":
                each.ack()
            if each.message.message_id == "letter-0040":
                break
    ids.remove("letter-0007")
    assert graveyard.ids() == ids


def test_the_queue_of_letters_has_no_delivery_limit_that_looking_could_reach(graveyard):
    (queue,) = [each for each in graveyard.real.management.queues(graveyard.vhost) if each["name"] == DEAD]
    assert queue["arguments"]["x-delivery-limit"] > 10**9


def test_list_shows_what_was_buried_and_what_rabbitmq_gave_up(graveyard, dead):
    graveyard.bury("crashed-1", "crashed-2")
    graveyard.expire("expired-1")
    graveyard.bury("of-ann", tenant="ann", code="bad_request")
    code, out, err = dead("list")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == ["crashed-1", "crashed-2", "expired-1", "of-ann"]
    assert "4 of 4 dead letters: 2 kernel_failed, 1 expired, 1 bad_request" in out
    assert [each["id"] for each in json.loads(dead("list", "--tenant", "ann", "--json")[1])["letters"]] == ["of-ann"]
    assert "1 of 4 dead letters: 1 expired" in dead("list", "--code", "expired")[1]
    assert "0 of 4 dead letters" in dead("list", "--older-than", "1h")[1]
    assert "the oldest 1 are shown" in dead("list", "--limit", "1")[1]


def test_a_question_whose_time_is_over_is_no_letter_but_a_request_is(graveyard, tmp_path):
    graveyard.expire("request")  # first: RabbitMQ looks only at the head of a quorum queue
    settings = Settings(pool="p", store=str(tmp_path / "store"), timeout=0.3)
    with Client(graveyard.url, settings=settings) as client:
        for ask in (client.workflows, client.attach("f").status):
            with pytest.raises(ReplyTimeout):
                ask()
    with FakeWorker(RabbitBroker(graveyard.url), lambda *_: None, pool="p") as worker:  # it gets what is still there
        until(lambda: len(worker.messages) == 2)
    assert {codec.question(each.body, each.content_type).timeout_ms for each in worker.messages} == {300}
    assert graveyard.ids() == ["request"]


@pytest.mark.parametrize("odd", ODD)
def test_a_letter_with_odd_headers_stands_in_nobodys_way(graveyard, dead, odd):
    """Its tenant wrote them, and RabbitMQ, which gave the request up, keeps them all."""
    id_ = f"\x1b[31m{secrets.token_hex(4)}" if odd == "control characters" else "expired-odd"
    properties = OddProperties(
        ODD[odd], user_id="guest", message_id=id_, content_type=codec.JSON, expiration="1", reply_to="\x1b[7m"
    )
    with pika.BlockingConnection(pika.URLParameters(graveyard.url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(REQUESTS, request_key("guest", "p"), BODY, properties)
        deadline = time.monotonic() + 10
        while not channel.queue_declare(DEAD, passive=True).method.message_count:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    graveyard.bury("behind-it")
    assert [each["id"] for each in json.loads(dead("list", "--json")[1])["letters"]] == [id_, "behind-it"]
    assert json.loads(dead("show", id_, "--json")[1])["reply_to"] == "\x1b[7m"
    for command in (["list"], ["show", id_], ["export", id_, "x.zip"], ["replay", id_, "--new-id"]):
        code, out, err = dead(*command)
        assert (code, err) == (0, "")
        assert out.replace("\n", "").isprintable()
    assert id_ not in graveyard.ids()  # it is another one now, and expires as such


def test_a_code_that_no_letter_can_have_is_refused_and_both_names_of_a_passed_deadline_are_taken(graveyard, dead):
    graveyard.bury("crashed-1")
    graveyard.bury("new-1", code="of_a_newer_worker")
    graveyard.expire("expired-1")
    for command in (["drop", "--all", "--yes"], ["replay", "--all"], ["list"]):
        code, _, err = dead(*command, "--code", "expird")
        assert code == 1
        assert "--code: 'expird' is no code of a dead letter; did you mean 'expired'?; those here have expired, " in err
        assert "kernel_failed, of_a_newer_worker" in err
    assert "0 of 3 dead letters" in dead("list", "--code", "conflict")[1]
    assert "1 of 3 dead letters" in dead("list", "--code", "of_a_newer_worker")[1]
    assert dead("drop", "--all", "--yes", "--code", "deadline_exceeded")[:2] == (0, "removed 1\n")
    assert graveyard.ids() == ["crashed-1", "new-1"]


def test_a_short_id_that_is_whole_is_one(graveyard, dead):
    graveyard.bury("a1")
    assert "request a1" in dead("show", "a1")[1]
    assert dead("drop", "a1")[:2] == (0, "removed 1\n")


def test_a_broker_that_never_had_a_worker_has_no_letters(rabbit_url, dead):
    assert "0 of 0 dead letters" in dead("list", "--broker", rabbit_url)[1]


def test_show_tells_all_of_one(graveyard, dead):
    graveyard.bury("crashed-1")
    code, out, _ = dead("show", "crashed-")
    assert code == 0
    assert "kernel_failed: it crashed" in out
    assert "executors that died of it: 2" in out
    assert "the last worker: host 4711 cpu" in out
    assert json.loads(dead("show", "crashed-", "--json")[1])["evidence"] == EVIDENCE
    assert "graph 'saxpy': 1 launches of saxpy" in out
    assert "input x: 16 B in the message" in out


def test_an_id_that_means_none_or_several_is_told(graveyard, dead):
    graveyard.bury("same-id-0", tenant="ann")
    graveyard.bury("same-id-0", tenant="bob")
    code, _, err = dead("show", "same-id-0")
    assert code == 1
    assert "means several dead letters, same-id-0 of ann and same-id-0 of bob: give all of the id, or --tenant" in err
    assert "of tenant bob" in dead("show", "same-id-0", "--tenant", "bob")[1]
    assert "no dead letter has that id (`kaasq dead list` shows them)" in dead("show", "nowhere-1")[2]
    for command in (["show", "same-id"], ["drop", "same-id"], ["replay", "same-id"], ["export", "same-id", "x.zip"]):
        code, _, err = dead(*command)
        assert (code, "its beginning takes 8 characters or more" in err) == (1, True)
    assert dead("drop")[0] == 2
    assert graveyard.ids() == ["same-id-0"] * 2


def test_replay_publishes_the_request_as_it_was_and_then_removes_the_letter(graveyard, dead):
    graveyard.bury("crashed-1")
    graveyard.bury("crashed-2", code="unroutable")
    graveyard.expire("expired-1")
    with FakeWorker(RabbitBroker(graveyard.url), lambda _, message: None, pool="p") as worker:
        assert dead("replay", "crashed-2")[:2] == (0, "published 1 again\n")
        assert graveyard.ids() == ["crashed-1", "expired-1"]
        assert dead("replay", "--all", "--code", "expired")[:2] == (0, "published 1 again\n")
        assert graveyard.ids() == ["crashed-1"]
        assert dead("replay", "--all", "--new-id")[0] == 0
        replayed = [each.message_id for each in worker.messages if each.expiration_ms is None]
    assert graveyard.ids() == []
    assert replayed[0] == "crashed-2"
    assert replayed[-1] not in {"crashed-1", "crashed-2"}


def test_what_may_have_its_outcome_stays_unless_it_is_to_run_anew_or_to_be_told_once_more(graveyard, dead):
    graveyard.bury("crashed-1", "crashed-2", "crashed-3")
    graveyard.bury("refused-1", code="unroutable")
    code, out, err = dead("replay", "crashed-1")
    assert (code, out) == (1, "")
    assert "kaasq: bad_request: crashed-1: it may have its outcome (kernel_failed), and then would not run" in err
    assert "--new-id" in err
    assert "--same-id has the outcome told once more, or runs it again if that has expired" in err
    code, out, err = dead("replay", "--all")
    assert (code, out) == (1, "published 1 again\n")
    assert "kaasq: 3 left in the queue: it may have its outcome (kernel_failed)" in err
    assert graveyard.ids() == ["crashed-1", "crashed-2", "crashed-3"]
    assert dead("replay", "crashed-1", "--same-id")[:2] == (0, "published 1 again\n")
    assert dead("replay", "crashed-2", "--new-id")[:2] == (0, "published 1 again\n")
    assert graveyard.ids() == ["crashed-3"]


def test_replay_leaves_in_the_queue_what_cannot_be_published(graveyard, dead):
    graveyard.bury("crashed-1", tenant="ann", code="unroutable")
    graveyard.bury("crashed-2", code="unroutable")
    graveyard.bury("nobodys-1", tenant="Not A Word", code="forbidden")
    code, out, err = dead("replay", "--all")
    assert (code, out) == (1, "published 1 again\n")
    assert "kaasq: 1 left in the queue: the request belongs to tenant 'ann', and RabbitMQ lets 'guest' publish f" in err
    assert "has no tenant, so no worker would take it" in err
    assert graveyard.ids() == ["crashed-1", "nobodys-1"]


def test_another_tenants_letter_is_replayed_with_its_login_or_by_an_impersonator(graveyard, dead):
    anns = graveyard.login()
    ann = urlsplit(anns).username
    graveyard.bury("crashed-1", "crashed-2", "crashed-3", tenant=ann, code="unroutable")
    code, _, err = dead("replay", "crashed-1")
    assert code == 1
    assert "kaasq: forbidden: " in err
    assert "--publish-as" in err
    assert "impersonator" in err
    assert dead("replay", "crashed-1", "--publish-as", anns)[0] == 0
    assert dead("replay", "crashed-2", "--broker", graveyard.login("impersonator"))[0] == 0
    assert graveyard.ids() == ["crashed-3"]


def test_a_replay_to_a_pool_that_nobody_serves_keeps_the_letter(graveyard, dead):
    graveyard.bury("crashed-1", code="unroutable")
    for queue in ("kaasq.work.p", "kaasq.work.p.s"):
        graveyard.real.management.call("DELETE", "queues", graveyard.vhost, queue)
    code, _, err = dead("replay", "crashed-1")
    assert code == 1
    assert "kaasq: unroutable: no worker ever served pool 'p'" in err
    assert graveyard.ids() == ["crashed-1"]


def test_drop_removes_what_was_meant(graveyard, dead):
    graveyard.bury("crashed-1", "crashed-2", "crashed-3")
    assert dead("drop", "crashed-2")[:2] == (0, "removed 1\n")
    assert graveyard.ids() == ["crashed-1", "crashed-3"]
    assert dead("drop", "--all", "--tenant", "guest", "--yes")[:2] == (0, "removed 2\n")
    assert graveyard.ids() == []


def test_drop_of_all_removes_them_once_that_is_answered(graveyard, dead, monkeypatch):
    graveyard.bury("crashed-1", "crashed-2")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert dead("drop", "--all")[0] == 2
    assert graveyard.ids() == ["crashed-1", "crashed-2"]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: "y")
    assert dead("drop", "--all")[:2] == (0, "removed 2\n")
    assert graveyard.ids() == []
    assert dead("drop", "--all")[:2] == (0, "removed 0\n")


def test_who_may_not_read_letters_is_told(graveyard, dead):
    graveyard.bury("crashed-1")
    code, _, err = dead("list", "--broker", graveyard.login(read="^kaasq\\.reply\\."))
    assert code == 1
    assert "kaasq: forbidden: user 'u" in err
    assert "may not read the dead letters" in err


def test_a_second_reader_is_told_to_wait(graveyard, dead):
    with DeadQueue(graveyard.url, timeout_s=10):
        code, _, err = dead("list")
    assert code == 1
    assert "another `kaasq dead` reads the dead letters just now" in err


def test_a_broker_that_is_away_is_told(dead):
    code, _, err = dead("list", "--broker", "amqp://guest:guest@127.0.0.1:1/")
    assert code == 1
    assert "kaasq: broker_lost: nobody listens at 127.0.0.1:1" in err


def test_an_exported_letter_runs_elsewhere_with_its_inputs(graveyard, dead, tmp_path):
    with open_store(tmp_path / "store", capacity=1 << 26, sync=False) as store:
        packed, _ = store.put("guest", np.concatenate([X, X + 1]).tobytes())
        store.put("guest", X.tobytes(), name="weights/y")
    bind = {"x": Stored(ref=packed.ref, offset=16), "y": Stored(name="weights/y")}
    body = codec.encode(Request(graph=graphs.saxpy().freeze(), bind=bind), codec.JSON)
    graveyard.bury("crashed-1", body=body)
    code, out, err = dead("export", "crashed-1", "crash.zip")
    assert (code, err) == (0, "")
    assert "2 inputs from the store" in out
    with zipfile.ZipFile("crash.zip") as archive:
        said = json.loads(archive.read("bundle.json"))
        assert (said["id"], said["code"], said["reason"]) == ("crashed-1", "kernel_failed", "it crashed")
        assert archive.read("request.json") == body
    with FakeWorker(RabbitBroker(graveyard.url), pool="elsewhere"):
        arguments = ("crash.zip", "--pool", "elsewhere", "--store", "another", "--output", "out=out.npy")
        code, _, err = dead(*arguments, command="run")
    assert (code, err) == (0, "")
    np.testing.assert_array_equal(np.load("out.npy"), 2 * (X + 1) + X)
    assert graveyard.ids() == ["crashed-1"]


def test_an_export_says_what_it_lacks(graveyard, dead):
    stored = Request(graph=graphs.saxpy().freeze(), bind={"x": Stored(ref="ab" * 32), "y": X.tobytes()})
    graveyard.bury("crashed-1", body=codec.encode(stored, codec.JSON))
    graveyard.bury("by-hash-1", body=codec.encode(Request(graph="ab" * 32), codec.JSON))
    graveyard.bury("garbage-1", body=b"{")
    code, _, err = dead("export", "crashed-1", "crash.zip")
    assert code == 0
    assert "input 'x' (" in err
    assert "is not in the store any more: give it with --input x=FILE" in err
    assert "names its graph by its hash only" in dead("export", "by-hash-1", "hash.zip")[2]
    assert "the request cannot be read" in dead("export", "garbage-1", "garbage.zip")[2]
    assert "names its graph by its hash only" in dead("hash.zip", command="run")[2]
    Path("broken.zip").write_bytes(Path("crash.zip").read_bytes()[:-200] + Path("crash.zip").read_bytes()[-22:])
    assert dead("broken.zip", command="run")[0] == 1

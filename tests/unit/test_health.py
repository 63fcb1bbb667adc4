"""The health file: when a worker counts as alive, what is said when it does not, and how the file is read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from kaasq.cli import main
from kaasq.errors import BadRequest
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.settings import Settings
from kaasq_workers.health import Condition, HealthFile, beating, read_health, troubles
from tests.support.messaging import classic, declare

NOW = 1_700_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


class Slot:
    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong

    def condition(self) -> Condition:
        return Condition(slot="s", device="cpu", wrong=self.wrong, held=3)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path, clock: Clock) -> HealthFile:
    return HealthFile(tmp_path / "health.json", "p", clock)


def condition(slot: str = "s", wrong: str = "", held: int = 0) -> Condition:
    return Condition(slot=slot, device="cpu", wrong=wrong, held=held)


def test_a_worker_is_alive_as_long_as_every_slot_was_well_within_the_time(file, clock, tmp_path):
    file.update([condition("a"), condition("b")])
    clock.now += 20
    health = file.update([condition("a"), condition("b", wrong="the broker does not deliver to it")])
    assert troubles(health, clock.now, 30) == []
    clock.now += 20
    health = file.update([condition("a"), condition("b", wrong="the broker does not deliver to it")])
    assert troubles(health, clock.now, 30) == ["slot b was well 40 s ago: the broker does not deliver to it"]
    assert read_health(tmp_path / "health.json") == health
    assert (tmp_path / "health.json").stat().st_mtime == NOW  # when all was well last
    health = file.update([condition("a"), condition("b")])
    assert troubles(health, clock.now, 30) == []


def test_a_file_that_is_no_longer_written_is_that_of_a_worker_that_hangs(file, clock):
    health = file.update([condition()])
    assert troubles(health, clock.now + 31, 30) == ["the file was written 31 s ago: the worker hangs, or has ended"]


def test_a_slot_that_was_never_well_is_given_the_time_from_the_start(file, clock):
    health = file.update([condition(wrong="nothing yet")])
    assert troubles(health, clock.now + 29, 30) == []
    assert troubles(health, clock.now + 31, 60) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"no JSON"])
def test_a_file_that_is_none_is_named(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(BadRequest, match=r"f: is no health file of a worker"):
        read_health(tmp_path / "f")
    with pytest.raises(BadRequest, match="is not there: no worker writes it"):
        read_health(tmp_path / "g")


def test_the_file_is_there_while_the_block_lasts(tmp_path):
    path = tmp_path / "health.json"
    with beating(Settings(health_file=str(path)), [Slot()]):
        first = read_health(path)
        deadline = time.monotonic() + 10
        while read_health(path).written_at == first.written_at:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not path.exists()
    with beating(Settings(), [Slot()]):
        pass


def test_a_file_that_cannot_be_written_fails_the_start(tmp_path):
    with pytest.raises(BadRequest, match=r"health_file: .*cannot write it"):
        with beating(Settings(health_file=str(tmp_path / "no" / "file")), [Slot()]):
            pass


def test_the_command_exits_by_it(tmp_path, capsys):
    def health(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(["health", *arguments])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out + err

    path = tmp_path / "health.json"
    code, said = health()
    assert (code, "health_file: is not set" in said) == (1, True)
    assert health("--file", str(path))[0] == 1
    with beating(Settings(health_file=str(path)), [Slot()]):
        assert health("--file", str(path)) == (0, "alive: 1 slots of pool default, 3 requests held\n")
        code, said = health("--file", str(path), "--json")
        assert (code, json.loads(said)["alive"]) == (0, True)
    HealthFile(path, "p", lambda: NOW).update([condition()])
    code, said = health("--file", str(path))
    assert code == 1
    assert "the worker hangs, or has ended" in said


def test_a_consumer_in_memory_says_whether_it_is_delivered_to():
    node = MemoryNode()
    broker = MemoryBroker(node)
    broker.open(5)
    assert declare(broker, classic("q")) is None
    consumer = broker.consume("q", lambda each: each.ack(), prefetch=1)
    deadline = time.monotonic() + 5
    while not consumer.consuming:
        assert time.monotonic() < deadline
    consumer.cancel()
    assert not consumer.consuming
    broker.close()

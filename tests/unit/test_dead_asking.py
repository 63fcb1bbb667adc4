"""Before all dead letters are removed, the command asks: only where there are any, and where somebody can answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import click
import pytest

import kaasq_producers.dead.command
import kaasq_producers.dead.events_command
from tests.support.commands import Run, runner

DROPS = [("dead", "drop"), ("events", "dead", "drop")]


class Queue:
    """Dead letters of which nobody sees more than the number: they are not looked at."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.is_open = False

    def __enter__(self) -> Self:
        self.is_open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False

    def letters(self) -> list[Any]:
        return []


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(tmp_path, monkeypatch, capsys)


@pytest.fixture
def with_letters(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Queue]:
    def there_are(count: int) -> Queue:
        queue = Queue(count)
        for module in (kaasq_producers.dead.command, kaasq_producers.dead.events_command):
            monkeypatch.setattr(module, "DeadQueue", lambda *_, **__: queue)
        return queue

    return there_are


@pytest.mark.parametrize("drop", DROPS)
def test_without_a_terminal_it_is_told_how_to_answer_in_advance(
    cli: Run, with_letters: Callable[[int], Queue], monkeypatch: pytest.MonkeyPatch, drop: tuple[str, ...]
) -> None:
    with_letters(3)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    code, out, err = cli(*drop, "--all")
    assert (code, out) == (2, "")
    assert "There is no terminal to ask on" in err
    assert "--yes answers in advance" in err
    assert cli(*drop, "--all", "--yes") == (0, "removed 0\n", "")


@pytest.mark.parametrize("drop", DROPS)
def test_without_letters_there_is_no_question(
    cli: Run, with_letters: Callable[[int], Queue], drop: tuple[str, ...]
) -> None:
    with_letters(0)
    assert cli(*drop, "--all") == (0, "removed 0\n", "")


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize(("answer", "ends"), [("y", (0, "removed 0\n")), ("n", (130, ""))], ids=["yes", "no"])
def test_who_is_at_a_terminal_is_asked_with_the_queue_closed(
    cli: Run,
    with_letters: Callable[[int], Queue],
    monkeypatch: pytest.MonkeyPatch,
    drop: tuple[str, ...],
    answer: str,
    ends: tuple[int, str],
) -> None:
    queue, asked = with_letters(3), []

    def answered(prompt: str) -> str:
        assert not queue.is_open
        asked.append(prompt)
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(click.termui, "visible_prompt_func", answered)
    code, out, err = cli(*drop, "--all")
    assert (code, out) == ends
    assert "Remove all dead " in err + asked[0]  # which of both: it depends on the version of click

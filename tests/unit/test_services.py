"""The pure parts of subscriptions and services: retries, names, and what visitors of the register decide."""

from __future__ import annotations

import sys
import types
import zlib
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

import kaasq
from kaasq.errors import BadRequest
from kaasq.topology import Binding, Queue
from kaasq_producers.commands.serve import find_service
from kaasq_producers.events.register import YOUNG_MS, Note, latest, removing, replaced, subscribing
from kaasq_producers.events.retrying import Retries, pause_after
from kaasq_producers.events.service import Handler, Service, service_of


def test_pauses_double_up_to_the_longest_and_then_there_is_no_other_attempt() -> None:
    retries = Retries(attempts=6, first_s=0.5, most_s=3.0)
    assert [pause_after(failures, retries) for failures in range(1, 7)] == [0.5, 1.0, 2.0, 3.0, 3.0, None]
    assert pause_after(1, Retries(attempts=1)) is None


def test_all_pauses_together_stay_well_below_the_brokers_patience() -> None:
    longest = Retries(attempts=20, first_s=60, most_s=60)
    assert sum(pause_after(failures, longest) or 0 for failures in range(1, 20)) < 1500


def handle(event: Any, step: Any) -> None:
    """A step."""


def test_a_step_is_as_callable_as_its_function() -> None:
    def double(event: int, step: int) -> int:
        """Twice."""
        return 2 * event

    made = kaasq.on("a.completed")(double)
    assert (made(4, 0), made.name, made.__doc__, made.is_async) == (8, "double", "Twice.", False)


@pytest.mark.parametrize(
    ("patterns", "name", "says"),
    [
        ((), None, "say which events"),
        (("images.resize",), None, "did you mean 'images.resize.*'?"),
        (("a.completed",), "Not A Word", "handler"),
    ],
)
def test_a_wrong_step_is_refused_where_it_is_written(patterns: Any, name: Any, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        kaasq.on(*patterns, name=name)(handle)
    assert says in caught.value.message


def test_a_step_s_own_retries_are_checked_where_they_are_written() -> None:
    with pytest.raises(BadRequest, match=r"retries: expected kaasq\.Retries, given 3"):
        kaasq.on("a.completed", retries=3)(handle)  # type: ignore[arg-type]
    assert Service("s").on("a.completed", retries=Retries(attempts=1))(handle).retries == Retries(attempts=1)


def test_a_service_names_its_subscriptions_and_refuses_two_of_a_name() -> None:
    service = Service("thumbnails")
    made = service.on("a.completed")(handle)
    assert service.subscription(made) == "thumbnails-handle"
    assert Service().subscription(made) == "tests-unit-test_services-handle"
    assert service.add(made) is made
    with pytest.raises(BadRequest, match="two handlers 'handle'"):
        service.on("b.completed")(handle)
    with pytest.raises(BadRequest, match="subscription"):
        Service("s" * 60).add(made)


def _of(module: str) -> Any:
    def handle(event: Any, step: Any) -> None:
        """A step."""

    handle.__module__ = module
    return kaasq.on("a.completed")(handle)


def test_functions_of_one_name_in_two_modules_have_two_subscriptions() -> None:
    service = Service(handlers=[_of("sa"), _of("pipeline.Steps")])
    assert [service.subscription(each) for each in service] == ["sa-handle", "pipeline-steps-handle"]
    assert [Service("s").subscription(each) for each in service] == ["s-handle", "s-handle"]
    with pytest.raises(BadRequest, match="two handlers 'handle'"):
        service.add(_of("sa"))
    for wrong in ("m" * 60, "", "データ"):
        with pytest.raises(BadRequest, match="give the service a name"):
            Service().add(_of(wrong))


def test_a_script_is_called_as_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    script = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)
    assert _of("__main__").module == "main"  # typed at a prompt
    script.__file__ = "/home/ann/My thumbnails.py"
    assert _of("__main__").module == "my-thumbnails"
    script.__spec__ = ModuleSpec("pipeline.__main__", None)  # python -m pipeline
    assert _of("__main__").module == "pipeline"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Not A Word"},
        {"concurrency": 0},
        {"concurrency": 5000},
        {"timeout": 0},
        {"retries": 3},
    ],
    ids=str,
)
def test_a_wrong_service_is_refused(wrong: Any) -> None:
    with pytest.raises(BadRequest):
        Service(**wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"attempts": 0}, "retries.attempts: 0: Expected `int` >= 1"),
        ({"attempts": "3"}, "retries.attempts: '3': Expected `int`, got `str`"),
        ({"first_s": -1}, "retries.first_s: -1: Expected `float` >= 0"),
        ({"most_s": 3600}, "retries.most_s: 3600: Expected `float` <= 60"),
    ],
)
def test_wrong_retries_are_refused_where_they_are_written(wrong: Any, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Retries(**wrong)
    assert caught.value.message.startswith(says)


@pytest.mark.parametrize("on", [kaasq.on, Service("s").on])
def test_the_decorator_without_its_parentheses_is_refused(on: Any) -> None:
    with pytest.raises(BadRequest, match=r"say which events the function is for: @kaasq\.on\("):
        on(handle)


def test_what_can_be_served() -> None:
    made = kaasq.on("a.completed")(handle)
    assert list(service_of(made)) == [made]
    assert list(service_of([made])) == [made]
    service = Service("s", [made])
    assert service_of(service) is service
    with pytest.raises(BadRequest, match="no handlers"):
        service_of([])
    with pytest.raises(BadRequest, match="given a function"):
        service_of([handle])  # type: ignore[list-item]


def test_a_subscriber_unbinds_what_earlier_ones_bound_and_it_does_not_want() -> None:
    mine = Note(name="billing", keys=("ann.a.*", "ann.b.*"), since_ms=10 * YOUNG_MS)
    notes = [
        Note(name="billing", keys=("ann.a.*", "ann.old.*"), since_ms=1),
        Note(name="audit", keys=("ann.old.*",), since_ms=1),
        Note(name="billing", keys=("ann.young.*",), since_ms=mine.since_ms - 5),
    ]
    plan = subscribing(mine, "ann", notes)
    assert plan.drop == {0}  # the young one's visitor may still be waiting to see it
    assert plan.remove.bindings == (
        Binding("kaasq.events", "kaasq.events.ann.billing", "ann.old.*"),
        Binding("kaasq.events", "kaasq.events.ann.billing", "ann.young.*"),
    )
    assert plan.remove.queues == ()


def test_who_subscribes_to_something_else_learns_what_was_replaced() -> None:
    mine = Note(name="billing", keys=("ann.a.*", "ann.b.*"), since_ms=9)
    older, other = Note(name="billing", keys=("ann.#",), since_ms=1), Note(name="audit", keys=("ann.c.*",), since_ms=2)
    same = Note(name="billing", keys=("ann.b.*", "ann.a.*"), since_ms=3)
    assert replaced(mine, [older, other]) == older
    assert replaced(mine, [older, other, same]) is None  # that one has said so
    assert replaced(mine, [other]) is None


def test_who_removes_a_subscription_takes_all_of_its_notes() -> None:
    notes = [Note(name="a", since_ms=1), Note(name="b", since_ms=2), Note(name="a", keys=("ann.#",), since_ms=3)]
    plan = removing("a", "ann", notes)
    assert plan.drop == {0, 2}
    assert plan.remove.queues == (Queue(name="kaasq.events.ann.a"),)
    assert [(each.name, each.keys) for each in latest(notes)] == [("a", ("ann.#",)), ("b", ())]


@pytest.fixture
def steps(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_steps.py").write_text(
        "import kaasq\n"
        "@kaasq.on('a.completed')\n"
        "def one(event, step): pass\n"
        "@kaasq.on('b.completed')\n"
        "async def two(event, step): pass\n"
        "service = kaasq.Service('mine', [one], concurrency=3)\n"
        "number = 5\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_steps"


def test_a_module_s_one_service_or_all_of_its_steps_are_found(steps: str, tmp_path: Path) -> None:
    (tmp_path / "no_service.py").write_text(f"from {steps} import one, two\nagain = one\n")
    found = find_service("no_service")
    assert isinstance(found, list)
    assert [each.name for each in found] == ["one", "two"]
    (tmp_path / "one_service.py").write_text(f"from {steps} import one, service\nalias = service\n")
    service = find_service("one_service")
    assert isinstance(service, Service)
    assert (service.name, service.concurrency) == ("mine", 3)
    service = find_service(f"{steps}:service")
    assert isinstance(service, Service)
    one = find_service(f"{steps}:one")
    assert isinstance(one, list)
    assert all(isinstance(each, Handler) for each in one)


def test_where_it_is_not_clear_what_to_serve_the_names_are_told(steps: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"not in it \(two\): add them .*, or serve it without them, my_steps:service"):
        find_service(steps)
    (tmp_path / "two_services.py").write_text("import kaasq\na, b = kaasq.Service('a'), kaasq.Service('b')\n")
    with pytest.raises(BadRequest, match="serve one of two_services:a, two_services:b"):
        find_service("two_services")


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("my_steps:number", "found a int"),
        ("my_steps:missing", "found nothing"),
        ("no_such_module_here", "no module 'no_such_module_here'"),
        ("my_steps.py", "did you mean 'my_steps'?"),
        ("pipeline/steps.py", "did you mean 'pipeline.steps'?"),
        ("./pipeline/steps:service", "did you mean 'pipeline.steps'?"),
        ("", "no module's name"),
        ("./my_steps", "no module's name"),
    ],
)
def test_what_is_no_service_is_refused(steps: str, where: str, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        find_service(where)
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("code", "first", "told"),
    [
        ("x = int('abc')", "ValueError", "x = int('abc')"),
        ("def f():\n    raise TypeError('mine')\nf()", "TypeError", "in f\n    raise TypeError('mine')"),
        ("def f(:\n    pass", "SyntaxError", "def f(:"),
        ("import nothing_of_the_kind", "ModuleNotFoundError", "import nothing_of_the_kind"),
        ("import kaasq\nkaasq.on('a.b')(print)", "BadRequest", "kaasq.on('a.b')(print)"),
        ("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e", "KeyError", "    1 / 0"),
    ],
)
def test_what_a_module_raises_is_told_with_its_own_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, first: str, told: str
) -> None:
    name = f"broken_{zlib.crc32(code.encode())}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(BadRequest) as caught:
        find_service(name)
    line, _, rest = caught.value.message.partition("\n")
    assert line == f"serve: module '{name}' cannot be imported, it raises {first}:"
    assert f'{name}.py", line ' in rest
    assert told in rest
    assert "importlib" not in rest
    assert "kaasq_producers" not in rest.replace("kaasq_producers.errors", "")

"""How a user says what follows a request: graphs to run on its outputs. Data; ``prepare`` checks it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kaasq.errors import BadRequest
from kaasq.messages import Condition, Continuation, Element, Operator, Repeat, Source, Stored
from kaasq.model import Number
from kaasq_producers.inputs import given_groups
from kaasq_producers.later import Later, whole

if TYPE_CHECKING:
    from kaasq_producers.prepare import AnyGraph


class Output(Later[Condition]):
    """An output (or inout) of the request before, for a ``Then`` to bind to an input or a scalar, or to compare.

    An input takes the whole of it or, with ``offset`` (bytes), the part that starts there. A scalar and a comparison
    (``Output("residual") > 1e-6``) take its only element, or the one at ``index``, counted through all axes.
    """

    __slots__ = ("index", "name", "offset")

    misplaced = "only what follows a request, a kaasq.Then, takes its outputs"

    def __init__(self, name: str, *, offset: int | None = None, index: int | None = None) -> None:
        self.name = name
        self.offset = offset
        self.index = index

    def __repr__(self) -> str:
        more = [f", {name}={value}" for name in ("offset", "index") if (value := getattr(self, name)) is not None]
        return f"Output({self.name!r}{''.join(more)})"

    def source(self, at: str) -> Source:
        """It as what an input takes. Raises BadRequest."""
        if self.index is not None:
            raise BadRequest("an input takes an output from an offset in bytes on; index is for scalars", at=at)
        return Source(output=self._name(at), offset=whole(self.offset, f"{at}.offset"))

    def element(self, at: str) -> Element:
        """It as what a scalar takes. Raises BadRequest."""
        if self.offset is not None:
            raise BadRequest("a scalar takes the element at an index; offset is for inputs", at=at)
        return Element(output=self._name(at), index=whole(self.index, f"{at}.index"))

    def compared(self, op: Operator, value: Number) -> Condition:
        """The condition on its number. Raises BadRequest."""
        element = self.element("when")
        return Condition(output=element.output, index=element.index, op=op, value=value)

    def _name(self, at: str) -> str:
        if not isinstance(self.name, str):
            raise BadRequest(f"an output's name is a str, given a {type(self.name).__name__}", at=at)
        return self.name


class Then:
    """A graph to run once the request before it has completed: published by the worker that ran that one.

    ``bindings`` are what ``run`` takes, and ``Output``s of the request before. ``when`` is a condition on one of its
    numbers: ``Output("residual") > 1e-6``; if it does not hold, neither this nor what follows it runs. ``name`` is how
    its result is found; ``pool`` another pool to run it in; ``timeout`` seconds of its own, within those of ``run``.
    ``repeat`` makes a loop of it; ``then``: what follows it in turn.
    """

    def __init__(
        self,
        graph: AnyGraph,
        /,
        *,
        name: str | None = None,
        when: Condition | None = None,
        then: Then | Iterable[Then] = (),
        repeat: Repeat | None = None,
        pool: str | None = None,
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        **bindings: Any,
    ) -> None:
        self.graph = graph
        self.name = name
        self.when = when
        self.then = as_list(then)
        self.repeat = repeat
        self.pool = pool
        self.timeout = timeout
        self.groups = given_groups(bindings, bind, scalars)
        self.keep = keep or {}

    def __repr__(self) -> str:
        return f"<Then {self.name or self.graph!r}>"


def repeat(bind: Mapping[str, Output | str], *, until: Condition, most: int) -> Repeat:
    """A loop: run the graph again, with outputs bound to inputs as ``bind`` says, ``until`` the condition holds.

    ``most``: how often in all, at most. ``repeat({"x": "next"}, until=Output("residual") < 1e-6, most=1000)``. Raises
    BadRequest.
    """
    given: dict[str, Any] = {"bind": bind, "until": until, "most": most}
    if not isinstance(given["bind"], Mapping) or not bind:
        raise BadRequest("expected a mapping from inputs to outputs, {'x': 'next'}", at="repeat.bind")
    if not isinstance(given["until"], Condition):
        raise BadRequest(f"expected a comparison of an Output, given {until!r:.60}", at="repeat.until")
    if type(given["most"]) is not int or most < 1:
        raise BadRequest(f"expected how often at most, a whole number from 1 on, given {most!r:.60}", at="repeat.most")
    outputs = {name: each if isinstance(each, Output) else Output(each) for name, each in bind.items()}
    sources = {name: each.source(f"repeat.bind.{name}") for name, each in outputs.items()}
    return Repeat(bind=sources, until=until, most=most)


def then_of(continuations: Sequence[Continuation]) -> list[Then]:
    """What a request in a file says is to follow, for a client to send."""
    made: list[Then] = []
    for each in continuations:
        bind: dict[str, Any] = {}
        for name, bound in each.bind.items():
            if isinstance(bound, Source):
                stored = Stored(ref=bound.ref, name=bound.name, offset=bound.offset)
                bind[name] = stored if bound.output is None else Output(bound.output, offset=bound.offset)
            else:
                bind[name] = bound
        scalars = {
            name: Output(given.output, index=given.index) if isinstance(given, Element) else given
            for name, given in each.scalars.items()
        }
        graph: Any = each.graph  # a hash is refused when it is prepared
        made.append(
            Then(
                graph,
                name=each.name,
                when=each.condition,
                then=then_of(each.then),
                repeat=each.repeat,
                pool=each.pool,
                timeout=None if each.timeout_ms is None else each.timeout_ms / 1000,
                bind=bind,
                scalars=scalars,
                keep=each.keep,
            )
        )
    return made


def as_list(then: Then | Iterable[Then] | None, at: str = "then") -> Sequence[Then]:
    """One or several. Raises BadRequest for anything else."""
    wrong: object = then
    if then is None:
        return ()
    if isinstance(then, Then):
        return (then,)
    if not isinstance(then, (str, bytes, Mapping)) and hasattr(then, "__iter__"):
        listed: list[Any] = list(then)
        strangers = [each for each in listed if not isinstance(each, Then)]
        if not strangers:
            return tuple(listed)
        wrong = strangers[0]
    raise BadRequest(f"expected kaasq.Then, or several of them, given a {type(wrong).__name__}", at=at)


def named(then: Sequence[Then]) -> list[str | None]:
    """The names of all of them, nested ones right after what they follow, None where one has none."""
    return [name for each in then for name in (each.name, *named(each.then))]

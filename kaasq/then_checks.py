"""Checks a request's continuations against the outputs that they take, before anything runs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from kaasq.bindings import check_bindings, check_cast, check_dtype, taken_size
from kaasq.checks import GraphLimits, check_graph
from kaasq.continuations import count, every
from kaasq.dtypes import SCALAR_DTYPES, itemsize
from kaasq.errors import BadRequest, BufferMissing, BufferSize, KaasqError, UnknownGraph
from kaasq.ids import following_id
from kaasq.messages import Continuation, Element, Repeat, Source
from kaasq.model import Buffer, GraphSpec, Number
from kaasq.names import REQUEST_ID_BYTES, check_printable, check_word


def check_form(then: tuple[Continuation, ...], limits: GraphLimits) -> None:
    """What can be said without the graphs: their number, depth and names. Raises BadRequest."""
    if _depth(then, limits.continuations_deep) > limits.continuations_deep:
        raise BadRequest(f"continuations are nested deeper than {limits.continuations_deep}", at="then")
    given = count(then)
    if given > limits.continuations:
        raise BadRequest(f"{given} continuations; the limit is {limits.continuations}", at="then")
    names: dict[str, str] = {}
    for _, at, each in every(then):
        if each.name is not None:
            check_printable(each.name, f"{at}.name")
            if each.name in names:
                raise BadRequest(f"{each.name!r} is the name of {names[each.name]} already", at=f"{at}.name")
            names[each.name] = at
        if each.repeat is not None:
            check_runs(each.repeat, limits, f"{at}.repeat")
        if each.pool is not None:
            with within(at):
                check_word(each.pool, "pool")


def check_runs(repeat: Repeat, limits: GraphLimits, at: str = "repeat") -> None:
    """Whether a loop has a bound within the limits. Raises BadRequest."""
    if not 1 <= repeat.most <= limits.repeats:
        raise BadRequest(f"must be from 1 to {limits.repeats}, is {repeat.most}", at=f"{at}.most")


def _depth(then: tuple[Continuation, ...], most: int) -> int:
    """How deeply they are nested, as far as ``most`` and one more."""
    depth, level = 0, then
    while level and depth <= most:
        depth += 1
        level = tuple(inner for each in level for inner in each.then)
    return depth


def with_graphs(
    then: tuple[Continuation, ...], find: Callable[[str], GraphSpec | None], limits: GraphLimits, at: str = "then"
) -> tuple[Continuation, ...]:
    """The same with graphs in place of hashes and keys, as far as ``find`` has them. Raises BadRequest."""
    done: list[Continuation] = []
    for index, each in enumerate(then):
        place = f"{at}[{index}]"
        if isinstance(each.graph, str):
            graph = find(each.graph) or each.graph
        else:
            graph = check_at(each.graph, limits, f"{place}.graph")
        inner = with_graphs(each.then, find, limits, f"{place}.then")
        done.append(msgspec.structs.replace(each, graph=graph, then=inner))
    return tuple(done)


def check_at(graph: GraphSpec, limits: GraphLimits, at: str) -> GraphSpec:
    """``check_graph`` for a graph that stands elsewhere in a request than its own. Raises BadRequest."""
    try:
        return check_graph(graph, limits)
    except BadRequest as error:
        inside = str(error.detail.get("at", "graph"))
        text = error.message.removeprefix(f"{inside}: ")
        raise BadRequest(text, at=at + inside.removeprefix("graph")) from None


def check_ids(request_id: str, then: tuple[Continuation, ...]) -> None:
    """Whether the ids made from the request's are ids. Raises BadRequest."""
    longest = len(following_id(request_id, count(then)).encode(errors="surrogatepass"))
    if longest > REQUEST_ID_BYTES:
        raise BadRequest(
            f"the ids of its continuations, made from it, have up to {longest} bytes; an id may have "
            f"{REQUEST_ID_BYTES}",
            at="message_id",
        )


def check_then(graph: GraphSpec, then: tuple[Continuation, ...], at: str = "then") -> None:
    """Whether everything that the continuations take is there, and fits: all edges, of nested ones too.

    Raises BadRequest, BufferMissing, BufferSize, each naming the place (``then[0].bind.x``), and UnknownGraph.
    """
    for index, each in enumerate(then):
        place = f"{at}[{index}]"
        if not isinstance(each.graph, GraphSpec):
            raise UnknownGraph(
                f"{place}.graph: this worker does not know graph {each.graph[:64]!r}: send it whole",
                graph=each.graph,
                at=f"{place}.graph",
            )
        _check_one(graph, each.graph, each, place)
        check_then(each.graph, each.then, f"{place}.then")


def check_repeat(graph: GraphSpec, repeat: Repeat, at: str = "repeat") -> None:
    """Whether what goes round in a loop fits. Raises BadRequest, BufferSize, each naming the place."""
    for name, source in repeat.bind.items():
        place = f"{at}.bind.{name}"
        buffer = graph.buffer(name)
        if buffer is None or not buffer.given:
            raise BadRequest(f"graph {graph.name!r} has no input {name!r}", at=place)
        if source.output is None:
            raise BadRequest("a loop binds outputs of its own graph", at=place)
        size = _size(graph, graph, name, source, place)
        if size != buffer.nbytes:
            raise BufferSize(
                f"{place}: buffer {name!r} is declared with {buffer.nbytes} bytes, but output {source.output!r} has "
                f"{size}",
                buffer=name,
                expected=buffer.nbytes,
                given=size,
                at=place,
            )
    check_element(graph, repeat.until, f"{at}.until")


def _check_one(before: GraphSpec, graph: GraphSpec, then: Continuation, at: str) -> None:
    sizes = {
        name: len(bound) if isinstance(bound, bytes) else _size(before, graph, name, bound, f"{at}.bind.{name}")
        for name, bound in then.bind.items()
    }
    declared = {each.name: each.dtype for each in graph.scalars}
    numbers: dict[str, Number] = {}
    for name, given in then.scalars.items():
        if isinstance(given, Element):
            dtype = check_element(before, given, f"{at}.scalars.{name}")
            if name in declared:
                check_cast(dtype, declared[name], f"output {given.output!r}", f"{at}.scalars.{name}")
            numbers[name] = 0
        else:
            numbers[name] = given
    with within(at):
        check_bindings(graph, sizes, numbers, then.keep)
    if then.condition is not None:
        with called_when():
            check_element(before, then.condition, f"{at}.if")
    if then.repeat is not None:
        check_repeat(graph, then.repeat, f"{at}.repeat")


def _size(before: GraphSpec, graph: GraphSpec, name: str, source: Source, at: str) -> int | None:
    """How many bytes are bound; None where only the store knows."""
    if sum(each is not None for each in (source.ref, source.name, source.output)) != 1:
        raise BadRequest("needs one of output, ref and name", at=at)
    if source.output is None:
        return None
    output = output_of(before, source.output, at)
    buffer = graph.buffer(name)
    if buffer is None or not buffer.given:
        return output.nbytes  # refused by check_bindings, which says what there is
    what = f"output {output.name!r} of graph {before.name!r}"
    check_dtype(buffer, output.dtype, what, at)
    return taken_size(buffer, source.offset, output.nbytes, what, at)


def check_element(before: GraphSpec, element: Element, at: str) -> str:
    """The dtype of the number. Raises BadRequest if there is none."""
    output = output_of(before, element.output, at)
    if output.dtype not in SCALAR_DTYPES:
        raise BadRequest(f"output {output.name!r} has no numbers to take: its dtype is {output.dtype}", at=at)
    elements = output.nbytes // itemsize(output.dtype)
    if element.index is None and elements != 1:
        raise BadRequest(f"output {output.name!r} has {elements} elements: which is meant, `index` says", at=at)
    if element.index is not None and element.index >= elements:
        raise BadRequest(f"index is {element.index}, but output {output.name!r} has {elements} elements", at=at)
    return output.dtype


def output_of(before: GraphSpec, name: str, at: str) -> Buffer:
    """That output or inout of the graph. Raises BadRequest with those that there are."""
    output = before.buffer(name)
    if output is None or not output.returned:
        there = ", ".join(repr(each.name) for each in before.buffers if each.returned) or "none"
        raise BadRequest(f"graph {before.name!r} has no output {name!r}; it has {there}", at=at)
    return output


@contextmanager
def called_when() -> Iterator[None]:
    """What is raised inside is about a condition: ``if`` in a message, ``when`` in Python, where ``if`` is taken."""
    try:
        yield
    except BadRequest as error:
        at = str(error.detail["at"])
        rest = {key: value for key, value in error.detail.items() if key != "at"}
        raise BadRequest(f"{error.message.removeprefix(f'{at}: ')} (`when` in Python)", at=at, **rest) from None


@contextmanager
def within(place: str) -> Iterator[None]:
    """What is raised inside names the place with this one before it."""
    try:
        yield
    except KaasqError as error:
        raise moved(error, place) from None


def moved(error: KaasqError, place: str) -> KaasqError:
    """The same error, at a place inside this one."""
    inner: Mapping[str, object] = error.detail
    at = inner.get("at") or (f"bind.{inner['buffer']}" if "buffer" in inner else "")
    whole = f"{place}.{at}" if at else place
    text = error.message.removeprefix(f"{at}: ")
    detail = {key: value for key, value in error.detail.items() if key != "at"}
    if isinstance(error, BadRequest):
        return BadRequest(text, at=whole, **detail)
    if isinstance(error, (BufferMissing, BufferSize)):
        return type(error)(f"{whole}: {text}", at=whole, **detail)
    return error

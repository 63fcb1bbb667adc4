"""The KaaS format: what requests in it become, and where it is said what is wrong with them."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaasq import kaas
from kaasq.checks import GraphLimits
from kaasq.codec import JSON, MSGPACK, RequestDecoder
from kaasq.errors import BadRequest
from kaasq.messages import Condition, Continuation, Repeat, Request, RequestOf, Stored
from kaasq.model import Constant, GraphSpec
from tests.support.kaas import CASES, FOLDER, SPELLINGS, Case

DOT: dict[str, Any] = next(case for case in CASES if case.name == "dot").body()
CODE: dict[str, Any] = next(case for case in CASES if case.name == "dot").body("code")
BODIES = {"readme": DOT, "code": CODE}
GONE = object()


def changed(body: dict[str, Any], *path: str | int, to: Any = GONE) -> dict[str, Any]:
    """The body with one place changed, or taken away."""
    body = copy.deepcopy(body)
    place: Any = body
    for step in path[:-1]:
        place = place[step]
    if to is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return body


def uses(*kernels: list[tuple[dict[str, Any], str]]) -> dict[str, Any]:
    """A request whose kernels take those buffers."""
    launch = {"library": "k.cu", "kernel": "k", "nGrid": 1, "nBlock": 1}
    return {"kernels": [{**launch, "arguments": [[spec, letters] for spec, letters in each]} for each in kernels]}


def buffer(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "size": 8, **fields}


def roles(request: kaas.KaasRequest) -> dict[str, str]:
    return {each.name: each.role for each in request.graph.buffers}


# -------------------------------------------------------------------------------- what it becomes


def test_request_becomes_a_graph_with_bindings_and_names_to_keep() -> None:
    request = kaas.load(DOT)
    assert request.graph.name == "kaas.dot"
    assert roles(request) == {"a": "input", "b": "input", "products": "temp", "dot": "output"}
    assert request.bind == {"a": Stored(name="vectors/a", offset=0), "b": Stored(name="vectors/b", offset=0)}
    assert request.keep == {"dot": "vectors/dot"}
    (module,) = request.graph.modules.values()
    assert (module.kind, module.path) == ("library", "kernels.cu")
    prod, total = request.graph.launches
    assert (prod.grid, prod.block) == ((4, 1, 1), (256, 1, 1))
    assert prod.args == (Constant(dtype="uint64", value=1024), "a", "b", "products")
    assert (total.grid, total.block, total.args) == ((1, 1, 1), (512, 1, 1), ("products", "dot"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_spellings_are_one_graph(case: Case) -> None:
    one, other = (kaas.load(case.body(spelling)) for spelling in SPELLINGS)
    assert one == other
    assert one.graph.hash == other.graph.hash


def test_keys_are_no_part_of_the_graph() -> None:
    moved = changed(DOT, "kernels", 0, "arguments", 0, 0, "key", to="elsewhere")
    assert kaas.load(moved).graph.hash == kaas.load(DOT).graph.hash


def test_literals_are_numbers_of_their_types_before_the_buffers() -> None:
    body = changed(DOT, "kernels", 0, "literals", to=[{"type": t, "val": 2} for t in "ifdQ"])
    assert [arg.dtype for arg in kaas.load(body).graph.launches[0].args[:4]] == [
        "int32",
        "float32",
        "float64",
        "uint64",
    ]


def test_kernel_may_have_a_name_as_long_as_compilers_make_them() -> None:
    mangled = "_ZN7cutlass6KernelI" + "x" * 3000
    assert kaas.load(changed(DOT, "kernels", 0, "kernel", to=mangled)).graph.launches[0].kernel == mangled


def test_key_is_the_name_where_it_is_left_out_or_null() -> None:
    for field in ({}, {"key": None}):
        request = kaas.load(uses([(buffer("x", **field), "i"), (buffer("y", **field), "o")]))
        assert (request.bind, request.keep) == ({"x": Stored(name="x", offset=0)}, {"y": "y"})


def test_offset_is_where_the_input_starts_in_its_object() -> None:
    assert kaas.load(uses([(buffer("x", offset=24), "i")])).bind == {"x": Stored(name="x", offset=24)}


def test_name_iterations_and_fields_of_others() -> None:
    request = kaas.load({**uses([(buffer("x", newer=1), "io")]), "nIter": 7, "name": "a.b", "newer": {"deep": []}})
    assert (request.graph.name, request.graph.iterations) == ("a.b", 7)
    assert (kaas.load(DOT).graph.iterations, kaas.load(uses([(buffer("x"), "o")])).graph.name) == (1, "kaas")


@pytest.mark.parametrize(
    ("types", "ephemeral", "role"),
    [
        (["i"], False, "input"),
        (["i", "i"], False, "input"),
        (["o"], False, "output"),
        (["o", "i"], False, "output"),
        (["o", "o"], False, "output"),
        (["t", "i", "o"], False, "output"),
        (["io"], False, "inout"),
        (["oi"], False, "inout"),
        (["i", "o"], False, "inout"),
        (["i", "t", "o"], False, "inout"),
        (["t"], False, "temp"),
        (["t", "i"], False, "temp"),
        (["o"], True, "temp"),
        (["o", "i", "io"], True, "temp"),
        (["t", "i"], True, "temp"),
    ],
)
def test_role_follows_from_all_uses(types: list[str], ephemeral: bool, role: str) -> None:
    request = kaas.load(uses(*([(buffer("x", ephemeral=ephemeral), each)] for each in types)))
    assert roles(request) == {"x": role}
    assert set(request.bind) == ({"x"} if role in {"input", "inout"} else set())
    assert set(request.keep) == ({"x"} if role in {"output", "inout"} else set())


@pytest.mark.parametrize("types", [("i", "o"), ("o", "i")])
def test_kernel_that_takes_a_buffer_twice_reads_it_first(types: tuple[str, str]) -> None:
    assert roles(kaas.load(uses([(buffer("x"), each) for each in types]))) == {"x": "inout"}


@pytest.mark.parametrize(
    ("consts", "types", "const"),
    [
        ((True,), ("i",), True),
        ((False,), ("i",), False),
        ((True, True), ("i", "i"), True),
        ((True, False), ("i", "i"), False),
        ((True, True), ("i", "o"), False),
        ((True,), ("o",), False),
    ],
)
def test_const_counts_where_every_spec_says_so_and_nothing_writes(
    consts: tuple[bool, ...], types: tuple[str, ...], const: bool
) -> None:
    request = kaas.load(uses(*([(buffer("x", const=c), t)] for c, t in zip(consts, types))))
    assert [each.const for each in request.graph.buffers] == [const]


# -------------------------------------------------------------------------------- other keys


def test_other_keys_for_inputs_outputs_and_both() -> None:
    request = kaas.load(uses([(buffer("x", offset=8), "i"), (buffer("y"), "o"), (buffer("z"), "io")]))
    moved = request.with_keys({"x": "x2", "y": "y2", "z": "z2"})
    assert moved.bind == {"x": Stored(name="x2", offset=8), "z": Stored(name="z2", offset=0)}
    assert moved.keep == {"y": "y2", "z": "z2"}
    assert moved.graph is request.graph
    assert request.bind["x"] == Stored(name="x", offset=8)


@pytest.mark.parametrize(
    ("keys", "at"),
    [
        ({"nobody": "k"}, "keys.nobody"),
        ({"products": "k"}, "keys.products"),
        ({"a": ""}, "keys.a"),
        ({"a": "x" * 401}, "keys.a"),
    ],
)
def test_wrong_keys_are_told(keys: dict[str, str], at: str) -> None:
    with pytest.raises(BadRequest) as caught:
        kaas.load(DOT).with_keys(keys)
    assert caught.value.at == at
    with pytest.raises(BadRequest) as caught:
        RequestDecoder(GraphLimits()).decode(json.dumps({**DOT, "keys": keys}).encode(), JSON)
    assert caught.value.at == at


def test_two_outputs_cannot_get_one_key() -> None:
    request = kaas.load(uses([(buffer("x"), "o"), (buffer("y"), "o")]))
    with pytest.raises(BadRequest, match="keys: two outputs"):
        request.with_keys({"x": "k", "y": "k"})


# -------------------------------------------------------------------------------- what is wrong

LONG = "x" * 500
FIRST = ("kernels", 0)
SPEC = {"readme": (*FIRST, "arguments", 0, 0), "code": (*FIRST, "arguments", 0)}
SPEC_AT = {"readme": "kernels[0].arguments[0][0]", "code": "kernels[0].arguments[0]"}
GRID = {"readme": "nGrid", "code": "gridDim"}
BLOCK = {"readme": "nBlock", "code": "blockDim"}


def anywhere() -> list[tuple[str, tuple[str | int, ...], Any, str]]:
    """(spelling, path, value, place named) for each way to get each field wrong."""
    table: list[tuple[str, tuple[str | int, ...], Any, str]] = []
    for spelling in SPELLINGS:

        def add(place: str, *path: str | int, values: tuple[Any, ...], spelling: str = spelling) -> None:
            table.extend((spelling, path, value, place) for value in values)

        add("body", "kernels", values=(GONE,))
        add("kernels", "kernels", values=(3, "x", None, {}, []))
        add("kernels[0]", *FIRST, values=(None, 3, "x", []))
        add("nIter", "nIter", values=(0, -1, "2", 1.5, True, None, [], 10**9, 2**70))
        add("name", "name", values=(5, "", "a b", LONG, None))
        add("keys", "keys", values=(5, [], "x", None))
        add("keys.a", "keys", values=({"a": 5}, {"a": None}))
        for field in ("library", "kernel"):
            add("kernels[0]", *FIRST, field, values=(GONE,))
            add(f"kernels[0].{field}", *FIRST, field, values=(5, None, "", []))
        add("kernels[0].library", *FIRST, "library", values=("a\nb", LONG))
        add("kernels[0].kernel", *FIRST, "kernel", values=(" ",))
        for field in (GRID[spelling], BLOCK[spelling]):
            place = f"kernels[0].{field}"
            add("kernels[0]", *FIRST, field, values=(GONE, None))
            add(place, *FIRST, field, values=("4", 0, -1, 2**31, [], [1, 1, 1, 1], 1.5, True, {}))
            add(f"{place}[1]", *FIRST, field, values=([1, 0], [1, -1, 1], [1, 2**40], [1, "x"], [1, None]))
        add(f"kernels[0].{BLOCK[spelling]}", *FIRST, BLOCK[spelling], values=([1024, 2], [32, 32, 2]))
        add(f"kernels[0].{BLOCK[spelling]}[2]", *FIRST, BLOCK[spelling], values=([1, 1, 65],))
        add("kernels[0].sharedSize", *FIRST, "sharedSize", values=(-1, "0", 2**60, 0.5, None, []))
        add("kernels[0].literals", *FIRST, "literals", values=(5, "x", None, {}))
        add("kernels[0].literals[0]", *FIRST, "literals", values=([5], ["i"], [[]], [{"val": 1}], [{"type": "i"}]))
        add("kernels[0].literals[0].type", *FIRST, "literals", 0, "type", values=(5, None, "x", "", "I", LONG))
        add("kernels[0].literals[0].val", *FIRST, "literals", 0, "val", values=("1", None, [], -1, 2**64, 1.5, 1e300))
        add("kernels[0].arguments", *FIRST, "arguments", values=(5, "x", None, {}))
        add("kernels[0].arguments[0]", *FIRST, "arguments", 0, values=(5, None, "a"))
        at = SPEC_AT[spelling]
        for field in ("name", "size"):
            add(at, *SPEC[spelling], field, values=(GONE,))
        add(f"{at}.name", *SPEC[spelling], "name", values=(5, None, "", "a\tb", LONG))
        add(f"{at}.size", *SPEC[spelling], "size", values=(0, -1, "8", 1.5, None, 2**45, 2**60, [], True))
        add(f"{at}.offset", *SPEC[spelling], "offset", values=(-1, "8", 1.5, None, 2**60, []))
        add(f"{at}.key", *SPEC[spelling], "key", values=(5, "", "a\0b", LONG, []))
        add(f"{at}.ephemeral", *SPEC[spelling], "ephemeral", values=("yes", 1, None))
        add(f"{at}.const", *SPEC[spelling], "const", values=("yes", 1, None))
        add(at, *SPEC[spelling], "ephemeral", values=(True,))  # read before anything writes it
        said = "kernels[0].arguments[0][1]" if spelling == "readme" else "kernels[0].type_list[0]"
        letter = (*FIRST, "arguments", 0, 1) if spelling == "readme" else (*FIRST, "type_list", 0)
        add(said, *letter, values=("", "x", "I", "ii", "to", "iot", 5, None, LONG))
    spec, other = {"name": "a", "size": 8}, (*FIRST, "arguments", 0)
    table += [("readme", other, [spec, *rest], "kernels[0].arguments[0]") for rest in ([], ["i", "i"])]
    table += [("readme", other, spec, "kernels[0].arguments[0]")]  # alone, and without a type_list
    table += [("readme", (*FIRST, "type_list"), types, "kernels[0].type_list") for types in (["i"], [], ["i"] * 4)]
    table += [("readme", (*FIRST, "type_list"), ["i", "o", "o"], "kernels[0].type_list[1]")]
    table += [
        ("readme", (*FIRST, "gridDim"), 5, "kernels[0].nGrid"),
        ("code", (*FIRST, "nBlock"), 5, "kernels[0].nBlock"),
    ]
    table += [("code", (*FIRST, "type_list"), value, "kernels[0].type_list") for value in (["i"], ["i"] * 4, 5, "iio")]
    table += [("code", (*FIRST, "type_list"), GONE, "kernels[0].arguments[0]")]
    return table


@pytest.mark.parametrize(("spelling", "path", "value", "place"), anywhere())
def test_every_wrong_field_is_a_bad_request_naming_the_place(
    spelling: str, path: tuple[str | int, ...], value: Any, place: str
) -> None:
    body = changed(BODIES[spelling], *path, to=value)
    encoded = json.dumps(body).encode()
    for attempt in (
        lambda: kaas.load(body),
        lambda: kaas.load(encoded),
        lambda: RequestDecoder(GraphLimits()).decode(encoded, JSON),
    ):
        with pytest.raises(BadRequest) as caught:
            attempt()
        assert caught.value.at.split(" ")[0] == place, caught.value.message
        assert caught.value.message.startswith(f"{caught.value.at}: ")
        assert len(caught.value.message) < 700


@pytest.mark.parametrize(
    ("field", "value", "other"),
    [
        ("size", 16, "8"),
        ("offset", 4, "0"),
        ("key", "k", "'x'"),
        ("ephemeral", True, "False"),
    ],
)
def test_specs_of_one_name_must_agree(field: str, value: Any, other: str) -> None:
    body = uses([(buffer("x"), "i"), (buffer("out"), "o")], [(buffer("x", **{field: value}), "i")])
    with pytest.raises(BadRequest) as caught:
        kaas.load(body)
    assert caught.value.at == f"kernels[1].arguments[0][0].{field}"
    assert f"kernels[0].arguments[0][0].{field} is {other}" in caught.value.message


def test_specs_that_mean_the_same_agree() -> None:
    kaas.load(uses([(buffer("x"), "i")], [(buffer("x", key="x", offset=0, ephemeral=False), "i")]))


@pytest.mark.parametrize("field", [{"ephemeral": True}, {}])
def test_temp_that_is_read_before_it_is_written_is_told_with_its_place(field: dict[str, Any]) -> None:
    late = "o" if field else "t"
    body = uses([(buffer("out"), "o")], [(buffer("x", **field), "i")], [(buffer("x", **field), late)])
    with pytest.raises(BadRequest, match="before any kernel has written it") as caught:
        kaas.load({**body, "nIter": 2})
    assert caught.value.at == "kernels[1].arguments[0][0]"


@pytest.mark.parametrize("types", ["o", "io"])
def test_output_has_no_offset(types: str) -> None:
    with pytest.raises(BadRequest, match="an object of its own") as caught:
        kaas.load(uses([(buffer("x", offset=8), types)]))
    assert caught.value.at == "kernels[0].arguments[0][0].offset"


def test_two_outputs_cannot_have_one_key() -> None:
    with pytest.raises(BadRequest, match="key of another output, too: 'x'") as caught:
        kaas.load(uses([(buffer("x", key="k"), "o"), (buffer("y", key="k"), "io")]))
    assert caught.value.at == "kernels[0].arguments[1][0].key"


@pytest.mark.parametrize(
    ("limits", "place"),
    [
        (GraphLimits(launches=1), "kernels"),
        (GraphLimits(buffers=1), "kernels"),
        (GraphLimits(buffer_bytes=100), "kernels[0].arguments[0][0].size"),
        (GraphLimits(name_length=3), "name"),
    ],
)
def test_limits_of_graphs_apply(limits: GraphLimits, place: str) -> None:
    with pytest.raises(BadRequest) as caught:
        kaas.load(DOT, limits=limits)
    assert caught.value.at.split(" ")[0] == place


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"null", b'{"kernels": [', b"\xff", b"[" * 100_000, b"{}"])
def test_bytes_that_are_no_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        kaas.load(body)


def test_dictionary_that_is_no_json() -> None:
    with pytest.raises(BadRequest, match="no JSON"):
        kaas.load({"kernels": [object()]})


def test_dictionary_may_hold_tuples_paths_and_numbers_of_numpy() -> None:
    body = changed(CODE, *FIRST, "library", to=Path("kernels.cu"))
    body = changed(body, *FIRST, "gridDim", to=(np.int64(4), 1, 1))
    body = changed(body, *FIRST, "literals", 0, "val", to=np.uint32(1024))
    assert kaas.load(body) == kaas.load(DOT)


def test_file_by_its_path() -> None:
    for path in (FOLDER / "dot.json", str(FOLDER / "dot.json")):
        assert kaas.load(path) == kaas.load(DOT)
    with pytest.raises(FileNotFoundError):
        kaas.load(FOLDER / "none.json")


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of everything in it."""
    found = [path] if path else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        found += places(inner, (*path, key))
    return found


@given(st.data())
def test_whatever_stands_anywhere_the_request_is_taken_or_its_place_is_named(data: st.DataObject) -> None:
    body = BODIES[data.draw(st.sampled_from(SPELLINGS))]
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(body) or [("name",)]))
        body = changed(body, *path, to=data.draw(junk if path not in places(body) else st.just(GONE) | junk))
    outcomes = []
    for attempt in (kaas.load, lambda encoded: RequestDecoder(GraphLimits()).decode(encoded, JSON)):
        try:
            made = attempt(json.dumps(body).encode())
            outcomes.append((made.graph, made.bind, made.keep))
        except BadRequest as error:
            outcomes.append(error.at)
    assert outcomes[0] == outcomes[1]
    if isinstance(outcomes[0], str):
        assert re.match(r"(body|name|nIter|kernels)\b", outcomes[0])


# -------------------------------------------------------------------------------- as a worker sees it


def decode(decoder: RequestDecoder, body: Any, content_type: str = JSON) -> Request:
    encoded = msgspec.msgpack.encode(body) if content_type == MSGPACK else json.dumps(body).encode()
    return decoder.decode(encoded, content_type)


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_decoder_takes_it_like_any_request(spelling: str, content_type: str) -> None:
    loaded = kaas.load(DOT)
    body = {**BODIES[spelling], "timeout_ms": 1000, "kaasq": 1}
    decoded = decode(RequestDecoder(GraphLimits()), body, content_type)
    assert decoded == Request(graph=loaded.graph, bind=loaded.bind, keep=loaded.keep, timeout_ms=1000)


def test_what_was_decoded_before_is_not_decoded_again() -> None:
    decoder = RequestDecoder(GraphLimits())
    first = decode(decoder, DOT)
    again = decode(decoder, {**DOT, "keys": {"a": "other"}})
    assert again.graph is first.graph
    assert again.bind["a"] == Stored(name="other", offset=0)
    assert first.bind["a"] == Stored(name="vectors/a", offset=0)
    assert decode(decoder, DOT).bind["a"] == Stored(name="vectors/a", offset=0)


def test_same_kernels_with_another_name_or_count_are_another_graph() -> None:
    decoder = RequestDecoder(GraphLimits())
    graphs = [decode(decoder, {**DOT, **more}).graph for more in ({}, {"nIter": 2}, {"name": "other"})]
    assert [each.iterations for each in graphs] == [1, 2, 1]
    assert [each.name for each in graphs] == ["kaas.dot", "kaas.dot", "other"]


def test_graph_is_known_by_its_hash_afterwards() -> None:
    decoder = RequestDecoder(GraphLimits())
    sent = decoder.read(json.dumps(DOT).encode(), JSON)
    assert sent.whole
    assert isinstance(sent.request.graph, GraphSpec)
    by_hash = {"graph": sent.request.graph.hash, "bind": {"a": {"name": "n"}}}
    known = decoder.read(json.dumps(by_hash).encode(), JSON)
    assert known == (Request(graph=sent.request.graph, bind={"a": Stored(name="n")}), False)


def test_graphs_of_both_kinds_share_the_decoders_room() -> None:
    decoder = RequestDecoder(GraphLimits(), graphs=2)
    names = [decode(decoder, {**DOT, "name": f"g{i}"}).graph for i in range(3)]
    assert [decode(decoder, {"graph": each.hash}).graph for each in names] == [names[0].hash, *names[1:]]


def test_bindings_and_names_beside_the_kernels_come_first() -> None:
    body = {**DOT, "bind": {"a": "AAAA", "b": {"ref": "0" * 64}}, "keep": {"dot": "elsewhere"}}
    decoded = decode(RequestDecoder(GraphLimits()), body)
    assert decoded.bind == {"a": b"\0\0\0", "b": Stored(ref="0" * 64)}
    assert decoded.keep == {"dot": "elsewhere"}
    assert kaas.load(body).bind == decoded.bind


def test_graph_and_kernels_at_once_are_refused() -> None:
    with pytest.raises(BadRequest, match="kernels: has both"):
        decode(RequestDecoder(GraphLimits()), {**DOT, "graph": "0" * 64})


def test_no_field_of_a_request_is_lost_by_decoding_it() -> None:
    given = {
        "kaasq": 1,
        "graph": "0" * 64,
        "bind": {"x": b"1"},
        "scalars": {"a": 1},
        "keep": {"y": "z"},
        "timeout_ms": 5,
        "repeat": Repeat(bind={}, until=Condition(output="o", op="<", value=1), most=3),
        "graphs": {},  # the decoder puts them where they belong
        "then": (Continuation(graph="1" * 64),),
    }
    assert set(given) == set(RequestOf.__struct_fields__), "the decoder copies fields one by one: add the new one"
    decoded = decode(RequestDecoder(GraphLimits()), given, MSGPACK)
    assert {name: getattr(decoded, name) for name in given} == given


@pytest.mark.parametrize("use", ["kaasq.kaas.load", "from kaasq import kaas; kaas.load"])
def test_import_of_kaasq_does_not_load_it_but_its_use_does(use: str) -> None:
    program = f"import sys, kaasq; assert 'kaasq.kaas' not in sys.modules; {use}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

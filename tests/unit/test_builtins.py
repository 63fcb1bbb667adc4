"""What makes a call of a built-in wrong, what the error says, and that nothing else can come of one."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaasq import Graph
from kaasq.builtins import builtin_names, resolve_call
from kaasq.builtins.catalogue import CATALOGUE
from kaasq.builtins.signature import ANY, FLOATS, INTEGERS, Builtin, reads, writes
from kaasq.checks import GraphLimits, check_graph
from kaasq.errors import BadArguments, BadRequest, ModuleRejected
from kaasq.model import Buffer, Constant, GraphSpec, Launch, Scalar

Shape = tuple[int, ...]
HUGE = 10**18


def resolve(name: str, *args: Any, **attrs: Any) -> Any:
    """Resolve a call with a buffer for each shape (float32) or (dtype, shape), and constants as they are."""
    declared: dict[str, Buffer | Scalar] = {}
    given: list[str | Constant] = []
    for index, arg in enumerate(args):
        if isinstance(arg, (Buffer, Scalar)):
            declared[arg.name] = arg
            given.append(arg.name)
        elif isinstance(arg, tuple):
            dtype, shape = arg if arg and isinstance(arg[0], str) else ("float32", arg)
            declared[f"b{index}"] = Buffer(name=f"b{index}", role="inout", nbytes=4, dtype=dtype, shape=shape)
            given.append(f"b{index}")
        else:
            given.append(arg)
    return resolve_call(Launch(module="kaasq", kernel=name, args=tuple(given), attrs=attrs), "at", declared)


ONE = Constant(dtype="float32", value=1.0)
I32, BOOL = "int32", "bool"

# What is called, and what the error says about which argument or attribute.
WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any], str, str]] = {
    "too few": (("add", (4,), (4,)), {}, "", r"add\(a, b, out\): takes 3 arguments, 2 were given"),
    "too many": (("relu", (4,), (4,), (4,)), {}, "", "takes 2 arguments, 3 were given"),
    "too few with optional ones": (("gemm", (4, 4)), {}, "", "takes 3 to 5 arguments, 1 were given"),
    "number for a buffer": (("relu", ONE, (4,)), {}, "x", r"at.args\[0\].*x is a buffer, not a number"),
    "buffer for a number": (("fill", (4,), (4,)), {}, "value", "value is a number: a constant or a scalar, not buffer"),
    "struct for a number": (("fill", (4,), Constant(dtype="bytes", data=b"1234")), {}, "value", "not raw bytes"),
    "no dtype": (("relu", Buffer(name="x", role="input", nbytes=4), (1,)), {}, "x", "'x' needs a dtype"),
    "part of an element": (
        ("relu", Buffer(name="x", role="input", nbytes=6, dtype="float32"), (1,)), {}, "x", "6 bytes, which",
    ),
    "dtype that it does not take": (("exp", (I32, (4,)), (4,)), {}, "x", "x may be float16, float32, float64"),
    "complex": (("add", ("complex64", (4,)), (4,), (4,)), {}, "a", "is complex64; a may be"),
    "two dtypes": (("add", (4,), ("float64", (4,)), (4,)), {}, "b", "a is float32, b is float64; they must"),
    "const, but written": (
        ("relu", (4,), Buffer(name="w", role="input", nbytes=16, dtype="float32", shape=(4,), const=True)), {}, "out",
        "'w' is const, and out is written",
    ),
    "const, but updated": (
        ("gemm", (1, 1), (1, 1), Buffer(name="w", role="input", nbytes=4, dtype="float32", shape=(1, 1), const=True)),
        {}, "c", "'w' is const, and c is written",
    ),
    "in place": (
        ("relu", *[Buffer(name="x", role="inout", nbytes=16, dtype="float32", shape=(4,))] * 2), {}, "out",
        "'x' is both x and out, one of which is written",
    ),
    "unknown attribute": (("relu", (4,), (4,)), {"slope": 1}, "slope", "no attribute 'slope'; there are shapes"),
    "missing attribute": (("reduce", (4,), ()), {}, "op", "attribute 'op' is missing"),
    "text for a list": (("transpose", (4, 4), (4, 4)), {"axes": "10"}, "axes", "to be a list, given '10'"),
    "text in a list": (("transpose", (4, 4), (4, 4)), {"axes": (1, "0")}, "axes", "a list of whole numbers"),
    "fraction in a list": (("transpose", (4, 4), (4, 4)), {"axes": (1, 0.0)}, "axes", "a list of whole numbers"),
    "null in a list": (("transpose", (4, 4), (4, 4)), {"axes": (1, None)}, "axes", "a list of whole numbers"),
    "truth for a number": (("softmax", (4,), (4,)), {"axis": True}, "axis", "a whole number of 64 bits, given True"),
    "number for truth": (("gelu", (4,), (4,)), {"tanh": 1}, "tanh", "true or false, given 1"),
    "fraction for a whole number": (("softmax", (4,), (4,)), {"axis": 0.5}, "axis", "a whole number of 64 bits"),
    "number beyond 64 bits": (("softmax", (4,), (4,)), {"axis": 2**63}, "axis", "a whole number of 64 bits"),
    "number of many digits": (("softmax", (4,), (4,)), {"axis": 10**5000}, "axis", "given far too large a number"),
    "number of many digits in a list": (("pad", (4,), (4,)), {"after": (10**5000,)}, "after", "far too large"),
    "number of many digits for a float": (("elu", (4,), (4,)), {"alpha": 10**400}, "alpha", "to be a number"),
    "views are no list": (("relu", (4,), (4,)), {"shapes": 4}, "shapes", "a list with a shape or null for each"),
    "more views than arguments": (("relu", (4,), (4,)), {"shapes": (None,) * 3}, "shapes", "a list with a shape"),
    "view that is no shape": (("relu", (4,), (4,)), {"shapes": ((2, -2),)}, "x", r"\(2, -2\), which is no shape"),
    "view that is a number": (("relu", (4,), (4,)), {"shapes": (4,)}, "x", "4, which is no shape"),
    "view of truths": (("relu", (1,), (1,)), {"shapes": ((True,),)}, "x", "which is no shape"),
    "view of another size": (("relu", (4,), (4,)), {"shapes": ((2, 3),)}, "x", r"\(4,\) cannot be seen as \(2, 3\)"),
    "view of many axes": (("relu", (4,), (4,)), {"shapes": ((4, *[1] * 32),)}, "x", "33 axes; at most 32"),
    "unary shapes": (("relu", (4,), (5,)), {}, "out", r"out is to have shape \(4,\), has \(5,\)"),
    "shapes that do not stretch": (("add", (4,), (3,), (4,)), {}, "b", r"\(4,\), \(3,\) cannot be stretched"),
    "stretched elsewhere": (("add", (4, 1), (3,), (4, 4)), {}, "out", r"to have shape \(4, 3\), has \(4, 4\)"),
    "output that would be stretched": (("add", (1,), (1,), (4,)), {}, "out", r"to have shape \(1,\), has \(4,\)"),
    "comparison's output": (("less", (4,), (4,), (4,)), {}, "out", "is float32; out may be bool"),
    "condition": (("where", (4,), (4,), (4,), (4,)), {}, "condition", "is float32; condition may be bool"),
    "axpy": (("axpy", (4,), (3,)), {}, "y", r"y is to have shape \(4,\)"),
    "gemm of a vector": (("gemm", (4,), (4, 4), (4, 4)), {}, "a", r"a is a matrix, or several, and has shape \(4,\)"),
    "gemm's inner sizes": (("gemm", (2, 3), (4, 5), (2, 5)), {}, "b", "a has 3 columns, b has 4 rows"),
    "gemm transposed": (("gemm", (2, 3), (3, 5), (2, 5)), {"transpose_b": True}, "b", "a has 3 columns, b has 5 rows"),
    "gemm's result": (("gemm", (2, 3), (3, 5), (5, 2)), {}, "c", "c is to be 2 x 5, is 5 x 2"),
    "gemm's batches": (("gemm", (7, 2, 3), (3, 5), (6, 2, 5)), {}, "a", r"a has batches \(7,\), c has \(6,\)"),
    "gemm's batches from nowhere": (("gemm", (2, 3), (3, 5), (6, 2, 5)), {}, "c", "neither a nor b has"),
    "reduction": (("reduce", (4,), ()), {"op": "median"}, "op", "op is one of sum, .*; given 'median'"),
    "mean of integers": (("reduce", (I32, (4,)), (I32, ())), {"op": "mean"}, "x", "the mean of int32 is none; cast"),
    "axis beyond": (("reduce", (4, 4), (4,)), {"op": "sum", "axes": (2,)}, "axes", "axes is 2; x has 2 axes"),
    "axis before": (("softmax", (4, 4), (4, 4)), {"axis": -3}, "axis", "axis is -3; x has 2 axes"),
    "axis twice": (("reduce", (4, 4), (4,)), {"op": "sum", "axes": (0, -2)}, "axes", "names an axis twice"),
    "reduced shape": (("reduce", (4, 5), (5,)), {"op": "sum", "axes": (1,)}, "out", r"shape \(4,\), has \(5,\)"),
    "kept shape": (
        ("reduce", (4, 5), (4,)), {"op": "sum", "axes": (1,), "keepdims": True}, "out", r"to have shape \(4, 1\)",
    ),
    "argmax of no axis": (("argmax", (), (I32, ())), {}, "axis", "x has 0 axes"),
    "argmax in floats": (("argmax", (4,), ()), {}, "out", "is float32; out may be int32, int64"),
    "argmax too long for its dtype": (("argmax", (2**31 + 1, 1), (I32, (1,))), {"axis": 0}, "out", "int64"),
    "layernorm's scale": (("layernorm", (4, 6), (4, 6), (4,)), {}, "scale", r"scale is to have shape \(6,\)"),
    "batchnorm of a vector": (("batchnorm", *[(4,)] * 6), {}, "x", "its second axis would be the channels"),
    "batchnorm's mean": (("batchnorm", (2, 3), (3,), (3,), (2,), (3,), (2, 3)), {}, "mean", r"to have shape \(3,\)"),
    "copy": (("copy", (4, 3), (3,)), {}, "x", r"x of shape \(4, 3\) cannot be stretched to \(3,\)"),
    "cast": (("cast", (4,), (I32, (5,))), {}, "out", r"to have shape \(4,\)"),
    "transpose": (("transpose", (4, 3), (3, 4)), {"axes": (0, 0)}, "axes", r"an order of the 2 axes of x"),
    "transposed shape": (("transpose", (4, 3), (4, 3)), {}, "out", r"to have shape \(3, 4\)"),
    "slice of other rank": (("slice", (4, 3), (4,)), {}, "out", "out has 1 axes, x has 2"),
    "slice before the start": (("slice", (4,), (2,)), {"starts": (-1,)}, "starts", "each at least 0"),
    "slice over the end": (("slice", (4,), (2,)), {"starts": (3,)}, "starts", "from 3 to 4, outside of the 4 of x"),
    "slice back over the start": (("slice", (4,), (3,)), {"starts": (1,), "steps": (-1,)}, "starts", "from 1 to -1"),
    "slice in huge steps": (("slice", (4,), (2,)), {"steps": (HUGE,)}, "starts", f"from 0 to {HUGE}"),
    "slice in huge steps back": (("slice", (4,), (2,)), {"steps": (-HUGE,)}, "starts", f"from 0 to -{HUGE}"),
    "slice without steps": (("slice", (4,), (2,)), {"steps": (0,)}, "steps", "numbers other than 0"),
    "starts for other axes": (("slice", (4,), (2,)), {"starts": (0, 0)}, "starts", "to be 1 numbers"),
    "paste over the end": (("paste", (2,), (4,)), {"starts": (3,)}, "starts", "outside of the 4 of out"),
    "pad": (("pad", (4,), (6,)), {"before": (1,)}, "out", r"to have shape \(5,\)"),
    "pad by less than nothing": (("pad", (4,), (3,)), {"before": (-1,)}, "before", "each at least 0"),
    "pad by far too much": (("pad", (4,), (6,)), {"before": (HUGE,)}, "out", "out is to have shape"),
    "gather by fractions": (("gather", (4,), (2,), (2,)), {}, "indices", "is float32; indices may be int32, int64"),
    "gathered shape": (("gather", (4, 5), (I32, (2,)), (2, 4)), {}, "out", r"to have shape \(2, 5\)"),
    "image of other rank": (("im2col", (4, 4), (4, 4)), {"kernel": (1, 1)}, "x", r"x is to have axes \(N, C, H, W\)"),
    "kernel of other rank": (("im2col", (1, 1, 4, 4), (4,)), {"kernel": (1,)}, "kernel", "to be 2 numbers"),
    "kernel beyond the image": (("im2col", (1, 1, 4, 4), (4,)), {"kernel": (5, 1)}, "x", "does not fit"),
    "columns": (("im2col", (1, 1, 4, 4), (4,)), {"kernel": (2, 2)}, "out", r"to have shape \(1, 4, 9\)"),
    "huge strides": (
        ("im2col", (1, 1, 4, 4), (4,)), {"kernel": (1, 1), "strides": (HUGE, 1)}, "strides", "at most 2147483647",
    ),
    "huge pads": (("im2col", (1, 1, 4, 4), (4,)), {"kernel": (1, 1), "pads": (0, 0, HUGE, 0)}, "pads", "at most"),
    "huge dilations": (("im2col", (1, 1, 4, 4), (4,)), {"kernel": (1, 1), "dilations": (1, HUGE)}, "dilations", "most"),
    "huge kernel": (("im2col", (1, 1, 4, 4), (4,)), {"kernel": (HUGE, 1)}, "kernel", "at most"),
    "strides of 0": (("im2col", (1, 1, 4, 4), (4,)), {"kernel": (1, 1), "strides": (0, 1)}, "strides", "at least 1"),
    "filters of other rank": (("conv2d", (1, 1, 4, 4), (1, 1), (4,)), {}, "w", r"axes \(M, C / groups, y, x\)"),
    "groups": (("conv2d", (1, 3, 4, 4), (4, 3, 1, 1), (1, 4, 4, 4)), {"groups": 2}, "groups", "not fit 2 groups"),
    "no groups": (("conv2d", (1, 3, 4, 4), (4, 3, 1, 1), (1, 4, 4, 4)), {"groups": 0}, "groups", "not fit 0 groups"),
    "filters' depth": (("conv2d", (1, 3, 4, 4), (4, 2, 1, 1), (1, 4, 4, 4)), {}, "groups", "4 filters of depth 2"),
    "convolved shape": (("conv2d", (1, 3, 4, 4), (4, 3, 3, 3), (1, 4, 4, 4)), {}, "out", r"shape \(1, 4, 2, 2\)"),
    "bias": (("conv2d", (1, 3, 4, 4), (4, 3, 1, 1), (1, 4, 4, 4), (3,)), {}, "bias", r"to have shape \(4,\)"),
    "pooling": (("pool2d", (1, 1, 4, 4), (1, 1, 2, 2)), {"op": "sum", "kernel": (2, 2)}, "op", "op is max or mean"),
    "pooled rank": (("pool2d", (1, 1, 4, 4), (3, 3)), {"op": "max", "kernel": (2, 2)}, "out", r"axes \(N, C, H, W\)"),
    "pooled shape": (
        ("pool2d", (1, 1, 4, 4), (1, 1, 3, 5)), {"op": "max", "kernel": (2, 2)}, "out",
        r"out is to have \(3, 3\) windows, or \(4, 4\) if the last may stick out",
    ),
    "pooled channels": (("pool2d", (1, 2, 4, 4), (1, 1, 4, 4)), {"op": "max", "kernel": (1, 1)}, "out", "to have"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_named_with_its_place(mistake):
    called, attrs, about, message = WRONG[mistake]
    with pytest.raises(BadArguments, match=message) as caught:
        resolve(*called, **attrs)
    assert caught.value.kernel == called[0]
    assert caught.value.argument == about
    assert len(caught.value.message) < 800


def test_each_rule_has_a_mistake():
    """A built-in whose signature nothing gets wrong above would be checked by nobody."""
    general = {"exp", "add", "relu", "elu", "gelu"}  # one of each kind stands for its kind
    alike = {each.check for name, each in CATALOGUE.items() if name in general}
    tried = {called[0] for called, *_ in WRONG.values()}
    rules = {CATALOGUE[name].check for name in tried} | alike
    assert {name for name, each in CATALOGUE.items() if each.check not in rules} == set()


def test_an_unknown_builtin_is_refused_naming_those_there_are():
    with pytest.raises(ModuleRejected, match=r"'gem' here \(did you mean 'gemm'\?\); there are abs, add, ") as caught:
        resolve("gem", (4,))
    assert caught.value.kernels == builtin_names()


def test_a_call_gets_its_defaults_and_views():
    call = resolve("softmax", (24,), (4, 6), shapes=((4, 6),), axis=0)
    assert call.shape("x") == (4, 6)
    assert call.attrs == {"axis": 0}
    assert resolve("layernorm", (6, 4), (6, 4), epsilon=1).attrs == {"axis": -1, "epsilon": 1.0}
    flat = Buffer(name="x", role="input", nbytes=24, dtype="float32")
    assert resolve("relu", flat, (6,)).shape("x") == (6,)


def test_a_graph_refuses_a_wrong_call_at_its_line():
    graph = Graph("wrong")
    x = graph.input("x", shape=(4,), dtype="float32")
    out = graph.output("out", shape=(5,), dtype="float32")
    with pytest.raises(BadArguments, match=r"graph.launches\[0\].args\[1\]: relu\(x, out\): out is to have shape"):
        graph.call("relu", x, out)


def test_one_window_far_apart_from_the_next_is_a_window():
    geometry = {"kernel": (2, 2), "strides": (2**31 - 1,) * 2, "pads": (2**31 - 1,) * 4}
    call = resolve("pool2d", (1, 1, 3, 3), (1, 1, 3, 3), op="max", **geometry)
    assert call.shape("out") == (1, 1, 3, 3)


def broken(_: Any) -> None:
    raise KeyError("y")


def test_another_packages_check_that_breaks_is_its_own_fault(monkeypatch):
    builtin = Builtin("package.broken", (reads("x"), writes("out")), broken, run=lambda *_: None)
    monkeypatch.setattr("kaasq.builtins.registry._added", lambda: {builtin.name: builtin})
    with pytest.raises(ModuleRejected, match=r"the check of built-in 'package\.broken' failed: KeyError: 'y'"):
        resolve("package.broken", (4,), (4,))


@pytest.mark.parametrize(
    ("parameters", "attributes", "message"),
    [
        ((reads("x"), writes("x")), {}, "two parameters of one name: x, x"),
        ((reads("x", optional=True), writes("out")), {}, r"p.q\(\[x\], out\): after a parameter that may be left out"),
        ((reads("x"),), {"shapes": ()}, "every built-in has an attribute 'shapes'"),
    ],
)
def test_a_signature_that_nobody_could_call_is_refused(parameters, attributes, message):
    with pytest.raises(ValueError, match=message):
        Builtin("p.q", parameters, lambda _: None, attributes)


ATTRIBUTE_NAMES = sorted({name for each in CATALOGUE.values() for name in each.attributes} | {"shapes", "other"})
NUMBERS = st.one_of(
    st.integers(-4, 4),
    st.sampled_from([2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**63), 2**64, HUGE, -HUGE, 10**5000]),
)
ATTRIBUTES = st.one_of(
    NUMBERS,
    st.booleans(),
    st.floats(),
    st.sampled_from(["sum", "mean", "max", ""]),
    st.lists(NUMBERS, max_size=5).map(tuple),
    st.lists(st.one_of(st.none(), NUMBERS, st.floats(), st.lists(NUMBERS, max_size=5).map(tuple)), max_size=6).map(
        tuple
    ),
)
BUFFERS = st.builds(
    lambda name, dtype, shape: Buffer(name=name, role="inout", nbytes=-1, dtype=dtype, shape=shape),
    st.sampled_from("abcdef"),
    st.sampled_from([*ANY, "complex64"]),
    st.lists(st.integers(1, 5), max_size=5).map(tuple),
)
ARGUMENTS: st.SearchStrategy[Any] = st.one_of(
    BUFFERS,
    st.builds(Constant, dtype=st.sampled_from([*FLOATS[1:], *INTEGERS[1:4]]), value=st.integers(0, 100)),
    st.builds(Scalar, name=st.just("s"), dtype=st.sampled_from(FLOATS)),
    st.just(Constant(dtype="bytes", data=b"12")),
)


@given(
    name=st.sampled_from(sorted(CATALOGUE)),
    args=st.lists(ARGUMENTS, max_size=7),
    attrs=st.dictionaries(st.sampled_from(ATTRIBUTE_NAMES), ATTRIBUTES, max_size=5),
    data=st.data(),
)
def test_whatever_is_called_fits_or_is_refused(name: str, args: list[Any], attrs: dict[str, Any], data: Any):
    builtin = CATALOGUE[name]
    known = {key: value for key, value in attrs.items() if key in builtin.attributes or data.draw(st.booleans())}
    declared: dict[str, Any] = {each.name: each for each in args if not isinstance(each, Constant)}
    given = tuple(each if isinstance(each, Constant) else each.name for each in args)
    launch = Launch(module="kaasq", kernel=name, args=given, attrs=known)
    buffers = tuple(each for each in declared.values() if isinstance(each, Buffer))
    scalars = tuple(each for each in declared.values() if isinstance(each, Scalar))
    try:
        graph = check_graph(GraphSpec(name="g", buffers=buffers, scalars=scalars, launches=(launch,)), GraphLimits())
        checked: dict[str, Buffer | Scalar] = {each.name: each for each in graph.buffers}
        checked.update((each.name, each) for each in graph.scalars)
        call = resolve_call(graph.launches[0], "at", checked)
    except (BadArguments, BadRequest, ModuleRejected):
        return
    assert set(call.attrs) == set(builtin.attributes)


def test_a_hostile_call_is_refused_at_once():
    """What is long or large in it is neither multiplied out nor quoted."""
    long = tuple(range(1024))
    calls: list[tuple[str, dict[str, Any]]] = [
        ("transpose", {"axes": long}),
        ("relu", {"shapes": ((HUGE,) * 100_000,)}),
        ("slice", {"starts": long, "steps": (2**63 - 1,) * 1024}),
        ("im2col", {"kernel": (2**31 - 1,) * 2, "pads": (2**31 - 1,) * 4}),
    ]
    started = time.process_time()
    for name, attrs in calls:
        with pytest.raises(BadArguments) as caught:
            resolve(name, (1, 1, 4, 4), (4,), **attrs)
        assert len(caught.value.message) < 800
    assert time.process_time() - started < 0.5

"""What every device's built-ins give element by element and of layouts, and what graphs may do with them."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

import kaasq
from kaasq import BadArguments, Client, Graph, Module
from kaasq.builtins.catalogue import CATALOGUE
from kaasq.builtins.signature import ANY, FLOATS, INTEGERS, NUMBERS
from tests.support.builtins import DEVICES, Out, Sheet, compare, normal

NAN, INF = math.nan, math.inf
SPECIAL = (0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1e-3, -1e-3, 3.0, -3.0, 9.0, -9.0, 60.0, -60.0, INF, -INF, NAN)


@pytest.fixture(scope="module", params=DEVICES)
def client(request) -> Iterator[Client]:
    with kaasq.local(device=request.param) as client:
        yield client


def each(function: Callable[..., Any], *arrays: np.ndarray, otype: Any = np.float64) -> np.ndarray:
    """A function of Python numbers over broadcast arrays."""
    stretched = np.broadcast_arrays(*arrays)
    values = [function(*row) for row in zip(*(a.reshape(-1).tolist() for a in stretched), strict=True)]
    return np.array(values, otype).reshape(stretched[0].shape)


def wrapped(dtype: str, function: Callable[..., int]) -> Callable[..., int]:
    """Whole numbers, around the dtype's limits."""
    limits = np.iinfo(dtype)
    span = int(limits.max) - int(limits.min) + 1
    return lambda *args: (function(*args) - int(limits.min)) % span + int(limits.min)


def guarded(function: Callable[..., float]) -> Callable[..., float]:
    """As C has it: a pole is infinite, outside of the domain is NaN."""

    def run(*args: float) -> float:
        try:
            return function(*args)
        except OverflowError:
            return INF
        except ValueError:
            return -INF if function is math.log and args[0] == 0 else NAN
        except ZeroDivisionError:
            return math.copysign(INF, args[-1]) * (args[0] if len(args) > 1 else 1)

    return run


def nan_first(pick: Callable[[float, float], float]) -> Callable[[float, float], float]:
    return lambda a, b: NAN if math.isnan(a) or math.isnan(b) else pick(a, b)


def whole(function: Callable[[float], int]) -> Callable[[float], float]:
    return lambda x: float(function(x)) if math.isfinite(x) else x


def sign(x: float) -> float:
    return NAN if math.isnan(x) else (x > 0) - (x < 0)


def sigmoid(x: float) -> float:
    return 0.0 if x < -700 else 1 / (1 + math.exp(-x))


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "neg": operator.neg,
    "abs": abs,
    "sign": sign,
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x) if x else math.copysign(INF, x),
    "reciprocal": lambda x: 1 / x,
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
    "erf": math.erf,
    "floor": whole(math.floor),
    "ceil": whole(math.ceil),
    "round": whole(round),
    "relu": lambda x: x if math.isnan(x) else max(x, 0.0),
    "leaky_relu": lambda x: x if x >= 0 else 0.01 * x,
    "elu": lambda x: x if x >= 0 else math.expm1(x),
    "sigmoid": sigmoid,
    "silu": lambda x: NAN if x == -INF else x * sigmoid(x),
    "softplus": lambda x: x if x > 700 else math.log1p(math.exp(x)),
    "gelu": lambda x: NAN if x == -INF else x * (0.5 * math.erfc(-x / math.sqrt(2))),
}


@pytest.mark.parametrize("dtype", FLOATS)
def test_functions_of_floats(client, dtype):
    sheet = Sheet()
    x = np.concatenate([np.array(SPECIAL), 4 * normal(1, 3001)]).astype(dtype)
    for name, function in FUNCTIONS.items():
        expected = each(guarded(function), x)
        sheet.call(name, x, Out(expected, dtype))
    sheet.call("leaky_relu", x, Out(each(lambda v: v if v >= 0 else 0.3 * v, x), dtype), alpha=0.3)
    sheet.call("elu", x, Out(each(lambda v: v if v >= 0 else 2 * math.expm1(v), x), dtype), alpha=2)
    tanh = each(lambda v: 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))), x)
    sheet.call("gelu", x, Out(np.where(x == -INF, NAN, tanh), dtype), tanh=True)
    sheet.check(client)


@pytest.mark.parametrize("dtype", FLOATS)
def test_operators_of_floats_stretch_and_pass_nan_on(client, dtype):
    special = np.array(SPECIAL, dtype)
    pairs = [
        (special[:, None], special),
        (normal(1, 5, 1, 7, dtype=dtype), normal(2, 3, 1, dtype=dtype)),
        (normal(3, 1, dtype=dtype), normal(4, 2, 3, 130, dtype=dtype)),
        (np.array(2.5, dtype), normal(5, 1031, dtype=dtype)),
    ]
    functions: dict[str, Callable[[float, float], float]] = {
        "add": operator.add,
        "sub": operator.sub,
        "mul": operator.mul,
        "div": lambda a, b: NAN if b == 0 and (a == 0 or math.isnan(a)) else a / b if b else math.copysign(INF, b) * a,
        "maximum": nan_first(max),
        "minimum": nan_first(min),
    }
    sheet = Sheet()
    for (a, b), (name, function) in itertools.product(pairs, functions.items()):
        sheet.call(name, a, b, Out(each(function, a, b), dtype))
    base, exponent = np.abs(normal(6, 40, 1, dtype=dtype)), normal(7, 30, dtype=dtype)
    sheet.call("pow", base, exponent, Out(each(math.pow, base, exponent), dtype))
    sheet.check(client)


def towards_zero(a: int, b: int) -> int:
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap_around_and_divide_towards_zero(client, dtype):
    limits = np.iinfo(dtype)
    edges = np.array([limits.min, limits.min + 1, 0, 1, 2, 3, 7, limits.max - 1, limits.max], dtype)
    if limits.min < 0:
        edges = np.append(edges, np.array([-1, -2, -7], dtype))
    a, b = np.append(edges, normal(1, 20, dtype=dtype))[:, None], np.append(edges, normal(2, 9, dtype=dtype))
    functions: dict[str, Callable[[int, int], int]] = {
        "add": operator.add,
        "sub": operator.sub,
        "mul": operator.mul,
        "div": towards_zero,
        "maximum": max,
        "minimum": min,
    }
    sheet = Sheet()
    for name, function in functions.items():
        sheet.call(name, a, b, Out(each(wrapped(dtype, function), a, b, otype=dtype), dtype))
    for name, of_one in {"neg": operator.neg, "abs": abs, "sign": sign, "relu": lambda x: max(x, 0)}.items():
        sheet.call(name, b, Out(each(wrapped(dtype, of_one), b, otype=dtype), dtype))
    sheet.check(client)


@pytest.mark.parametrize("dtype", ANY)
def test_comparisons_and_choices(client, dtype):
    a, b = normal(1, 4, 1, 9, dtype=dtype), normal(2, 5, 9, dtype=dtype)
    a.reshape(-1)[:9] = b.reshape(-1)[:9]
    if "float" in dtype:
        a[0, 0, 4:] = NAN
    comparisons = {"equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt"}
    sheet = Sheet()
    for name, sign in {**comparisons, "greater_equal": "ge"}.items():
        sheet.call(name, a, b, Out(each(getattr(operator, sign), a, b, otype=bool), "bool"))
    condition = normal(3, 4, 5, 1, dtype="bool")
    chosen = each(lambda c, x, y: x if c else y, condition, a, b, otype=dtype)
    sheet.call("where", condition, a, b, Out(chosen, dtype))
    sheet.check(client)


def test_logic(client):
    a, b = normal(1, 7, 1, dtype="bool"), normal(2, 11, dtype="bool")
    sheet = Sheet()
    for name, sign in {"logical_and": "and_", "logical_or": "or_", "logical_xor": "xor"}.items():
        sheet.call(name, a, b, Out(each(getattr(operator, sign), a, b, otype=bool), "bool"))
    sheet.call("logical_not", a, Out(each(operator.not_, a, otype=bool), "bool"))
    sheet.check(client)


def cast(value: float | bool, dtype: str) -> Any:
    """As ``cast`` has it, for one number."""
    if dtype == "bool":
        return value != 0
    if "float" in dtype:
        return float(value)
    limits = np.iinfo(dtype)
    if math.isnan(value):
        return 0
    value = value if abs(value) == INF else int(value)
    return int(limits.min if value < limits.min else limits.max if value > limits.max else value)


@pytest.mark.parametrize("source", ANY)
def test_cast_saturates_and_takes_nan_as_zero(client, source):
    if "float" in source:
        edges = [*SPECIAL, 127.9, -128.9, 255.9, 32767.9, 65504.0, -65504.0, 1.99, -1.99]
        if source != "float16":
            edges += [sign * 2.0**power for power in (15, 16, 31, 32, 63, 64, 80) for sign in (1, -1)]
        x = np.array(edges, source)
    elif source == "bool":
        x = np.array([False, True])
    else:
        limits = np.iinfo(source)
        x = np.append(np.array([limits.min, limits.max, limits.max // 2], source), normal(1, 40, dtype=source))
    sheet = Sheet()
    for dtype in ANY:
        expected = each(lambda value, dtype=dtype: cast(value, dtype), x, otype=np.float64 if "f" in dtype else dtype)
        sheet.call("cast", x, Out(expected, dtype))
    sheet.check(client)


@pytest.mark.parametrize("dtype", ANY)
def test_numbers_are_taken_as_cast_does(client, dtype):
    x = normal(1, 6, 5, dtype=dtype)
    sheet = Sheet()
    for value in (np.float32(3.7), np.float64(-1e30), np.float64(NAN), np.int64(-2), np.uint64(2**64 - 1), np.bool_(1)):
        if dtype == "float16" and abs(float(value)) > 6e4:
            continue
        taken = cast(value.item(), dtype)
        sheet.call("fill", Out(np.full((3, 2), taken, dtype), dtype), value)
        padded = np.full((9, 8), taken, dtype)
        padded[1:7, 3:8] = x
        sheet.call("pad", x, Out(padded, dtype), value, before=(1, 3), after=(2, 0))
        if dtype in NUMBERS:
            clipped = each(lambda v, taken=taken: nan_first(min)(nan_first(max)(v, taken), 30), x, otype=dtype)
            sheet.call("clip", x, Out(clipped, dtype), value, np.int8(30))
    sheet.check(client)


@pytest.mark.parametrize("dtype", ANY)
def test_layouts(client, dtype):
    x = normal(1, 4, 3, 7, dtype=dtype)
    sheet = Sheet()
    for axes in itertools.permutations(range(3)):
        expected = np.empty([x.shape[axis] for axis in axes], dtype)
        for place in np.ndindex(x.shape):
            expected[tuple(place[axis] for axis in axes)] = x[place]
        sheet.call("transpose", x, Out(expected, dtype), axes=axes)
    sheet.call("transpose", x, Out(np.einsum("ijk->kji", x), dtype))
    wide = normal(2, 3, 90, 200, dtype=dtype)
    sheet.call("transpose", wide, Out(np.einsum("ijk->ikj", wide), dtype), axes=(0, 2, 1))
    sheet.call("copy", x[:, :1], Out(np.concatenate([x[:, :1]] * 5, axis=1), dtype))
    sheet.call("copy", x[0, 0, :1].reshape(()), Out(np.array([[x[0, 0, 0]] * 4] * 2), dtype))
    sheet.call("slice", x, Out(x[1:4, 2:3, 0:6:3], dtype), starts=(1, 2, 0), steps=(1, 1, 3))
    sheet.call("slice", x, Out(x[::-1, 2:0:-1, 6::-4], dtype), starts=(3, 2, 6), steps=(-1, -1, -4))
    sheet.call("slice", x, Out(x[2:3, :1, :2], dtype), starts=(2, 0, 0), steps=(10**18, -(10**18), 1))
    before, part = normal(3, 4, 6, 7, dtype=dtype), normal(4, 2, 3, 3, dtype=dtype)
    pasted = before.copy()
    for i, j, k in np.ndindex(part.shape):
        pasted[3 - 2 * i, 2 + j, 1 + 2 * k] = part[i, j, k]
    sheet.call("paste", part, Out(pasted, dtype, before), starts=(3, 2, 1), steps=(-2, 1, 2))
    sheet.check(client)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float16", "float32", "float64", "int64"])
@pytest.mark.parametrize("whole", ["int32", "int64"])
def test_gather_counts_from_the_end_and_gives_zeros_outside(client, dtype, whole):
    x = normal(1, 4, 6, 5, dtype=dtype)
    limits = np.iinfo(whole)
    indices = np.array([[0, 5, -1], [-6, -7, 6], [limits.min, limits.max, 2]], whole)
    sheet = Sheet()
    for axis in (0, 1, 2, -1, -3):
        entries = x.shape[axis]
        rows = np.moveaxis(x, axis, 0)
        found = [rows[i] if -entries <= i < entries else np.zeros_like(rows[0]) for i in indices.reshape(-1).tolist()]
        expected = np.stack(found).reshape(*indices.shape, *rows.shape[1:])
        expected = np.moveaxis(expected, (0, 1), (axis % 3, axis % 3 + 1))
        sheet.call("gather", x, indices, Out(expected, dtype), axis=axis)
    sheet.call("gather", x, np.array(2, whole), Out(x[2], dtype))
    sheet.check(client)


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_arrays_give_what_small_ones_do(client, dtype):
    """Large enough for every way that a device has of cutting work into pieces."""
    x, y = normal(1, 1200, 999, dtype=dtype), normal(2, 1200, 999, dtype=dtype)
    wide = x.astype(np.float64)
    column = normal(3, 1200, 1, dtype=dtype)
    sheet = Sheet()
    sheet.call("add", x, y, Out(wide + y, dtype))
    sheet.call("mul", x, column, Out(wide * column, dtype))
    sheet.call("sigmoid", x, Out(1 / (1 + np.exp(-wide)), dtype))
    sheet.call("transpose", x, Out(np.einsum("ij->ji", x), dtype))
    sheet.call("axpy", x, Out(y + 2.5 * wide, dtype, y), np.float32(2.5))
    sheet.call("axpy", x[:3], Out(y[:3] + wide[:3], dtype, y[:3]))
    indices = np.arange(2400, dtype=np.int32) % 1300 - 50
    inside = np.where((indices >= -1200) & (indices < 1200), indices, 0)
    sheet.call("gather", x, indices, Out(wide[inside] * (indices < 1200)[:, None], dtype))
    sheet.call(
        "gather",
        x.reshape(2, -1),
        np.array([1, 0, 7]),
        Out(np.stack([*wide.reshape(2, -1)[::-1], np.zeros(wide.size // 2)]), dtype),
    )
    sheet.check(client)


def test_every_builtin_is_tested_here(request):
    """By name, in the text of this suite."""
    suite = "".join(path.read_text() for path in sorted(request.path.parent.glob("test_builtins*.py")))
    assert {name for name in CATALOGUE if f'"{name}"' not in suite} == set()


KERNEL = r"""
extern "C" __global__ void twice(const float* x, float* out, int n)
{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) out[i] = 2 * x[i]; }
"""


def test_kernels_and_builtins_in_one_graph_several_times(client):
    """x becomes relu(2 w x) + x, three times over; w is const and stored, so it is used where it lies."""
    graph = Graph("mixed")
    n = 40
    w = graph.input("w", shape=(n, n), dtype="float32", const=True)
    x = graph.inout("x", shape=(n, 1), dtype="float32")
    product, doubled, kept = (graph.temp(name, shape=(n, 1), dtype="float32") for name in ("p", "d", "k"))
    graph.call("gemm", w, x, product)
    graph.launch(Module.from_source(KERNEL).kernel("twice"), grid=1, block=64, args=[product, doubled, np.int32(n)])
    graph.call("relu", doubled, kept)
    graph.call("axpy", kept, x)
    graph.iterations = 3
    weights, start = normal(1, n, n) / n, normal(2, n, 1)
    expected = start.astype(np.float64)
    for _ in range(3):
        expected = np.maximum(2 * (weights @ expected), 0) + expected
    for bound in (weights, client.put(weights)):
        result = client.run(graph, w=bound, x=start, timeout=60)
        compare("x", result["x"], Out(expected, "float32", scale=4.0))


def test_numbers_may_be_bound_anew_for_each_request(client):
    graph = Graph("rebound")
    x = graph.input("x", shape=(3, 3), dtype="float64")
    c = graph.inout("c", shape=(3, 3), dtype="float64")
    alpha, beta = graph.scalar("alpha", "float32"), graph.scalar("beta", "float64", default=0.0)
    graph.call("gemm", x, x, c, alpha, beta)
    given, before = normal(1, 3, 3, dtype="float64"), np.full((3, 3), NAN)
    product = np.einsum("ij,jk->ik", given, given)
    compare("c", client.run(graph, x=given, c=before, alpha=2.0, timeout=60)["c"], Out(2 * product, "float64"))
    second = client.run(graph, x=given, c=given, alpha=-0.5, beta=3.0, timeout=60)
    compare("c", second["c"], Out(3 * given - 0.5 * product, "float64"))


def test_views_see_a_buffer_under_another_shape(client):
    graph = Graph("views")
    x = graph.input("x", shape=(24,), dtype="float32")
    raw = graph.input("raw", nbytes=24, dtype="float32")
    out = graph.output("out", shape=(4, 6), dtype="float32")
    total = graph.output("total", shape=(), dtype="float32")
    graph.call("add", x, raw, out, shapes=((4, 6), (1, 6)))
    graph.call("reduce", out, total, op="sum", axes=(0,), shapes=((24,),))
    given, row = normal(1, 24), normal(2, 6)
    result = client.run(graph, x=given, raw=row, timeout=60)
    expected = given.astype(np.float64).reshape(4, 6) + row
    compare("out", result["out"], Out(expected, "float32"))
    compare("total", result["total"], Out(np.array(math.fsum(expected.reshape(-1))), "float32", scale=24.0))


def test_an_input_that_only_builtins_read_is_not_copied_and_stays_as_it_was(client):
    """The cached copy itself is read; were it written to, the second answer would differ."""
    graph = Graph("reading")
    x = graph.input("x", shape=(64, 64), dtype="float32")
    out = graph.output("out", shape=(64, 64), dtype="float32")
    graph.call("softmax", x, out)
    stored = client.put(normal(1, 64, 64))
    first = client.run(graph, x=stored, timeout=60)
    second = client.run(graph, x=stored, timeout=60)
    np.testing.assert_array_equal(first["out"], second["out"])
    assert second.cache.hits == 2  # the plan and the object


def test_a_call_that_does_not_fit_is_refused_by_the_worker_too(client):
    graph = Graph("misfit")
    x = graph.input("x", shape=(4,), dtype="float32")
    out = graph.output("out", shape=(4,), dtype="float32")
    graph.call("relu", x, out)
    spec = graph.freeze()
    wrong = msgspec.structs.replace(spec.launches[0], kernel="softmax", attrs={"axis": 3})
    spec = msgspec.structs.replace(spec, launches=(wrong,))
    with pytest.raises(
        BadArguments, match=r"graph.launches\[0\].attrs.axis: softmax\(x, out\): axis is 3; x has 1 axes"
    ):
        client.run(spec, x=np.zeros(4, np.float32), timeout=60)

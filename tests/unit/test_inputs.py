"""What a user may bind to a graph, and what is refused with what was expected and what was given."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import kaasq
from kaasq.dtypes import BUFFER_DTYPES
from kaasq.errors import BadRequest, BufferMissing, BufferSize, KaasqError
from kaasq.messages import Stored
from kaasq.model import Buffer
from kaasq_producers.inputs import Binder, too_large
from kaasq_producers.references import BufferRef, Keep
from kaasq_producers.values import COPY_BYTES, InputField
from tests.support.graphs import MODULE, saxpy

X = np.arange(4, dtype=np.float32)
REF = BufferRef(ref="ab" * 32, nbytes=16, dtype="float32", shape=(4,))


def data(value: Any, **buffer: Any) -> bytes:
    """The bytes of a value bound to an input declared so (float32 of 4, if nothing is said)."""
    declared = buffer or {"dtype": "float32", "shape": (4,), "nbytes": 16}
    return bytes(InputField(Buffer(name="x", role="input", **declared)).data(value))


class Tensor:
    """What a library of tensors offers NumPy."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return X


@pytest.mark.parametrize(
    "value",
    [
        X,
        np.stack([X, X])[0],
        np.stack([X, X], axis=1)[:, 0],  # strided
        X[::-1][::-1],
        X.tobytes(),
        bytearray(X.tobytes()),
        memoryview(X.tobytes()),
        X.data,
        array.array("f", [0, 1, 2, 3]),
        [0, 1, 2, 3],
        (0.0, 1.0, 2.0, 3.0),
        [np.float32(0), np.float32(1), np.float32(2), np.float32(3)],
        Tensor(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_that_is_these_numbers_becomes_these_bytes(value: Any) -> None:
    assert data(value) == X.tobytes()


def test_fortran_order_becomes_c_order() -> None:
    value = np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3))
    assert data(value, dtype="int32", shape=(2, 3), nbytes=24) == np.arange(6, dtype=np.int32).tobytes()


def test_number_fills_a_buffer_of_one_element() -> None:
    assert data(3, dtype="int64", shape=(1,), nbytes=8) == np.int64(3).tobytes()
    assert data(3, dtype="int64", shape=(), nbytes=8) == np.int64(3).tobytes()
    assert data(np.int64(3), dtype="int64", shape=(), nbytes=8) == np.int64(3).tobytes()


def test_nbytes_only_takes_anything_of_that_size() -> None:
    for value in (
        b"1234",
        np.float32(1.5),
        np.zeros(2, "int16"),
        memoryview(b"1234"),
        np.zeros(1, [("a", "u2"), ("b", "u2")]),
    ):
        assert len(data(value, nbytes=4)) == 4


def test_dtype_without_shape_takes_any_shape_of_that_size() -> None:
    assert data(X.reshape(2, 2), dtype="float32", nbytes=16) == X.tobytes()


def test_large_array_is_not_copied() -> None:
    value = np.zeros(COPY_BYTES, np.float32)
    seen = InputField(Buffer(name="x", role="input", nbytes=value.nbytes)).data(value)
    assert np.shares_memory(np.frombuffer(seen, np.float32), value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (X.astype("float64"), "expected float32 (4,), given float64 (4,)"),
        (X.astype("int32"), "expected float32 (4,), given int32 (4,)"),
        (X.astype(">f4"), "expected float32 (4,), given >f4 (foreign byte order) (4,)"),
        (X.reshape(2, 2), "expected float32 (4,), given float32 (2, 2)"),
        (X.astype("float64").data, "given float64 (4,)"),
        (np.array(["a"] * 4), "given str32"),
        (np.array([object()] * 4), "given object"),
        ([np.float64(1)] * 4, "given float64 (4,)"),
        ([1 + 2j] * 4, "expected float32, given complex numbers"),
        ([True] * 4, "expected float32, given booleans"),
        ([1e300, 0, 0, 0], "a value does not fit float32"),
        ([[1, 2], [3]], "cannot make an array of it"),
        ([None] * 4, "given values that make object"),
        (["1", "2", "3", "4"], "given values that make"),
        ("text", "cannot send a str"),
        (None, "cannot send a NoneType"),
        ({"a": 1}, "cannot send a dict"),
    ],
)
def test_what_does_not_match_is_refused(value: Any, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        data(value)
    assert caught.value.at == "bind.x"
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (X[:3], "buffer 'x' is declared as float32 (4,) (16 bytes), but float32 (3,) (12 bytes) was given"),
        ([1, 2, 3], "but float32 (3,) (12 bytes) was given"),
        (5, "but float32 () (4 bytes) was given"),
        (b"12", "buffer 'x' is declared with 16 bytes, but 2 bytes were given"),
        (memoryview(b""), "but 0 bytes were given"),
    ],
)
def test_wrong_size_says_both_sizes(value: Any, says: str) -> None:
    with pytest.raises(BufferSize) as caught:
        data(value)
    assert says in caught.value.message
    assert (caught.value.buffer, caught.value.expected) == ("x", 16)


@pytest.mark.parametrize(
    ("dtype", "values", "says"),
    [
        ("int8", [200], "200 does not fit int8 (-128 to 127)"),
        ("uint8", [-1], "-1 does not fit uint8"),
        ("int32", [1.5], "expected int32, given fractions"),
        ("int32", [1.0], "expected int32, given fractions"),
        ("bool", [1], "expected bool, given whole numbers"),
        ("int64", [2**64], "given values that make object"),
        ("float16", [70000], "a value does not fit float16"),
    ],
)
def test_python_numbers_never_change_their_value_silently(dtype: str, values: list[Any], says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        data(values, dtype=dtype, shape=(1,), nbytes=np.dtype(dtype).itemsize)
    assert says in caught.value.message


def test_infinities_are_values_of_their_own() -> None:
    values = [float("inf"), float("-inf"), float("nan"), 0.0]
    assert data(values) == np.array(values, np.float32).tobytes()


def test_python_numbers_have_no_size_in_a_buffer_of_bytes() -> None:
    with pytest.raises(BadRequest, match="nbytes only"):
        data([1, 2, 3, 4], nbytes=4)


def test_objects_have_no_bytes() -> None:
    with pytest.raises(BadRequest, match="Python objects"):
        data(np.array([object()]), nbytes=8)


@given(st.sampled_from(BUFFER_DTYPES).flatmap(lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes())))
def test_any_array_arrives_as_it_is(value: Any) -> None:
    seen = data(value.T, dtype=value.dtype.name, shape=value.T.shape, nbytes=value.nbytes)
    assert seen == np.ascontiguousarray(value.T).tobytes()


# ------------------------------------------------------------------------------------------------------------- plans

PLAN = Binder(saxpy().freeze())


def test_each_kind_of_value_goes_where_it_belongs() -> None:
    bound = PLAN.bind({"x": X, "y": REF, "a": np.float32(3), "out": Keep("y/1")})
    assert bound.inline == {"x": X.tobytes()}
    assert bound.stored == {"y": Stored(ref=REF.ref)}
    assert bound.scalars == {"a": 3.0}
    assert bound.keep == {"out": "y/1"}


def test_several_mappings_are_one() -> None:
    bound = PLAN.bind({"x": X}, {"y": X}, {"a": 1})
    assert (sorted(bound.inline), bound.scalars) == (["x", "y"], {"a": 1})


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        (
            {"x": X, "y": X, "z": X},
            BadRequest,
            "bind.z: the graph has no buffer or scalar 'z'; it has 'x', 'y', 'out', 'a'",
        ),
        ({"x": X}, BufferMissing, "nothing is bound to input 'y'"),
        ({"x": X, "y": X, "out": X}, BadRequest, "bind.out: 'out' is an output: nothing can be bound to it; Keep("),
        ({"x": X, "y": X, "out": REF}, BadRequest, "bind.out: 'out' is an output"),
        ({"x": X, "y": Keep("n")}, BadRequest, "keep.y: only an output or inout can be kept"),
        ({"x": X, "y": X, "out": Keep("")}, BadRequest, "keep.out: '' is no name"),
        ({"x": X, "y": X, "out": Keep(5)}, BadRequest, "keep.out: a name is a str, int was given"),  # type: ignore[arg-type]
        ({"x": X, "y": X, "a": "3"}, BadRequest, "scalars.a: expected a number (float32), given a str"),
        ({"x": X, "y": X, "a": X}, BadRequest, "scalars.a: expected a number (float32), given a ndarray"),
        ({"x": X, "y": X, "a": 1e300}, BadRequest, "scalars.a: 1e+300 does not fit float32"),
        ({"x": X, "y": X, "a": np.complex64(1)}, BadRequest, "scalars.a: expected float32, given complex64"),
    ],
)
def test_wrong_bindings_are_refused(given: dict[str, Any], kind: type[KaasqError], says: str) -> None:
    with pytest.raises(kind) as caught:
        PLAN.bind(given)
    assert says in caught.value.message


def test_what_is_given_twice_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"bind.x: 'x' is given twice"):
        PLAN.bind({"x": X, "y": X}, {"x": X})


def test_scalar_without_default_must_be_given() -> None:
    graph = kaasq.Graph("g")
    x = graph.inout("x", nbytes=4)
    graph.launch(MODULE.kernel("k"), grid=1, block=1, args=[x, graph.scalar("n", "int32")])
    binder = Binder(graph.freeze())
    with pytest.raises(BadRequest, match=r"scalars.n: scalar 'n' has no default"):
        binder.bind({"x": b"1234"})
    with pytest.raises(BadRequest, match=r"scalars.n: expected int32, given float32"):
        binder.bind({"x": b"1234", "n": np.float32(1)})
    assert binder.bind({"x": b"1234", "n": np.array(7)}).scalars == {"n": 7}


def test_two_outputs_cannot_be_kept_under_one_name() -> None:
    graph = kaasq.Graph("g")
    outs = [graph.output(name, nbytes=4) for name in ("a", "b")]
    graph.launch(MODULE.kernel("k"), grid=1, block=1, args=outs)
    with pytest.raises(BadRequest, match="under one name, 'n'"):
        Binder(graph.freeze()).bind({"a": Keep("n"), "b": Keep("n")})


def test_inout_is_bound_and_kept() -> None:
    graph = kaasq.Graph("g")
    x = graph.inout("x", nbytes=4)
    graph.launch(MODULE.kernel("k"), grid=1, block=1, args=[x])
    binder = Binder(graph.freeze())
    bound = binder.bind({"x": b"1234"})
    binder.keep(bound, {"x": "state"})
    assert (bound.inline, bound.keep) == ({"x": b"1234"}, {"x": "state"})
    with pytest.raises(BufferMissing):
        binder.bind({"x": Keep("state")})
    with pytest.raises(BadRequest, match=r"keep.z: the graph has no buffer 'z'"):
        binder.keep(bound, {"z": "n"})


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        (BufferRef(ref=REF.ref, nbytes=16, dtype="int32", shape=(4,)), "expected float32 (4,), given int32 (4,)"),
        (BufferRef(ref=REF.ref, nbytes=16, dtype="float32", shape=(2, 2)), "given float32 (2, 2)"),
        (BufferRef(ref=REF.ref, nbytes=12, dtype="float32", shape=(3,)), "(12 bytes) was given"),
        (BufferRef(ref=REF.ref, nbytes=12), "but 12 bytes were given"),
        (Stored(), "Stored needs a ref or a name, and not both"),
        (Stored(ref=REF.ref, name="n"), "and not both"),
        (Stored(ref=REF.ref, offset=-1), "offset is -1"),
    ],
)
def test_stored_input_is_checked_as_far_as_it_is_known(ref: Any, says: str) -> None:
    with pytest.raises(KaasqError) as caught:
        PLAN.bind({"x": X, "y": ref})
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("ref", "sent"),
    [
        (BufferRef(ref=REF.ref, nbytes=16), Stored(ref=REF.ref)),
        (Stored(name="model/w1"), Stored(name="model/w1")),
        (REF.part(4), Stored(ref=REF.ref, offset=4)),
    ],
)
def test_stored_input_travels_as_its_reference(ref: Any, sent: Stored) -> None:
    assert PLAN.bind({"x": X, "y": ref}).stored == {"y": sent}


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 300).map(bytes), max_size=6), st.integers(0, 600))
def test_largest_inputs_leave_the_message_until_the_rest_fits(inline: dict[str, bytes], limit: int) -> None:
    moved = too_large(inline, limit)
    stay = [len(value) for name, value in inline.items() if name not in moved]
    assert sum(stay) <= limit
    if moved:
        smallest_moved = min(len(inline[name]) for name in moved)
        assert sum(stay) + smallest_moved > limit or smallest_moved == 0
        assert all(size <= smallest_moved for size in stay)

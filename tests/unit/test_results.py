"""What a reply becomes: arrays, references, errors."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251 - what users do with a result
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kaasq.errors import BadRequest, BufferMissing, BufferSize, KaasqError, NameNotFound, WorkerFailed
from kaasq.messages import CacheUse, ErrorBody, Output, Reply, Timings, WorkerInfo
from kaasq_producers.buffers import Buffers, owned
from kaasq_producers.references import BufferRef
from kaasq_producers.result import Result, failure
from tests.support.graphs import saxpy

GRAPH = saxpy().freeze()
VALUES = np.arange(4, dtype=np.float32)


@pytest.fixture
def buffers(tmp_path: Path) -> Iterator[Buffers]:
    made = Buffers(tmp_path / "store", "ann", capacity=1 << 26, sync=False)
    yield made
    made.close()


def result(buffers: Buffers | None = None, store: str = "", **output: object) -> Result:
    given = {"nbytes": 16, **output}
    reply = Reply(
        id="7",
        status="ok",
        outputs={"out": Output(**given)},  # type: ignore[arg-type]
        timings=Timings(kernel=5, total=20),
        cache=CacheUse(hits=2, misses=1),
        worker=WorkerInfo(host="box", pid=4, device="cpu", store=store),
    )
    return Result(reply, GRAPH, buffers, 0.5)


def test_inline_output_has_the_declared_dtype_and_shape() -> None:
    out = result(inline=VALUES.tobytes(), dtype="float32", shape=(4,))["out"]
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, VALUES)


def test_output_without_dtype_takes_the_graphs() -> None:
    assert result(inline=VALUES.tobytes())["out"].dtype == np.float32


def test_arrays_are_writable_and_stay_the_same() -> None:
    one = result(inline=VALUES.tobytes())
    one["out"][0] = 9
    assert one["out"][0] == 9
    assert one["out"].flags.owndata


def test_bytes_without_dtype_are_uint8() -> None:
    assert owned(b"abc", None, None).tolist() == [97, 98, 99]


def test_result_is_a_mapping_of_outputs() -> None:
    one = result(inline=VALUES.tobytes())
    assert (list(one), len(one), "out" in one, "x" in one) == (["out"], 1, True, False)
    assert one == one  # noqa: PLR0124 - a mapping would compare its arrays
    assert len({one, one}) == 1
    with pytest.raises(KeyError, match="nothing"):
        _ = one["nothing"]


def test_result_says_who_ran_it_and_how_long_it_took() -> None:
    one = result(inline=VALUES.tobytes(), dtype="float32", shape=(4,))
    assert (one.request_id, one.timings.kernel, one.cache.hits, one.worker.host) == ("7", 5, 2, "box")
    assert repr(one) == "<Result 7 {out: float32 (4,)}; kernel 5 us of 20 us on box cpu>"


def test_stored_output_is_read_when_it_is_looked_at(buffers: Buffers) -> None:
    ref = buffers.put(VALUES)
    one = result(buffers, ref=ref.ref, dtype="float32", shape=(4,))
    assert one.refs == {"out": BufferRef(ref=ref.ref, nbytes=16, dtype="float32", shape=(4,))}
    np.testing.assert_array_equal(one["out"], VALUES)
    one["out"][0] = 9  # a copy: the store is as it was
    np.testing.assert_array_equal(buffers.get(ref), VALUES)


def test_kept_output_is_a_reference_with_name_and_version(buffers: Buffers) -> None:
    ref = buffers.put(VALUES, name="y/1")
    one = result(buffers, ref=ref.ref, dtype="float32", shape=(4,), name="y/1", version=1)
    assert one.refs["out"] == ref
    assert buffers.get("y/1").tolist() == VALUES.tolist()


def test_result_can_be_read_after_the_client_was_closed(buffers: Buffers) -> None:
    ref = buffers.put(VALUES)
    buffers.close()
    np.testing.assert_array_equal(result(buffers, ref=ref.ref)["out"], VALUES)


def test_stored_output_without_a_store_says_so() -> None:
    with pytest.raises(BufferMissing, match=r"output 'out' lies in the worker's store .* this client has no store"):
        _ = result(ref="ab" * 32)["out"]


def test_output_that_is_gone_is_not_found(buffers: Buffers) -> None:
    buffers.put(b"other")
    assert buffers.id is not None
    with pytest.raises(NameNotFound) as caught:
        _ = result(buffers, buffers.id, ref="ab" * 32)["out"]
    assert "store" not in caught.value.detail.get("worker_store", "")


def test_output_in_another_store_names_both(buffers: Buffers) -> None:
    buffers.put(b"other")
    with pytest.raises(NameNotFound) as caught:
        _ = result(buffers, "11111111", ref="ab" * 32)["out"]
    assert "worker uses store 11111111" in caught.value.message
    assert str(buffers.id) in caught.value.message
    assert str(buffers.path) in caught.value.message


def test_output_of_another_size_than_declared_is_the_workers_fault() -> None:
    with pytest.raises(WorkerFailed, match="output 'out' came with bytes that are not float32"):
        _ = result(inline=b"123")["out"]
    with pytest.raises(WorkerFailed, match="neither bytes nor a ref"):
        _ = result()["out"]


def failed(error: KaasqError, store: str = "") -> Reply:
    worker = WorkerInfo(host="box", pid=4, device="cpu", store=store)
    return Reply(id="7", status="error", error=ErrorBody.of(error), worker=worker)


def test_error_reply_is_its_exception_with_the_requests_id() -> None:
    error = failure(failed(BufferSize(buffer="x", expected=16, given=12)))
    assert isinstance(error, BufferSize)
    assert (error.buffer, error.expected, error.request_id) == ("x", 16, "7")


def test_reply_without_a_reason_is_still_an_error() -> None:
    assert "ended as expired" in failure(Reply(id="7", status="expired")).message


def test_input_that_the_worker_cannot_find_because_it_uses_another_store(buffers: Buffers) -> None:
    buffers.put(b"x")
    missing = BufferMissing("input 'x': the store holds no object", buffer="x", ref="ab" * 32)
    error = failure(failed(missing, store="11111111"), buffers)
    assert type(error) is BufferMissing
    assert "worker uses store 11111111, but this client uses store" in error.message
    assert error.buffer == "x"
    assert failure(failed(missing, store=str(buffers.id)), buffers).message == missing.message


# ----------------------------------------------------------------------------------------------------------- buffers


@pytest.mark.parametrize(
    "value",
    [
        VALUES,
        VALUES.reshape(2, 2).T,
        np.float64(3),
        np.array([True, False]),
        np.array([1 + 2j], np.complex64),
        [[1, 2], [3, 4]],
    ],
)
def test_what_is_put_comes_back_with_dtype_and_shape(buffers: Buffers, value: object) -> None:
    back = buffers.get(buffers.put(value))
    expected = np.asarray(value)
    assert (back.dtype, back.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(back, expected)


def test_bytes_come_back_as_uint8_or_as_what_they_were_said_to_be(buffers: Buffers) -> None:
    assert buffers.get(buffers.put(b"abc")).tolist() == [97, 98, 99]
    ref = buffers.put(VALUES.tobytes(), dtype="float32", shape=(2, 2))
    assert buffers.get(ref).tolist() == VALUES.reshape(2, 2).tolist()
    assert buffers.put(VALUES.tobytes(), dtype=np.float32).shape == (4,)
    assert buffers.put(VALUES.data).dtype == "float32"


@pytest.mark.parametrize(
    ("value", "options", "says"),
    [
        (b"", {}, "0 bytes"),
        (np.zeros(0), {}, "0 bytes"),
        (np.array(["a"]), {}, "an array of <U1 cannot be stored"),
        (np.array([object()]), {}, "an array of object cannot be stored"),
        (VALUES.astype(">f4"), {}, "an array of >f4 cannot be stored"),
        (b"abc", {"dtype": "float32"}, "3 bytes were given: no whole number of float32, of 4 bytes each"),
        (b"abcd", {"dtype": "float32", "shape": (2,)}, "4 bytes were given, but float32 (2,) takes 8"),
        (b"abcd", {"shape": (4,)}, "a shape needs a dtype"),
        (b"abcd", {"dtype": "U1"}, "'U1' is no dtype"),
        (b"abcd", {"dtype": "nonsense"}, "'nonsense' is no dtype; known are bool, int8"),
        (VALUES, {"dtype": "float32"}, "an array says dtype and shape itself"),
    ],
)
def test_what_cannot_be_stored_is_refused(buffers: Buffers, value: object, options: dict, says: str) -> None:
    with pytest.raises(KaasqError) as caught:
        buffers.put(value, **options)
    assert says in caught.value.message


def test_names_can_be_listed_and_deleted(buffers: Buffers) -> None:
    for name in ("model/b", "model/a", "y/1"):
        buffers.put(name.encode(), name=name)
    assert [each.name for each in buffers.names("model/")] == ["model/a", "model/b"]
    buffers.delete("model/a")
    with pytest.raises(NameNotFound):
        buffers.get("model/a")
    with pytest.raises(NameNotFound):
        buffers.delete("model/a")


def test_key_is_a_name_a_ref_or_a_reference(buffers: Buffers) -> None:
    ref = buffers.put(VALUES, name="v")
    assert buffers.get("v").tolist() == buffers.get(ref.ref).tolist() == buffers.get(ref).tolist()
    with pytest.raises(KaasqError, match="given a int"):
        buffers.get(5)  # type: ignore[arg-type]


def test_tenants_do_not_see_each_other(buffers: Buffers) -> None:
    ref = buffers.put(VALUES, name="v")
    other = Buffers(buffers.path, "bob", capacity=1 << 26, sync=False)
    for key in ("v", ref):
        with pytest.raises(NameNotFound):
            other.get(key)
    other.close()


def test_refs_say_where_an_output_is_that_does_not_lie_in_the_store() -> None:
    refs = result(inline=VALUES.tobytes()).refs
    assert refs == {}
    assert refs.get("out") is None
    with pytest.raises(
        KeyError, match=r"'out' is not in the store: .* Bind result\['out'\] itself.* out=Keep\('...'\)"
    ):
        refs["out"]
    with pytest.raises(KeyError, match=r"no output 'outt'; there are 'out'"):
        refs["outt"]


def test_unknown_output_names_those_there_are() -> None:
    one = result(inline=VALUES.tobytes())
    with pytest.raises(KeyError, match=r"no output 'outt'; there are 'out'"):
        one["outt"]
    assert "outt" not in one
    assert one.get("outt") is None


def test_pickled_result_has_its_outputs_with_it(buffers: Buffers) -> None:
    ref = buffers.put(VALUES, name="y/1")
    one = result(buffers, ref=ref.ref, name="y/1", version=1)
    for read in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        buffers.close()
        np.testing.assert_array_equal(read["out"], VALUES)
        assert read["out"].dtype == np.float32
        assert read.refs == one.refs
        assert (read.request_id, read.elapsed, read.timings, read.worker) == ("7", 0.5, one.timings, one.worker)
        assert repr(read) == repr(one)


@pytest.mark.parametrize(
    ("dtype", "advice"), [(">f4", "array.astype('<f4')"), ("datetime64[s]", "array.tobytes() or a view as uint8")]
)
def test_array_that_cannot_be_stored_comes_with_advice(buffers: Buffers, dtype: str, advice: str) -> None:
    with pytest.raises(BadRequest) as caught:
        buffers.put(np.zeros(3, dtype))
    assert caught.value.message.endswith(f"store {advice}")

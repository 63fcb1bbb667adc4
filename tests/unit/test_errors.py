"""One tree of errors, each with a code of its own that survives the wire."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251 - errors must survive multiprocessing, which pickles them
from collections import Counter

import pytest

import kaasq
from kaasq import codec
from kaasq.errors import BadRequest, BufferSize, KaasqError, error_from_wire
from kaasq.messages import ErrorBody


def tree(base: type[KaasqError] = KaasqError) -> list[type[KaasqError]]:
    return [each for sub in base.__subclasses__() if sub.__module__ == "kaasq.errors" for each in (sub, *tree(sub))]


def test_codes_are_pinned_and_unique() -> None:
    codes = Counter(each.code for each in tree())
    assert max(codes.values()) == 1
    assert sorted(codes) == [
        "bad_arguments",
        "bad_request",
        "broker_lost",
        "broker_refused",
        "buffer_missing",
        "buffer_size",
        "cancelled",
        "conflict",
        "deadline_exceeded",
        "device_unavailable",
        "forbidden",
        "internal",
        "kernel_failed",
        "module_rejected",
        "name_not_found",
        "not_reached",
        "out_of_memory",
        "quota_exceeded",
        "reply_timeout",
        "slot_taken",
        "store_full",
        "store_unavailable",
        "unknown_graph",
        "unroutable",
    ]


def test_exported_names_are_pinned() -> None:
    assert sorted(kaasq.__all__) == sorted(
        [
            *(each.__name__ for each in tree()),
            "AsyncClient",
            "AsyncRun",
            "AsyncStep",
            "BufferRef",
            "Client",
            "Completion",
            "Event",
            "FlowResult",
            "Graph",
            "KaasqError",
            "Keep",
            "Module",
            "Output",
            "Result",
            "Retries",
            "Run",
            "Service",
            "Step",
            "Stored",
            "Then",
            "Workflow",
            "local",
            "local_async",
            "on",
            "repeat",
            "serve",
        ]
    )
    for name in kaasq.__all__:
        assert getattr(kaasq, name) is not None
    assert dir(kaasq) == sorted(kaasq.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = kaasq.nothing


@pytest.mark.parametrize("kind", tree())
@pytest.mark.parametrize("content_type", [codec.MSGPACK, codec.JSON])
def test_every_error_survives_the_wire(kind: type[KaasqError], content_type: str) -> None:
    error = kind("what happened", expected=4, where=["a"])
    body = codec.decode(codec.encode(ErrorBody.of(error), content_type), content_type, ErrorBody)
    back = body.exception()
    assert type(back) is kind
    assert (back.message, back.code, back.expected, back.where) == ("what happened", kind.code, 4, ["a"])


@pytest.mark.parametrize("kind", tree())
def test_every_error_can_be_copied_and_sent_between_processes(kind: type[KaasqError]) -> None:
    error = kind("what happened", expected=4)
    for back in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(back), str(back), back.expected) == (kind, "what happened", 4)


def test_details_from_outside_may_have_any_key() -> None:
    detail = {"message": "m", "self": 1, "code": "c", "detail": {}, "at": "x", "kind": 2}
    for kind in tree():
        assert error_from_wire(kind.code, "what happened", detail).detail == detail


def test_code_of_a_newer_worker_is_kept() -> None:
    error = error_from_wire("from_the_future", "what happened")
    assert type(error) is KaasqError
    assert error.code == "from_the_future"
    assert KaasqError.code == "internal"


def test_place_is_part_of_the_message_once() -> None:
    error = BadRequest("is 0", at="graph.launches[2].grid")
    assert str(error) == "graph.launches[2].grid: is 0"
    assert error.at == "graph.launches[2].grid"
    assert str(ErrorBody.of(error).exception()) == str(error)


def test_buffer_size_builds_its_message() -> None:
    error = BufferSize(buffer="x", expected=16, given=12)
    assert str(error) == "buffer 'x' is declared with 16 bytes, but 12 bytes were given"


def test_missing_field_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="KaasqError has no field 'buffer'"):
        _ = KaasqError("what happened").buffer


def test_timeouts_are_pythons_too() -> None:
    assert issubclass(kaasq.ReplyTimeout, TimeoutError)


def test_missing_names_are_missing_buffers() -> None:
    assert issubclass(kaasq.NameNotFound, kaasq.BufferMissing)

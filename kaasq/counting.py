"""Counts what there may only be so much of while it is read: decoded, tiny things take thirty times their bytes.

Only as much is decoded here as counting needs, and no further than there may be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec

from kaasq.errors import BadRequest


class _Left(threading.local):
    count = 0


_left = _Left()


class _Counted(msgspec.Struct, gc=False):
    def __post_init__(self) -> None:
        _left.count -= 1
        if _left.count < 0:
            raise ValueError


class Item(_Counted, gc=False):
    """Something in a list, in place of what it is. See ``allow_items``."""


class _Continuation(_Counted, gc=False):
    then: tuple[_Continuation, ...] = ()


class _Step(_Counted, gc=False):
    pass


class _Workflow(msgspec.Struct, gc=False):
    steps: tuple[_Step, ...] = ()


_Decode = Callable[[Any], object]
_continuations: tuple[_Decode, _Decode] = (
    msgspec.json.Decoder(tuple[_Continuation, ...]).decode,
    msgspec.msgpack.Decoder(tuple[_Continuation, ...]).decode,
)
_workflows: tuple[_Decode, _Decode] = (
    msgspec.json.Decoder(_Workflow).decode,
    msgspec.msgpack.Decoder(_Workflow).decode,
)


def check_continuations(then: msgspec.Raw, most: int, *, json: bool) -> None:
    """Raises BadRequest for more than ``most`` of them. What else may be wrong is for who decodes them to tell."""
    if _too_many(_continuations, then, most, json=json):
        raise BadRequest(f"more than {most} continuations, which is the limit", at="then")


def check_steps(workflow: bytes, most: int, *, json: bool) -> None:
    """The same for the steps of a workflow."""
    if _too_many(_workflows, workflow, most, json=json):
        raise BadRequest(f"more than {most} steps, which is the limit", at="workflow.steps")


def allow_items(most: int) -> None:
    """So many ``Item`` may be decoded in this thread; with the next one decoding fails."""
    _left.count = most


def check_items(most: int) -> None:
    """Whether that was why decoding failed. Raises BadRequest."""
    if _left.count < 0:
        raise BadRequest(f"more than {most} items in lists, which is the limit", at="bind")


def _too_many(forms: tuple[_Decode, _Decode], encoded: msgspec.Raw | bytes, most: int, *, json: bool) -> bool:
    _left.count = most
    try:
        forms[0 if json else 1](encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _left.count < 0
    return False

"""Workflows in files, for the command line: one alone, or one with what it is to start with."""

from __future__ import annotations

import msgspec

from kaasq import codec
from kaasq.errors import BadRequest
from kaasq.flows.model import FlowSpec, FlowStart
from kaasq.messages import PROTOCOL_VERSION
from kaasq_producers.commands.files import builtins_of, called, read_message
from kaasq_producers.commands.unknown_keys import unknown_keys


class _Top(msgspec.Struct):
    """Enough of a file to see what it is."""

    workflow: msgspec.Raw = msgspec.Raw()
    steps: msgspec.Raw = msgspec.Raw()
    kaasq: int = PROTOCOL_VERSION


def read_flow(path: str) -> tuple[FlowStart, list[str]]:
    """A workflow's start, or a workflow alone as a start that binds nothing; "-" is standard input. Unchecked.

    With it, what the file says in vain: its unknown keys. Raises BadRequest.
    """
    body, kind = read_message(path, "workflow")
    try:
        top = codec.decode(body, kind, _Top)
        codec.check_version(top.kaasq)
        if bytes(top.workflow):
            return codec.decode(body, kind, FlowStart), unknown_keys(builtins_of(body, kind), FlowStart)
        if bytes(top.steps):
            alone = FlowStart(workflow=codec.decode(body, kind, FlowSpec))
            return alone, unknown_keys(builtins_of(body, kind), FlowSpec)
    except BadRequest as error:
        raise BadRequest(error.message, at=called(path)) from None
    raise BadRequest(
        "is no workflow: expected one (`name`, `steps`, `graphs`), or one with what it is to start with (`workflow`, "
        "`bind`)",
        at=called(path),
    )

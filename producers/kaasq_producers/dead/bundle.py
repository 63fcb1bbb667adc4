"""A dead letter in a file, with the inputs that it needs from the store: to be run elsewhere, or looked at later.

A zip archive, so that people and programs can look into it: ``bundle.json`` says what the letter said and which input
lies where, ``request.json`` or ``request.msgpack`` is the request's body as it came, ``inputs/`` has the bytes.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

from kaasq import codec
from kaasq.checks import GraphLimits
from kaasq.dead_letter import DeadLetter
from kaasq.decode_errors import bad_request
from kaasq.errors import BadRequest, KaasqError, NameNotFound
from kaasq.messages import Request, Stored
from kaasq.model import GraphSpec
from kaasq_storage.protocol import BufferStore

VERSION = 1
MANIFEST = "bundle.json"
COPY_BYTES = 8 << 20


class Input(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A buffer that the request binds to something in the store. ``file`` None: it was not there any more."""

    buffer: str
    nbytes: int = 0
    ref: str | None = None
    name: str | None = None
    offset: int | None = None
    file: str | None = None


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What ``bundle.json`` says. ``notes``: why it may not run elsewhere as it is."""

    kaasq_bundle: int = VERSION
    id: str
    tenant: str | None
    code: str
    reason: str
    by: str
    buried_ms: int | None
    published_ms: int | None
    pool: str | None
    headers: dict[str, Any]
    content_type: str | None
    body: str
    inputs: tuple[Input, ...] = ()
    notes: tuple[str, ...] = ()


def write(
    path: Path, letter: DeadLetter, store: BufferStore | None, limits: GraphLimits, progress: Callable[[str], None]
) -> Bundle:
    """Write the bundle. The file appears whole or not at all.

    ``store``: the pool's, where the inputs lie; None if there is none here. Raises BadRequest if it cannot be written.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with zipfile.ZipFile(unfinished, "w") as archive:
            made = _write(archive, letter, store, limits, progress)
        unfinished.replace(path)
    except OSError as error:
        raise BadRequest(f"cannot write it: {error.strerror or error}", at=str(path)) from None
    finally:
        unfinished.unlink(missing_ok=True)
    return made


def is_bundle(path: str | Path) -> bool:
    """Whether that file is one."""
    try:
        return zipfile.is_zipfile(path)
    except OSError:
        return False


def read(path: str | Path, limits: GraphLimits) -> tuple[Request, list[str]]:
    """The request in a bundle, its inputs bound to their bytes; and what may keep it from running.

    Raises BadRequest.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bundle = _manifest(archive)
            body = _member(archive, bundle.body)
            request = codec.RequestDecoder(limits).decode(body, bundle.content_type)
            inputs = {each.buffer: _member(archive, each.file) for each in bundle.inputs if each.file is not None}
    except OSError as error:
        raise BadRequest(f"cannot read it: {error.strerror}", at=str(path)) from None
    except (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, RuntimeError) as error:  # zipfile's own
        raise BadRequest(f"is no whole bundle of `kaasq dead export`: {error}", at=str(path)) from None
    if isinstance(request.graph, str):
        raise BadRequest("the request names its graph by its hash only, so it cannot be run elsewhere", at="graph")
    return msgspec.structs.replace(request, bind={**request.bind, **inputs}), list(bundle.notes)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's bytes. It is stored as it is, so it takes no more memory than the file has. Raises BadRequest."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise BadRequest(
            "is compressed, and `kaasq dead export` stores: it was packed anew (zip -0 is possible)", at=name
        )
    return archive.read(name)


def _manifest(archive: zipfile.ZipFile) -> Bundle:
    text = _member(archive, MANIFEST)
    try:
        bundle = msgspec.json.decode(text, type=Bundle)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(error, text, json=True, kind=Bundle, prefix=MANIFEST) from None
    if bundle.kaasq_bundle != VERSION:
        raise BadRequest(f"version {bundle.kaasq_bundle} of a bundle; this kaasq reads {VERSION}", at=MANIFEST)
    return bundle


def _write(
    archive: zipfile.ZipFile,
    letter: DeadLetter,
    store: BufferStore | None,
    limits: GraphLimits,
    progress: Callable[[str], None],
) -> Bundle:
    message = letter.request
    kind = codec.reply_type(message.body, message.content_type)
    name = "request.json" if kind == codec.JSON else "request.msgpack"
    archive.writestr(name, message.body)
    inputs: list[Input] = []
    notes: list[str] = []
    try:
        request = codec.RequestDecoder(limits).decode(message.body, message.content_type)
    except KaasqError as error:
        notes.append(f"the request cannot be read: {error.message}")
    else:
        notes += _needs(request)
        for buffer, bound in request.bind.items():
            if isinstance(bound, Stored):
                progress(f"input {buffer}")
                inputs.append(_input(archive, buffer, bound, request, letter.tenant, store, len(inputs)))
        notes += [
            f"input {each.buffer!r} ({each.name or each.ref}) is not in the store any more: give it with "
            f"--input {each.buffer}=FILE"
            for each in inputs
            if each.file is None
        ]
    bundle = Bundle(
        id=letter.id,
        tenant=letter.tenant,
        code=letter.code,
        reason=letter.reason,
        by=letter.by,
        buried_ms=letter.buried_ms,
        published_ms=message.timestamp_ms,
        pool=letter.pool,
        headers={name: _plain(value) for name, value in message.headers.items() if isinstance(value, (bool, int, str))},
        content_type=message.content_type,
        body=name,
        inputs=tuple(inputs),
        notes=tuple(notes),
    )
    archive.writestr(MANIFEST, json.dumps(msgspec.to_builtins(bundle), indent=2))
    return bundle


def _plain(value: bool | int | str) -> bool | int | str:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value  # AMQP's have other types


def _needs(request: Request) -> list[str]:
    """What beside inputs a request needs that is not in it."""
    if isinstance(request.graph, str):
        return [f"the request names its graph by its hash only ({request.graph[:64]}): the graph is not here"]
    libraries = sorted({each.path for each in request.graph.modules.values() if each.kind == "library"})
    return [f"it needs library {each!r} with the worker that runs it (--modules)" for each in libraries]


def _input(
    archive: zipfile.ZipFile,
    buffer: str,
    bound: Stored,
    request: Request,
    tenant: str | None,
    store: BufferStore | None,
    number: int,
) -> Input:
    made = Input(buffer=buffer, ref=bound.ref, name=bound.name, offset=bound.offset)
    if store is None or tenant is None or (bound.ref is None) == (bound.name is None):
        return made
    spec = request.graph.buffer(buffer) if isinstance(request.graph, GraphSpec) else None
    try:
        found = store.lookup(tenant, ref=bound.ref, name=bound.name)
        with store.open(tenant, found.ref) as reading, archive.open(f"inputs/{number}", "w", force_zip64=True) as file:
            start = bound.offset or 0
            end = found.nbytes if bound.offset is None or spec is None else min(found.nbytes, start + spec.size)
            _copy(reading.data, start, end, file)
    except NameNotFound:
        return made
    except KaasqError as error:
        raise BadRequest(f"input {buffer!r} cannot be read from the store: {error.message}") from None
    return msgspec.structs.replace(made, ref=found.ref, nbytes=end - start, file=f"inputs/{number}")


def _copy(data: memoryview, start: int, end: int, file: IO[bytes]) -> None:
    for at in range(start, end, COPY_BYTES):
        file.write(data[at : min(end, at + COPY_BYTES)])

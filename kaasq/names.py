"""What the words of kaasq may look like: tenants and other words of routing keys, names, references, request ids."""

from __future__ import annotations

import re

from kaasq.errors import BadRequest

NAME_BYTES = 400  # of a name in UTF-8: LMDB's keys have at most 511 bytes, the tenant included
REQUEST_ID_BYTES = 128  # a UUID has 36; AMQP could carry 255

WORD = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)
NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
REF = re.compile(r"[0-9a-f]{64}", re.ASCII)
GRAPH_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)


def is_word(text: str) -> bool:
    """Whether it may be a tenant, pool, slot or reply id: a word of routing keys and queue names, and a folder."""
    return WORD.fullmatch(text) is not None


def is_ref(text: str) -> bool:
    """Whether it may be the content hash of a stored object."""
    return REF.fullmatch(text) is not None


def is_graph_name(text: str) -> bool:
    """Whether a graph may be called so: words with dots between, for it becomes a part of routing keys."""
    return GRAPH_NAME.fullmatch(text) is not None


def check_word(value: object, what: str, at: str | None = None) -> str:
    """A tenant, pool, slot or reply id as part of a routing key. Raises BadRequest if it could not be one, naming the
    place, ``at``, if that is another than ``what`` says.
    """
    if not isinstance(value, str) or not is_word(value):
        raise BadRequest(
            f"{_shown(value, 80)} is no {what}: use lower-case letters, digits, '_' and '-', at most 64", at=at or what
        )
    return value


def check_printable(name: object, at: str | None = None) -> str:
    """A name of any kind, of a buffer or scalar in a graph for one. Raises BadRequest for what is no name."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadRequest(f"{_shown(name, 64)} is no name: 1 to 200 printable characters", at=at)
    return name


def _shown(value: object, length: int) -> str:
    return repr(value[:length]) if isinstance(value, str) else f"{value!r:.{length}} (a {type(value).__name__})"


def check_name(name: object, at: str | None = None) -> bytes:
    """The bytes of a name in the store. Raises BadRequest for what is no such name."""
    name = check_printable(name, at)
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{name[:64]!r} is no name: it cannot be written in UTF-8", at=at) from None
    if len(encoded) > NAME_BYTES:
        raise BadRequest(f"{name[:64]!r}... takes {len(encoded)} bytes in UTF-8; a name may take {NAME_BYTES}", at=at)
    return encoded


def is_request_id(request_id: str) -> bool:
    """Whether it can be a request's id."""
    return 1 <= len(request_id.encode(errors="surrogatepass")) <= REQUEST_ID_BYTES


def check_request_id(request_id: object) -> bytes:
    """A request id's bytes as the store keeps them. Raises BadRequest for what is none."""
    if not isinstance(request_id, str):
        raise BadRequest(f"expected a request's id, given a {type(request_id).__name__}", at="message_id")
    encoded = request_id.encode(errors="surrogatepass")
    if not 1 <= len(encoded) <= REQUEST_ID_BYTES:
        raise BadRequest(
            f"a request needs an id of 1 to {REQUEST_ID_BYTES} bytes, this one has {len(encoded)}", at="message_id"
        )
    return encoded

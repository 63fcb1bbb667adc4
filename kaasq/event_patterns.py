"""Which events a subscription is about: patterns as users write them, and the binding keys that they mean. Pure."""

from __future__ import annotations

import difflib
import re

from kaasq.errors import BadRequest
from kaasq.messages import EVENT_WORDS

OUTCOMES = tuple(EVENT_WORDS.values())
KEY_BYTES = 255  # AMQP's own bound
PATTERNS = 64  # of one subscription: each is a binding

_WORD = re.compile(r"[A-Za-z0-9_-]+|[*#]", re.ASCII)
_ANY = {"*", "#"}


def binding_keys(patterns: tuple[str, ...], tenant: str) -> tuple[str, ...]:
    """The keys under which a queue is bound for those patterns of that tenant's events, each once, in order.

    A pattern is ``<graph name>.<completed|failed|cancelled|expired>``; ``*`` stands for one word, ``#`` for any number
    of words. One that begins with the tenant's name may also be the whole key, so it is bound in both readings.
    Raises BadRequest for what can match no event.
    """
    if not 1 <= len(patterns) <= PATTERNS:
        raise BadRequest(f"expected 1 to {PATTERNS} patterns, given {len(patterns)}", at="events")
    keys = [key for each in patterns for key in _keys(each, tenant)]
    return tuple(dict.fromkeys(keys))


def _keys(pattern: str, tenant: str) -> list[str]:
    if not isinstance(pattern, str):
        raise BadRequest(f"a pattern of events is a str, given a {type(pattern).__name__}", at="events")
    words = pattern.split(".")
    for word in words:
        if not _WORD.fullmatch(word):
            raise BadRequest(
                f"{pattern[:80]!r} is no pattern of events: {word[:40]!r} is neither a word of a graph's name "
                f"(letters, digits, '_', '-') nor '*' (one word) or '#' (any number of words)",
                at="events",
            )
    if words[-1] not in {*OUTCOMES, *_ANY}:
        near = difflib.get_close_matches(words[-1], OUTCOMES, 1, cutoff=0.75) if len(words) > 1 else []
        meant = ".".join([*words[:-1], *near]) if near else f"{pattern}.*"
        raise BadRequest(
            f"{pattern[:80]!r} can match no event: the last word says how the request ended, one of "
            f"{', '.join(OUTCOMES)}, or '*' or '#'; did you mean {meant[:90]!r}?",
            at="events",
        )
    if len(words) == 1 and words[0] != "#":
        raise BadRequest(
            f"{pattern[:80]!r} can match no event: before how the request ended comes the graph's name; did you mean "
            f"{'#.' + pattern[:80]!r}?",
            at="events",
        )
    keys = [f"{tenant}.{pattern}"]
    if words[0] == tenant and (len(words) > 2 or words[1] == "#"):
        keys.append(pattern)
    if len(keys[0]) > KEY_BYTES:
        raise BadRequest(f"{pattern[:80]!r}... is longer than a routing key may be ({KEY_BYTES} bytes)", at="events")
    return keys

"""KaaS requests from a file, JSON or a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kaasq.checks import GraphLimits
from kaasq.errors import BadRequest
from kaasq.kaas.format import Envelope
from kaasq.kaas.request import KaasRequest
from kaasq.kaas.translation import translate
from kaasq.reading import Reader

_envelopes = Reader(Envelope)


def load(source: Mapping[str, Any] | bytes | str | Path, *, limits: GraphLimits | None = None) -> KaasRequest:
    """The KaaS request in a dictionary (such as the original's ``toDict`` makes), in JSON bytes, or in a file.

    Raises BadRequest naming the place of what is wrong (``kernels[1].arguments[0].size``), OSError for the file.
    """
    if isinstance(source, (str, Path)):
        body = Path(source).read_bytes()
    elif isinstance(source, Mapping):
        try:
            body = msgspec.json.encode(source, enc_hook=_plain)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise BadRequest(f"this dictionary is no JSON: {error}", at="body") from None
    else:
        body = source
    envelope: Envelope = _envelopes.read(body, json=True)
    if not bytes(envelope.kernels):
        raise BadRequest("has no 'kernels': the list of launches that makes it a KaaS request", at="body")
    made = translate(envelope, limits or GraphLimits(), json=True)
    return complete(made, envelope)


def complete(made: KaasRequest, envelope: Envelope) -> KaasRequest:
    """The request with what its envelope says beside the kernels: other keys, then bindings and names to keep."""
    made = made.with_keys(envelope.keys)
    if not envelope.bind and not envelope.keep:
        return made
    return KaasRequest(graph=made.graph, bind={**made.bind, **envelope.bind}, keep={**made.keep, **envelope.keep})


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, paths as text."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be written in JSON")

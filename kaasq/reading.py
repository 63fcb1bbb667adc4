"""Typed values from MessagePack or JSON. What does not fit becomes a BadRequest that names the place."""

from __future__ import annotations

from typing import Any

import msgspec

from kaasq.decode_errors import bad_request


class Reader:
    """Both decoders of a type, made once: that takes longer than decoding a request."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._msgpack = msgspec.msgpack.Decoder(kind)
        self._json = msgspec.json.Decoder(kind)

    def read(self, body: bytes | memoryview, *, json: bool, prefix: str = "") -> Any:
        """A value of the type. Raises BadRequest, with ``prefix`` before the place."""
        try:
            return self._json.decode(body) if json else self._msgpack.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise bad_request(error, body, json=json, kind=self._kind, prefix=prefix) from None

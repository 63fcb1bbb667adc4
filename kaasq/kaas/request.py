"""A KaaS request as kaasq runs it: a graph, what it binds, under which names its outputs are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import msgspec

from kaasq.errors import BadRequest
from kaasq.messages import Binding, Stored
from kaasq.model import GraphSpec
from kaasq.names import check_name


class KaasRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``client.run(request)`` runs it; what the call binds or keeps comes before what the request says.

    ``graph`` depends on neither keys nor data, so that requests which differ in these alone share a graph.
    """

    graph: GraphSpec
    bind: Mapping[str, Binding]
    keep: Mapping[str, str]

    def with_keys(self, keys: Mapping[str, str]) -> Self:
        """The same request with other keys (names in the store) for some of its buffers.

        An input is then read from the new key, at the same offset; an output is kept under it; an inout both. Raises
        BadRequest for what is no input or output of it, and for two outputs with one key.
        """
        if not keys:
            return self
        bind, keep = dict(self.bind), dict(self.keep)
        for name, key in keys.items():
            at = f"keys.{name:.80}"
            if name not in bind and name not in keep:
                known = ", ".join(list(dict.fromkeys((*bind, *keep)))[:20]) or "none"
                raise BadRequest(f"the request has no input or output {name!r:.80}; it has {known}", at=at)
            check_name(key, at)
            if name in bind:
                bound = bind[name]
                bind[name] = Stored(name=key, offset=bound.offset if isinstance(bound, Stored) else 0)
            if name in keep:
                keep[name] = key
        if len(set(keep.values())) < len(keep):
            raise BadRequest("two outputs cannot be kept under one key", at="keys")
        return msgspec.structs.replace(self, bind=bind, keep=keep)

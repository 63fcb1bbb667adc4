"""How large a model may be, before anything of it is read or computed."""

from __future__ import annotations

import msgspec

from kaasq.checks import GraphLimits


class OnnxLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What ``load`` takes at most. Counts, and bytes where the name says so."""

    model_bytes: int = 4 << 30
    """The file and its external data together, or the bytes given."""
    nodes: int = 50_000
    folded_bytes: int = 1 << 30
    """All constants together that are computed while importing. One is small, but a file can ask for a huge one."""
    graph: GraphLimits = GraphLimits()

"""The KaaS format as data, in both of its spellings. Names are the format's own.

The format is that of the Kernel-as-a-Service system of N. Pemberton et al. (arXiv:2212.08146): the spelling of its
README (``nGrid``, ``nBlock``, pairs of buffer and type), and that of its code (``gridDim``, ``type_list``, literals).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from kaasq.messages import MOST, RequestOf

Bytes = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
Dims = int | tuple[int, ...]


class BufferSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One use of a buffer. ``key`` (the name, if left out) is its name in the store; sizes in bytes."""

    name: str
    size: Annotated[int, msgspec.Meta(ge=1, le=MOST)]
    offset: Bytes = 0
    key: str | None = None
    ephemeral: bool = False
    const: bool = False


class LiteralSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An argument passed by value; ``type`` is a letter of Python's ``struct``."""

    type: str
    val: bool | int | float


class KernelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One launch. The kernel's parameters are the literals first, then the buffers of ``arguments``."""

    library: str
    kernel: str
    gridDim: Dims | None = None  # noqa: N815 - the format's spelling, here and below
    nGrid: Dims | None = None  # noqa: N815
    blockDim: Dims | None = None  # noqa: N815
    nBlock: Dims | None = None  # noqa: N815
    sharedSize: Bytes = 0  # noqa: N815
    literals: tuple[LiteralSpec, ...] = ()
    arguments: tuple[tuple[BufferSpec, str] | BufferSpec, ...] = ()
    type_list: tuple[str, ...] | None = None
    # The original's code writes these as well; they say again what the arguments say.
    inputs: msgspec.Raw = msgspec.Raw()
    outputs: msgspec.Raw = msgspec.Raw()
    temps: msgspec.Raw = msgspec.Raw()


class Envelope(RequestOf[msgspec.Raw], frozen=True, kw_only=True, omit_defaults=True):
    """A request as it arrives, its graph still encoded: either ``graph``, or ``kernels`` in the KaaS format.

    ``keys`` gives buffers of the latter other keys than their specs do.
    """

    graph: msgspec.Raw = msgspec.Raw()
    kernels: msgspec.Raw = msgspec.Raw()
    nIter: msgspec.Raw = msgspec.Raw()  # noqa: N815
    name: msgspec.Raw = msgspec.Raw()
    keys: dict[str, str] = msgspec.field(default_factory=dict)
    then: msgspec.Raw = msgspec.Raw()  # type: ignore[assignment]  # still encoded, as the graph is

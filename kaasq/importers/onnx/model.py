"""What an import gives: a graph, the weights that it takes as inputs, and how the model called what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from kaasq.model import GraphSpec

if TYPE_CHECKING:
    from kaasq_producers import BufferRef

Array = npt.NDArray[Any]


class Storing(Protocol):
    """A client, as far as weights concern it."""

    def put(self, value: Any, name: str | None = None) -> BufferRef:
        """Store an array under a name."""


class AsyncStoring(Protocol):
    """The same of an asynchronous client."""

    async def put(self, value: Any, name: str | None = None) -> BufferRef:
        """Store an array under a name."""


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """A model as a graph.

    Upload the weights once, then run it with the inputs alone::

        model = kaasq.importers.onnx.load("digits.onnx", batch=8)
        weights = model.upload(client, "models/digits")
        client.run(model.graph, bind=weights, x=images)["logits"]

    ``weights`` are read-only arrays by buffer; ``inputs`` and ``outputs`` map the model's names to those of the graph's
    buffers, which differ only where a name could not be a buffer's. An input that no output depends on is left out.
    """

    graph: GraphSpec
    weights: Mapping[str, Array]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    def upload(self, client: Storing, prefix: str) -> dict[str, BufferRef]:
        """Store the weights, each as ``prefix/buffer``, and give what to bind.

        Equal contents are stored once, so doing it again costs reading them. Raises what ``client.put`` raises.
        """
        return {name: client.put(array, f"{prefix}/{name}") for name, array in self.weights.items()}

    async def upload_async(self, client: AsyncStoring, prefix: str) -> dict[str, BufferRef]:
        """The same through an asynchronous client; one after another, so that one array at a time is in memory."""
        return {name: await client.put(array, f"{prefix}/{name}") for name, array in self.weights.items()}

    @property
    def weight_bytes(self) -> int:
        """Size of all weights together."""
        return sum(each.nbytes for each in self.weights.values())

    @property
    def temp_bytes(self) -> int:
        """Device memory that a request needs beside inputs, outputs and weights."""
        return sum(each.nbytes for each in self.graph.buffers if each.role == "temp")

    def __repr__(self) -> str:
        return (
            f"<OnnxModel {self.graph.name!r}: {', '.join(self.inputs)} -> {', '.join(self.outputs)}; "
            f"{len(self.graph.launches)} launches, {self.weight_bytes / 1e6:.2g} MB of weights>"
        )

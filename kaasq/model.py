"""The graph as data: frozen types with one canonical encoding, whose hash identifies the graph.

These are the wire types. ``kaasq.graph.Graph`` builds them from Python; a program in another language writes them as
JSON. A launch's ``args`` name a buffer or a scalar of the graph (they share one namespace) or hold a constant. Its
``module`` names one of the graph's modules, or is ``kaasq``: then the kernel is a built-in.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from blake3 import blake3

from kaasq import signing
from kaasq.dtypes import itemsize
from kaasq.errors import BadRequest

Role = Literal["input", "output", "inout", "temp"]
ModuleKind = Literal["source", "ptx", "cubin", "fatbin", "library"]
Dim3 = tuple[int, int, int]
Number = bool | int | float
# Lists inside are for values per argument or per axis; null stands for "as declared".
Attribute = bool | int | float | str | tuple[int | float | str | tuple[int, ...] | None, ...]

BUILTINS = "kaasq"
"""The module that every graph has without carrying it: the kernels that kaasq ships (``kaasq.builtins``)."""

MODULE_SUFFIXES: dict[str, ModuleKind] = {
    ".cu": "source",
    ".cuh": "source",
    ".cpp": "source",
    ".ptx": "ptx",
    ".cubin": "cubin",
    ".fatbin": "fatbin",
}
_canonical = msgspec.msgpack.Encoder(order="deterministic")


def content_hash(data: bytes | bytearray | memoryview) -> str:
    """The hash by which kaasq addresses contents: BLAKE3, 64 hexadecimal digits."""
    return blake3(data).hexdigest()


class Kernel(NamedTuple):
    """A kernel of a module, by name or, for a template, by name expression (``scale<float>``)."""

    module: Module
    name: str


class Module(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """A piece of device code: CUDA C++ in ``source``, PTX, cubin or fatbin in ``code``, or one that the worker has.

    For the latter, kind ``library``, ``path`` is a file below the worker's module folders (``kaasq worker --modules``)
    or, after an ``@``, a name in the store. ``options`` are compiler options for source: ``-DNAME=VALUE``,
    ``-std=c++17``, ``--use_fast_math``.

    ``signature`` is for workers that run signed modules only (``kaasq sign``). It is no part of the hash: it is of it.
    """

    kind: ModuleKind = "source"
    source: str = ""
    code: bytes = b""
    path: str = ""
    options: tuple[str, ...] = ()
    signature: bytes = b""

    @classmethod
    def from_source(cls, source: str, *, options: tuple[str, ...] = (), signature: bytes = b"") -> Module:
        """A module from CUDA C++ source text."""
        return cls(source=source, options=tuple(options), signature=signature)

    @classmethod
    def from_file(cls, path: str | Path, *, options: tuple[str, ...] = (), signature: bytes | None = None) -> Module:
        """A module from a ``.cu``, ``.ptx``, ``.cubin`` or ``.fatbin`` file. Raises BadRequest, OSError.

        Its signature is that in the file's ``.sig``, if there is one, unless another is given.
        """
        path = Path(path)
        if signature is None:
            beside = path.with_name(path.name + signing.SUFFIX)
            signature = signing.read_signature(beside) if beside.exists() else b""
        kind = MODULE_SUFFIXES.get(path.suffix)
        if kind is None:
            raise BadRequest(f"{path.name}: a module file ends in one of {', '.join(MODULE_SUFFIXES)}", at="module")
        if kind == "source":
            try:
                return cls.from_source(path.read_text(encoding="utf-8"), options=options, signature=signature)
            except UnicodeDecodeError as error:
                raise BadRequest(f"{path.name}: the source is not UTF-8: {error.reason}", at="module") from None
        return cls(kind=kind, code=path.read_bytes(), signature=signature)

    @classmethod
    def from_library(cls, path: str, *, options: tuple[str, ...] = ()) -> Module:
        """A module that lies with the worker: a file below its module folders, or ``@name`` in the store."""
        return cls(kind="library", path=path, options=tuple(options))

    def kernel(self, name: str) -> Kernel:
        """The kernel of that name. Whether it exists shows when a device loads the module."""
        return Kernel(self, name)

    def __repr__(self) -> str:
        # Not the code itself: kilobytes of it in every log, traceback and notebook help nobody.
        held = f"{len(self.source)} characters" if self.kind == "source" else self.path or f"{len(self.code)} bytes"
        return f"<Module {self.kind}: {held}, {self.hash[:12]}>"

    @cached_property
    def hash(self) -> str:
        """Content hash of the canonical encoding."""
        # Field by field: msgspec leaves defaults out by identity, and a decoded or unpickled "source" is another one.
        parts = (self.kind, self.source, self.code, self.path, self.options)
        return content_hash(b"kaasq module 1\0" + _canonical.encode(parts))


class Buffer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Named bytes in a graph. ``nbytes`` may be left out where dtype and shape say it."""

    name: str
    role: Role
    nbytes: int = -1
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    const: bool = False

    @property
    def size(self) -> int:
        """Size in bytes, as declared or as dtype and shape say; -1 if neither does."""
        if self.nbytes >= 0 or self.dtype is None or self.shape is None:
            return self.nbytes
        return math.prod(self.shape) * itemsize(self.dtype)

    @property
    def given(self) -> bool:
        """Whether a request must bind data to it."""
        return self.role in {"input", "inout"}

    @property
    def returned(self) -> bool:
        """Whether the reply carries it."""
        return self.role in {"output", "inout"}


class Scalar(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An argument passed by value that a request may rebind; without a default it must."""

    name: str
    dtype: str
    default: Number | None = None


class Constant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An argument fixed in the graph: a number of ``dtype``, or with dtype "bytes" a struct's raw ``data``."""

    dtype: str
    value: Number = 0
    data: bytes = b""


class Launch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One kernel invocation. ``grid`` counts blocks, ``block`` threads, x first; left-out dimensions are 1.

    A built-in has neither; its ``attrs`` say what the code is to be (axes, transposes), its ``args`` what it works on.
    """

    module: str
    kernel: str
    grid: int | tuple[int, ...] = 1
    block: int | tuple[int, ...] = 1
    args: tuple[str | Constant, ...] = ()
    shared_bytes: int = 0
    attrs: dict[str, Attribute] = {}


class GraphSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """An ordered list of launches over named buffers, run ``iterations`` times.

    Outputs and temps hold zeros when the first launch starts.
    """

    name: str
    buffers: tuple[Buffer, ...] = ()
    scalars: tuple[Scalar, ...] = ()
    modules: dict[str, Module] = {}
    launches: tuple[Launch, ...] = ()
    iterations: int = 1

    def buffer(self, name: str) -> Buffer | None:
        """The buffer of that name, or None."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, Buffer]:
        return {each.name: each for each in self.buffers}

    @cached_property
    def wanted(self) -> dict[str, int] | None:
        """Bytes of each buffer that has to be bound, where that is all that a request must bring."""
        if any(each.default is None for each in self.scalars):
            return None
        return {each.name: each.nbytes for each in self.buffers if each.given}

    @cached_property
    def hash(self) -> str:
        """The graph's identity: content hash of its canonical encoding. Meaningful on a checked graph only."""
        parts = (self.name, self.buffers, self.scalars, sorted(self.modules), self.launches, self.iterations)
        return content_hash(b"kaasq graph 1\0" + _canonical.encode(parts))


def dim3(value: int | tuple[int, ...]) -> Dim3:
    """(x, y, z), with 1 for what is left out."""
    given = (value,) if isinstance(value, int) else value
    x, y, z = (*given, 1, 1, 1)[:3]
    return x, y, z

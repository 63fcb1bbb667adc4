"""Compiles modules, and the runtime they are linked with, to shared libraries: through the cache, each one once."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path

from kaasq.errors import ModuleRejected
from kaasq.model import Module, content_hash
from kaasq_workers.devices.code_cache import CodeCache, code_key
from kaasq_workers.devices.cpu.module import shared_trailer
from kaasq_workers.devices.cpu.processor import processor_features
from kaasq_workers.devices.cpu.shared_memory import static_shared
from kaasq_workers.devices.cpu.source import Source
from kaasq_workers.devices.cpu.toolchain import MESSAGE_CHARS, Toolchain
from kaasq_workers.devices.cpu.translation import USER_FILE, check_name, rejection, translate_options, translation_unit
from kaasq_workers.devices.rejections import LOG_CHARS

_HERE = Path(__file__).parent
PRELUDE = _HERE / "prelude"
RUNTIME = _HERE / "runtime"

_MATH = ("-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing")


class Builder:
    """Compiles modules and their runtime with one compiler, through one cache.

    ``guard``: every access to a buffer is an instruction of the module's own, so that its faults can be told apart.
    """

    def __init__(self, toolchain: Toolchain, code_cache: CodeCache, *, guard: bool = False) -> None:
        self.toolchain = toolchain
        self.cache = code_cache
        self._flags = (*_MATH, *toolchain.no_library_copies()) if guard else _MATH

    @cached_property
    def runtime(self) -> bytes:
        """The runtime library that every module is linked with."""
        return self.cache.get_or_make(self.runtime_key, self._compile_runtime)

    def module(self, module: Module, kernels: tuple[str, ...]) -> bytes:
        """A module's library with a table of those kernels. Raises ModuleRejected."""
        runtime = self.runtime  # before a lock is taken for the module: locks are shared by keys, and do not nest
        key = self._key("module", *self._flags, module.hash, *kernels)
        return self.cache.get_or_make(key, lambda: self._compile(module, kernels, runtime))

    @cached_property
    def runtime_key(self) -> str:
        """The cache's key for the runtime."""
        return self._key("runtime")

    @property
    def runtime_name(self) -> str:
        """The name under which the dynamic loader knows the runtime, so that modules find the one that is loaded."""
        return f"libkaasq-cpu-{self.runtime_key[:16]}.so"

    def _key(self, *parts: str) -> str:
        command, options = shlex.join(self.toolchain.command), shlex.join(self.toolchain.options())
        return code_key(command, self.toolchain.version, options, _ours(), processor_features(), *parts)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self.cache.work))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _compile_runtime(self) -> bytes:
        with self._folder() as folder:
            output = folder / "runtime.so"
            name = f"-Wl,-soname,{self.runtime_name}"
            arguments = [
                "-std=c++17",
                "-fvisibility=default",
                f"-I{PRELUDE}",
                str(RUNTIME / "runtime.cpp"),
                "-o",
                str(output),
                name,
            ]
            built, said = self.toolchain.compile(arguments, folder)
            if not built:
                reason = said.strip()[:MESSAGE_CHARS]
                raise ModuleRejected(f"the cpu device's runtime does not compile: {reason}", log=said[:LOG_CHARS])
            return output.read_bytes()

    def _compile(self, module: Module, kernels: tuple[str, ...], runtime: bytes) -> bytes:
        defines, flags = translate_options(module.options)
        source = Source(module.source, defines)
        unsupported = source.unsupported()
        for construct in unsupported:
            if not construct.conditional:
                raise construct.rejection()
        known = source.kernels()
        for name in kernels:
            check_name(name, source, known)
        with self._folder() as folder:
            (folder / USER_FILE).write_text(module.source)  # the compiler quotes lines from it
            (folder / "runtime.so").write_bytes(runtime)
            output = folder / "module.so"
            arguments = [*self._flags, *flags, f"-I{PRELUDE}", f"-I{PRELUDE / 'include'}", "module.cpp", "runtime.so"]
            for second_forms in (True, False) if source.strided() else (False,):
                unit = translation_unit(source, known, kernels, defines, second_forms=second_forms)
                (folder / "module.cpp").write_text(unit)
                built, said = self.toolchain.compile([*arguments, "-Wl,--no-undefined", "-o", str(output)], folder)
                if built:
                    library = output.read_bytes()
                    return library + shared_trailer(static_shared(library, source.reachable(name)) for name in kernels)
        said = said.replace(f"{folder}/", "").replace(f"{PRELUDE}/", "")
        if unsupported:  # within an #if, and it was compiled after all
            raise unsupported[0].rejection(said[:LOG_CHARS])
        raise rejection(said, kernels, known)


@cache
def _ours() -> str:
    """A hash of all that a library depends on here: a new version of kaasq compiles anew."""
    files = sorted(path for path in _HERE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return content_hash(b"\0".join(path.name.encode() + b"\0" + path.read_bytes() for path in files))

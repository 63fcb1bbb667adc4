"""From a module to a shared library: the translation unit, the compiler's options, the cache's key, the errors."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path

import msgspec

from kaasq.errors import ModuleRejected
from kaasq.model import Module, content_hash
from kaasq_workers.devices.cpu.cache import CodeCache
from kaasq_workers.devices.cpu.source import KernelSource, Source
from kaasq_workers.devices.cpu.toolchain import LOG_CHARS, MESSAGE_CHARS, Toolchain, diagnostics

THREADS_PER_BLOCK = 1024
USER_FILE = "kernel.cu"
TABLE_FILE = "kernels"

_HERE = Path(__file__).parent
PRELUDE = _HERE / "prelude"
RUNTIME = _HERE / "runtime"

_NAME_EXPRESSION = re.compile(r"[A-Za-z_:][\w:<>,*&\s()+-]*")
# C library functions that the prelude's headers declare: a kernel of that name is renamed, or it would not compile.
_TAKEN_NAMES = frozenset({
    "abort", "abs", "atexit", "bsearch", "clock", "div", "drand48", "drem", "exit", "gamma", "index", "j0", "j1", "jn",
    "labs", "ldiv", "qsort", "rand", "random", "realpath", "remove", "rename", "rindex", "select", "signal",
    "significand", "system", "time", "y0", "y1", "yn",
})  # fmt: skip
# NaN and infinity stay what they are, as with CUDA's own option of that name.
_FAST_MATH = ("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros")
_MATH = ("-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing")


class Builder:
    """Compiles modules and their runtime with one compiler, through one cache."""

    def __init__(self, toolchain: Toolchain, code_cache: CodeCache) -> None:
        self.toolchain = toolchain
        self.cache = code_cache

    def runtime(self) -> bytes:
        """The runtime library that every module is linked with."""
        return self._once(self.runtime_key, self._compile_runtime)

    def module(self, module: Module, kernels: tuple[str, ...]) -> bytes:
        """A module's library with a table of those kernels. Raises ModuleRejected."""
        key = self._key("module", module.hash, *kernels)
        library = self.cache.get(key)
        if library is not None:
            return library
        runtime = self.runtime()  # before this module's lock is taken: locks are shared by keys, and do not nest
        return self._once(key, lambda: self._compile(module, kernels, runtime))

    @cached_property
    def runtime_key(self) -> str:
        """The cache's key for the runtime."""
        return self._key("runtime")

    @property
    def runtime_name(self) -> str:
        """The name under which the dynamic loader knows the runtime, so that modules find the one that is loaded."""
        return f"libkaasq-cpu-{self.runtime_key[:16]}.so"

    def _key(self, *parts: str) -> str:
        what = (self.toolchain.command, self.toolchain.version, self.toolchain.options(), _ours(), _cpu(), parts)
        return content_hash(msgspec.json.encode(what))

    def _once(self, key: str, compile_it: Callable[[], bytes]) -> bytes:
        with self.cache.building(key):
            library = self.cache.get(key)
            if library is None:
                library = compile_it()
                self.cache.put(key, library)
        return library

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
        source = Source(module.source)
        unsupported = source.unsupported()
        for construct in unsupported:
            if not construct.conditional:
                raise construct.rejection()
        known = source.kernels()
        for name in kernels:
            check_name(name, source, known)
        defines, flags = translate_options(module.options)
        with self._folder() as folder:
            (folder / USER_FILE).write_text(module.source)  # the compiler quotes lines from it
            (folder / "module.cpp").write_text(translation_unit(source, known, kernels, defines))
            (folder / "runtime.so").write_bytes(runtime)
            output = folder / "module.so"
            arguments = [*_MATH, *flags, f"-I{PRELUDE}", f"-I{PRELUDE / 'include'}", "module.cpp", "runtime.so"]
            built, said = self.toolchain.compile([*arguments, "-Wl,--no-undefined", "-o", str(output)], folder)
            if built:
                return output.read_bytes()
        said = said.replace(f"{folder}/", "").replace(f"{PRELUDE}/", "")
        if unsupported:  # within an #if, and it was compiled after all
            raise unsupported[0].rejection(said[:LOG_CHARS])
        raise _rejection(said, kernels, known)


def check_name(name: str, source: Source, known: list[KernelSource]) -> None:
    """Whether a kernel of that name can be there. Raises ModuleRejected naming those there are."""
    words = re.findall(r"\w+", name.partition("<")[0])
    if not _NAME_EXPRESSION.fullmatch(name) or not words or words[-1] not in source.words:
        raise missing_kernel(name, [each.name for each in known])
    here = next((each for each in known if each.name == "::".join(words)), None)
    if here and here.template and "<" not in name:
        raise ModuleRejected(
            f"kernel {name!r} is a template: name an instance of it, like {name}<float>",
            kernel=name,
            kernels=[each.name for each in known],
        )


def missing_kernel(name: str, there: list[str]) -> ModuleRejected:
    """The error for a kernel that a module does not have."""
    listed = ", ".join(sorted(there)) or "none"
    return ModuleRejected(
        f"there is no kernel {name!r} in the module; it has: {listed}", kernel=name, kernels=sorted(there)
    )


def translate_options(options: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """NVRTC's options as #define lines and the host compiler's flags. Raises ModuleRejected for one unknown here."""
    defines: list[str] = []
    flags: list[str] = []
    standard = "17"  # NVRTC's default; the prelude needs it, and what is valid in C++11 and 14 is valid in it
    contract = "fast"
    for option in options:
        plain = option.lstrip("-")
        if plain.startswith("D"):
            # Not passed on: the prelude's own headers must not see them (-DT=float).
            name, given, value = plain[1:].partition("=")
            defines.append(f"#define {name} {value if given else 1}")
        elif plain.startswith("std="):
            standard = "20" if plain.endswith("20") else "17"
        elif plain == "use_fast_math":
            flags.extend(_FAST_MATH)
        elif plain.startswith("fmad="):
            contract = "fast" if plain.endswith("true") else "off"
        else:
            raise ModuleRejected(
                f"the cpu device does not know the option {option!r}; it takes -DNAME=VALUE, -std=c++17 and c++20, "
                "--use_fast_math, -fmad=true|false",
                option=option,
            )
    return defines, [f"-std=c++{standard}", f"-ffp-contract={contract}", *flags]


def translation_unit(source: Source, known: list[KernelSource], kernels: tuple[str, ...], defines: list[str]) -> str:
    """What the compiler gets: prelude, options, the user's source with its own line numbers, the table."""
    by_name = {each.name: each for each in known}
    renamed = [f"#define {each.name} kaasq_kernel_{each.name}" for each in known if each.name in _TAKEN_NAMES]
    rows = []
    for name in kernels:
        here = by_name.get(name.partition("<")[0].strip().removeprefix("::"))
        limit = here.threads_per_block if here and here.threads_per_block else THREADS_PER_BLOCK
        flags = f"{str(source.waits(name)).lower()}, {str(source.prints).lower()}"
        rows.append(f'kaasq::describe<({name}), {flags}>("{name}", {min(limit, THREADS_PER_BLOCK)}),')
    return "\n".join([
        '#include "kaasq_cuda.h"',
        *defines,
        *renamed,
        f'#line 1 "{USER_FILE}"',
        source.rewritten(),
        'extern "C" {',
        '__attribute__((visibility("default"))) extern const kaasq::Kernel kaasq_kernels[];',
        "const kaasq::Kernel kaasq_kernels[] = {",
        f'#line 1 "{TABLE_FILE}"',  # one kernel per line: a diagnostic's line tells which
        *rows,
        "{}};",
        "}",
        "",
    ])  # fmt: skip


def _rejection(said: str, kernels: tuple[str, ...], known: list[KernelSource]) -> ModuleRejected:
    entries, line = diagnostics(said, USER_FILE)
    for index, name in enumerate(kernels, 1):
        about = re.search(rf"^{TABLE_FILE}:{index}:(?:\d+:)? error: (.*)", said, re.MULTILINE)
        if about and line is None:
            there = ", ".join(each.name for each in known) or "none"
            return ModuleRejected(
                f"kernel {name!r} cannot be used: {about[1]}; the module's kernels: {there}",
                kernel=name,
                kernels=[each.name for each in known],
                log=said[:LOG_CHARS],
            )
    log = "\n".join(entries)
    return ModuleRejected(f"the module does not compile: {log[:MESSAGE_CHARS]}", line=line, log=log[:LOG_CHARS])


@cache
def _ours() -> str:
    """A hash of the prelude and the runtime: a new version of kaasq compiles anew."""
    files = sorted(path for path in (*PRELUDE.rglob("*"), *RUNTIME.iterdir(), Path(__file__)) if path.is_file())
    return content_hash(b"\0".join(path.name.encode() + b"\0" + path.read_bytes() for path in files))


@cache
def _cpu() -> str:
    """The processor's model and features: code for this one may not run on another that shares the cache's folder."""
    said = [platform.machine()]
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        first = os.uname().version
    for line in first.splitlines():
        label, _, value = line.partition(":")
        if label.strip() in {"model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant"}:
            said.append(value.strip())
    return "\n".join(said)

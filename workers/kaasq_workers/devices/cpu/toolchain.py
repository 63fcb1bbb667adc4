"""The C++ compiler: which one there is, how it is called, and its diagnostics in the user's own line numbers."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from kaasq.errors import BadRequest, ModuleRejected

COMPILE_TIMEOUT_S = 120
COMPILE_MEMORY_BYTES = 8 << 30
VERSION_TIMEOUT_S = 60  # ziglang unpacks itself the first time
MESSAGE_CHARS = 4000

_HEADER = re.compile(
    r"(?P<file>[^\s:][^:\n]*):(?P<line>\d+):(?:\d+:)? (?P<kind>fatal error|error|warning|note): ?(?P<text>.*)"
)
_CONTEXT = re.compile(r"In file included from |\s+from |\S+: In |[^:]+: (?:In|At) ")
_LINKER = re.compile(r"undefined (?:reference to|symbol:) .*|multiple definition of [^;]*")


class Toolchain:
    """One C++ compiler and the options that kaasq gives it."""

    def __init__(self, command: tuple[str, ...], kind: str) -> None:
        self.command = command
        self.kind = kind
        """``gcc``, ``clang`` or ``zig``."""

    @cached_property
    def version(self) -> str:
        """What it says of itself: part of the cache's key."""
        argv = [*self.command, "--version"]
        try:
            ran = subprocess.run(argv, capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModuleRejected(f"the C++ compiler {shlex.join(self.command)} does not run: {error}") from error
        return ran.stdout.strip() or ran.stderr.strip()

    @property
    def name(self) -> str:
        """For people. Without the version: asking for that starts a process."""
        return "ziglang" if self.kind == "zig" else Path(self.command[0]).name

    def options(self) -> tuple[str, ...]:
        """Options for every library. Why each is there: docs/cpu-device.md."""
        shared = (
            "-shared", "-fPIC", "-O3", "-w", "-pthread", "-fvisibility=hidden", "-fdiagnostics-color=never",
        )  # fmt: skip
        if self.kind == "zig":
            return (*shared, "-fno-sanitize=undefined", "-UNDEBUG", "-ferror-limit=20")
        native = "-march=native" if platform.machine() == "x86_64" else "-mcpu=native"
        if self.kind == "clang":
            return (*shared, native, "-ferror-limit=20")
        # Without these, template statics of two modules are one, and no module can ever be unloaded.
        gcc = (*shared, native, "-fmax-errors=20", "-fno-gnu-unique", "--param=logical-op-non-short-circuit=0")
        # Never gnu2 (newer compilers' default): with glibc before 2.40 a thread's first access to a fresh module's
        # thread-local variable loses vector registers (glibc bug 31372), and a block comes out wrong.
        return (*gcc, "-mtls-dialect=gnu") if platform.machine() == "x86_64" else gcc

    def no_library_copies(self) -> tuple[str, ...]:
        """Options that keep loops from becoming calls of memset and memcpy."""
        if self.kind == "gcc":
            return ("-fno-tree-loop-distribute-patterns",)
        return ("-fno-builtin-memset", "-fno-builtin-memcpy", "-fno-builtin-memmove")

    def compile(self, arguments: list[str], folder: Path) -> tuple[bool, str]:
        """Run it in ``folder``, within limits of time and memory. Whether it succeeded, and what it said."""
        # The shell sets the limit for the compiler's own children too; setting it from here would race with them.
        # In our own process group, so that whoever kills the executor kills its compilers; each of the compiler's
        # processes has a limit of its own in case that nobody does.
        limit = f'ulimit -v {COMPILE_MEMORY_BYTES >> 10}; ulimit -t {COMPILE_TIMEOUT_S:.0f}; exec "$@"'
        argv = ["/bin/sh", "-c", limit, "sh", *self.command, *self.options(), *arguments]
        environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)}
        if self.kind == "zig":
            environment |= {"ZIG_LOCAL_CACHE_DIR": str(folder / "zig")}
        with subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            try:
                said, _ = process.communicate(timeout=COMPILE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return False, f"error: the compiler took longer than {COMPILE_TIMEOUT_S} s"
        return process.returncode == 0, said


def find_toolchain(
    wanted: str | None = None,
    *,
    which: Callable[[str], str | None] = shutil.which,
    has_module: Callable[[str], bool] = lambda name: find_spec(name) is not None,
) -> Toolchain | None:
    """The compiler that was asked for, else g++, clang++ or PyPI's ziglang; None if there is none.

    Raises BadRequest if one was asked for and is not there.
    """
    if wanted:
        command = tuple(shlex.split(wanted))
        if not command or not which(command[0]):
            raise BadRequest(f"there is no C++ compiler {wanted!r}", at="compiler")
        kind = "zig" if "zig" in wanted else "clang" if "clang" in wanted else "gcc"
        return Toolchain(command, kind)
    for program, kind in (("g++", "gcc"), ("clang++", "clang")):
        if path := which(program):
            return Toolchain((path,), kind)
    if has_module("ziglang"):
        return Toolchain((sys.executable, "-P", "-m", "ziglang", "c++"), "zig")
    return None


def no_compiler() -> ModuleRejected:
    """The error where there is no compiler."""
    return ModuleRejected(
        "this worker has no C++ compiler, which its cpu device needs to run CUDA C++ source: "
        "install one (apt-get install g++, or pip install ziglang)"
    )


def diagnostics(said: str, user_file: str) -> tuple[list[str], int | None]:
    """What the compiler said of the user's file, one entry per diagnostic, and the first line it names.

    What it says of the prelude's files is left out, unless there is nothing else.
    """
    entries: list[tuple[bool, str]] = []
    first: int | None = None
    keep = False
    for line in said.splitlines():
        if header := _HEADER.match(line):
            keep = Path(header["file"]).name == user_file and header["kind"] != "warning"
            if keep and first is None and header["kind"] != "note":
                first = int(header["line"])
            entries.append((keep, f"{user_file}{line[len(header['file']) :]}" if keep else line))
        elif linker := _LINKER.search(line):
            entries.append((True, linker[0].replace("undefined symbol: ", "undefined reference to ")))
            keep = False
        elif _CONTEXT.match(line) or not entries:
            keep = False
            if not entries and line.startswith("error: "):
                entries.append((True, line.removeprefix("error: ")))
        elif keep:
            entries[-1] = (True, f"{entries[-1][1]}\n{line}")
    kept = [text for of_user, text in entries if of_user]
    return kept or [said.strip()], first

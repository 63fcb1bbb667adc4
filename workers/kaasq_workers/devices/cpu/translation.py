"""From a module's source to the translation unit that a host compiler takes, and its complaints back again. Pure."""

from __future__ import annotations

import re

from kaasq.errors import ModuleRejected
from kaasq_workers.devices.cpu.source import KernelSource, Source
from kaasq_workers.devices.cpu.strided import PREFIX
from kaasq_workers.devices.cpu.toolchain import MESSAGE_CHARS, diagnostics
from kaasq_workers.devices.kernel_names import is_kernel_name
from kaasq_workers.devices.rejections import LOG_CHARS, does_not_compile, no_kernel

THREADS_PER_BLOCK = 1024
USER_FILE = "kernel.cu"
TABLE_FILE = "kernels"

# C library functions that the prelude's headers declare: a kernel of that name is renamed, or it would not compile.
_TAKEN_NAMES = frozenset({
    "abort", "abs", "atexit", "bsearch", "clock", "div", "drand48", "drem", "exit", "gamma", "index", "j0", "j1", "jn",
    "labs", "ldiv", "qsort", "rand", "random", "realpath", "remove", "rename", "rindex", "select", "signal",
    "significand", "system", "time", "y0", "y1", "yn",
})  # fmt: skip
# NaN and infinity stay what they are, as with CUDA's own option of that name.
_FAST_MATH = ("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros")


def check_name(name: str, source: Source, known: list[KernelSource]) -> None:
    """Whether a kernel of that name can be there. Raises ModuleRejected naming those there are."""
    words = re.findall(r"\w+", name.partition("<")[0])
    if not is_kernel_name(name) or not words or words[-1] not in source.words:
        raise no_kernel(name, [each.name for each in known])
    if source.is_plain_function("::".join(words)):
        raise no_kernel(name, [each.name for each in known], "it is a function without __global__")
    here = next((each for each in known if each.name == "::".join(words)), None)
    if here and here.template and "<" not in name:
        raise ModuleRejected(
            f"kernel {name!r} is a template: name an instance of it, like {name}<float>",
            kernel=name,
            kernels=[each.name for each in known],
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


def translation_unit(
    source: Source, known: list[KernelSource], kernels: tuple[str, ...], defines: list[str], *, second_forms: bool
) -> str:
    """What the compiler gets: prelude, options, the user's source with its own line numbers, the table.

    ``second_forms``: with those of grid-stride loops, which do not compile for every kernel that looks like one.
    """
    by_name = {each.name: each for each in known}
    wanted = {name: name.partition("<")[0].strip().removeprefix("::") for name in kernels}
    strided = {each.name: each for each in source.strided() if second_forms and each.name in wanted.values()}
    renamed = [f"#define {each.name} kaasq_kernel_{each.name}" for each in known if each.name in _TAKEN_NAMES]
    rows = []
    for name in kernels:
        here = by_name.get(wanted[name])
        limit = here.threads_per_block if here and here.threads_per_block else THREADS_PER_BLOCK
        flags = f"{str(source.waits(name)).lower()}, {str(source.prints).lower()}"
        other = (
            re.sub(r"(\w+)(\s*(?:<.*)?)$", rf"{PREFIX}\1\2", name, count=1) if wanted[name] in strided else "nullptr"
        )
        rows.append(f'kaasq::describe<({name}), ({other}), {flags}>("{name}", {min(limit, THREADS_PER_BLOCK)}),')
    return "\n".join([
        '#include "kaasq_cuda.h"',
        *defines,
        *renamed,
        f'#line 1 "{USER_FILE}"',
        source.rewritten(strided.values()),
        'extern "C" {',
        '__attribute__((visibility("default"))) extern const kaasq::Kernel kaasq_kernels[];',
        "const kaasq::Kernel kaasq_kernels[] = {",
        f'#line 1 "{TABLE_FILE}"',  # one kernel per line: a diagnostic's line tells which
        *rows,
        "{}};",
        "}",
        "",
    ])  # fmt: skip


def rejection(said: str, kernels: tuple[str, ...], known: list[KernelSource]) -> ModuleRejected:
    """The error for what the compiler said of a translation unit."""
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
    return does_not_compile(log[:MESSAGE_CHARS], log, line)

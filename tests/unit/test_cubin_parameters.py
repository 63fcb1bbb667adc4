"""The parameter tables of real cubins, and damaged ones: a table or ModuleRejected, nothing else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaasq.errors import ModuleRejected
from kaasq_workers.devices.cuda.images import (
    cubin_image,
    fatbin_architectures,
    ptx_kernels,
    ptx_target,
    resolve,
    source_kernels,
)
from kaasq_workers.devices.cuda.parameters import Cubin, read_cubin

CUBINS = Path(__file__).parent.parent / "data" / "cubins"
SOURCE = (CUBINS / "kernels.cu").read_text()
CODE = {path.stem: path.read_bytes() for path in sorted(CUBINS.glob("*.cubin"))}

SCALE_FLOAT, SCALE_DOUBLE = "_Z5scaleIfEvPT_S0_i", "_Z5scaleIdEvPT_S0_i"
TABLES = {
    "saxpy": [(0, 4), (8, 8), (16, 8), (24, 8), (32, 4)],
    "mixed": [(0, 8), (8, 8), (16, 32), (48, 2), (50, 1), (56, 8)],
    SCALE_FLOAT: [(0, 8), (8, 4), (12, 4)],
    SCALE_DOUBLE: [(0, 8), (8, 8), (16, 4)],
    "wide": [(0, 4400), (4400, 8), (4408, 4)],
    "nothing": [],
}


@pytest.mark.parametrize(("name", "arch"), [("sm_80", 80), ("sm_90", 90), ("sm_90_cuda12", 90)])
def test_a_cubin_tells_its_architecture_and_every_kernels_parameters(name: str, arch: int) -> None:
    cubin = read_cubin(CODE[name])
    assert cubin.arch == arch
    tables = {kernel: [each[:2] for each in found.parameters] for kernel, found in cubin.kernels.items()}
    assert tables == TABLES  # and the device function is not among them


@pytest.mark.parametrize("name", CODE)
def test_a_cubin_tells_static_shared_memory(name: str) -> None:
    kernels = read_cubin(CODE[name]).kernels
    assert (kernels["mixed"].static_shared_bytes, kernels["saxpy"].static_shared_bytes) == (256, 0)


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9)])
def test_a_cubin_fits_devices_of_its_major_architecture_from_its_minor_on(capability: tuple[int, int]) -> None:
    image = cubin_image(CODE["sm_80"], ("saxpy",), capability)
    assert image.symbols == {"saxpy": "saxpy"}


@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (10, 0)])
def test_a_cubin_for_another_architecture_is_rejected_naming_both(capability: tuple[int, int]) -> None:
    with pytest.raises(ModuleRejected, match=f"sm_80.*sm_{capability[0]}{capability[1]}"):
        cubin_image(CODE["sm_80"], ("saxpy",), capability)


def test_a_kernel_that_the_cubin_lacks_is_rejected_naming_those_there_are() -> None:
    with pytest.raises(ModuleRejected, match=r"no kernel 'absent'.*saxpy"):
        cubin_image(CODE["sm_90"], ("absent",), (9, 0))


def test_a_plain_name_finds_the_one_symbol_that_mangles_it() -> None:
    assert resolve(["scale", "saxpy"], ["_Z5scalePfi", "saxpy"]) == {"scale": "_Z5scalePfi", "saxpy": "saxpy"}


def test_a_plain_name_with_several_instances_is_rejected() -> None:
    with pytest.raises(ModuleRejected, match="overload"):
        resolve(["scale"], read_cubin(CODE["sm_90"]).kernels)


@pytest.mark.parametrize("code", [b"", b"\x7fELF", b"\x7fELF" + bytes(60), b"MZ", bytes(1000)])
def test_what_is_no_cubin_is_rejected(code: bytes) -> None:
    with pytest.raises(ModuleRejected):
        read_cubin(code)


def test_an_elf_file_for_a_cpu_is_rejected() -> None:
    code = bytearray(CODE["sm_90"])
    code[18:20] = (62).to_bytes(2, "little")  # x86-64
    with pytest.raises(ModuleRejected, match="machine 62"):
        read_cubin(bytes(code))


def read_or_reject(code: bytes) -> None:
    with suppress(ModuleRejected):
        assert isinstance(read_cubin(code), Cubin)


@given(st.sampled_from(sorted(CODE)), st.data())
def test_a_cubin_cut_short_is_rejected(name: str, data: st.DataObject) -> None:
    code = CODE[name]
    with pytest.raises(ModuleRejected):
        read_cubin(code[: data.draw(st.integers(0, len(code) - 1))])


# Where the structure is: the ELF header and the tables that it points at, as well as anywhere.
positions = st.one_of(st.integers(0, 63), st.integers(-(64 * 40), -1), st.integers(0, 1 << 16))


@given(st.sampled_from(sorted(CODE)), st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=20))
def test_a_cubin_with_changed_bytes_gives_a_table_or_is_rejected(name: str, changes: list[tuple[int, int]]) -> None:
    code = bytearray(CODE[name])
    for position, value in changes:
        code[position % len(code)] = value
    read_or_reject(bytes(code))


@given(st.sampled_from(sorted(CODE)), st.integers(0, 40), st.integers(0, 9), st.integers(0, 2**64 - 1))
def test_a_cubin_with_a_hostile_section_header_gives_a_table_or_is_rejected(
    name: str, section: int, field: int, value: int
) -> None:
    code = bytearray(CODE[name])
    sections_at = int.from_bytes(code[0x28:0x30], "little")
    offset, size = [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8)][field]
    at = sections_at + section * 64 + offset
    code[at : at + size] = (value % (1 << (8 * size))).to_bytes(size, "little")
    read_or_reject(bytes(code))


@given(st.binary(max_size=300))
def test_bytes_after_a_fatbins_magic_give_architectures_or_are_rejected(rest: bytes) -> None:
    with suppress(ModuleRejected):
        assert isinstance(fatbin_architectures(bytes.fromhex("50ed55ba") + rest), list)


def fatbin(*entries: tuple[int, int, bytes]) -> bytes:
    """A fat binary of (kind, architecture, code) entries."""
    body = b""
    for kind, arch, code in entries:
        header = bytearray(64)
        header[0:2] = kind.to_bytes(2, "little")
        header[4:8] = (64).to_bytes(4, "little")
        header[8:16] = len(code).to_bytes(8, "little")
        header[28:32] = arch.to_bytes(4, "little")
        body += bytes(header) + code
    return bytes.fromhex("50ed55ba01001000") + len(body).to_bytes(8, "little") + body


def test_a_fatbin_names_what_it_holds() -> None:
    whole = fatbin((2, 80, b"x" * 10), (2, 90, b"y" * 20), (1, 90, b"z"))
    assert fatbin_architectures(whole) == ["compute_90", "sm_80", "sm_90"]
    with pytest.raises(ModuleRejected, match="damaged"):
        fatbin_architectures(whole[:-1])


def test_ptx_names_its_target_and_kernels() -> None:
    ptx = b".version 9.0\n.target sm_90a\n.visible .entry saxpy(\n.param .u64 p) { ret; }\n.entry _Z1kv() {}"
    assert (ptx_target(ptx), ptx_kernels(ptx)) == ("sm_90a", ["saxpy", "_Z1kv"])


def test_source_names_its_kernels() -> None:
    assert source_kernels(SOURCE) == ["saxpy", "mixed", "scale", "wide", "nothing"]
    assert source_kernels("__global__ static void __launch_bounds__(256, (2)) f(int*) {} __global__") == ["f"]


@given(st.text(alphabet="_global (){};,\n<>x", max_size=200))
def test_looking_for_kernels_in_any_text_ends(text: str) -> None:
    assert isinstance(source_kernels("__global__ " + text), list)

"""Where NVRTC finds headers, offline: the CUDA toolkit's folders, what NVRTC carries itself, and our stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from kaasq.log import get_logger
from kaasq_workers.devices.cuda.stand_ins import STAND_INS, WITHOUT_TOOLKIT

log = get_logger()

_TOOLKIT = ("cudart", "cccl", "curand")  # by the names that cuda-pathfinder has for them
# NVIDIA's wheels split the toolkit, and cooperative groups and mma.h need what lies in other wheels than theirs.
_NEEDED_BY_OTHERS = ("nv/target", "crt/mma.h")


class Headers(NamedTuple):
    """Folders to search, in this order, and headers given as text."""

    folders: list[str]
    texts: dict[str, str]


def find_headers(nvrtc: Any, unpack_into: Path | None) -> Headers:
    """What there is on this machine. ``unpack_into``: a folder for NVRTC's own copies, if they are needed."""
    folders = _toolkit_folders()
    if unpack_into is not None and not all(_is_in(folders, each) for each in _NEEDED_BY_OTHERS):
        folders += _bundled_folders(nvrtc, unpack_into)
    texts = STAND_INS if _is_in(folders, "cuda_runtime.h") else STAND_INS | WITHOUT_TOOLKIT
    log.info("compiler.headers", folders=folders)
    return Headers(folders, texts)


def _is_in(folders: list[str], header: str) -> bool:
    return any((Path(folder) / header).exists() for folder in folders)


def _toolkit_folders() -> list[str]:
    """NVIDIA's wheels, conda, CUDA_PATH or /usr/local/cuda, in this order."""
    try:
        from cuda.pathfinder import find_nvidia_header_directory
    except ImportError:  # an older cuda-pathfinder
        return []
    folders: list[str] = []
    for library in _TOOLKIT:
        folder = find_nvidia_header_directory(library)
        if folder is not None and str(folder) not in folders:
            folders.append(str(folder))
    return folders


def _bundled_folders(nvrtc: Any, into: Path) -> list[str]:
    """The headers that NVRTC 13.5 and later carry (fp16, cooperative groups, CCCL), unpacked."""
    if not hasattr(nvrtc, "nvrtcInstallBundledHeaders"):
        return []
    try:
        status, reason = nvrtc.nvrtcInstallBundledHeaders(
            str(into).encode(), nvrtc.NVRTC_INSTALL_HEADERS_SKIP_IF_EXISTS
        )
    except RuntimeError as error:  # newer bindings with an older NVRTC
        log.info("headers.not_bundled", reason=str(error))
        return []
    if status.value:
        log.warning("headers.not_unpacked", folder=str(into), reason=str(reason))
        return []
    return [str(into), str(into / "cccl")]

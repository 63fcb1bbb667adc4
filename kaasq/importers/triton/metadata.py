"""Whether kaasq can launch what the compiler made, by its metadata and the parameters in its PTX. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kaasq.errors import BadRequest
from kaasq.importers.triton.kernel import WARP_THREADS
from kaasq.importers.triton.ptx import parameter_sizes
from kaasq.importers.triton.request import MOST_WARPS
from kaasq.importers.triton.types import POINTER_BYTES, Parameter

ALIGNMENT = 256  # what every kaasq buffer starts at a multiple of

# Pointers that Triton appends to the parameters, in this order; which there are differs between its versions.
_SCRATCH = ("global_scratch", "profile_scratch")
_REFUSED = {
    "launch_cooperative_grid": "a cooperative launch (launch_cooperative_grid)",
    "launch_pdl": "programmatic dependent launch (launch_pdl)",
}
_ONE_BLOCK = ((), (1, 1, 1))


def check_launchable(metadata: Any) -> None:
    """Raises BadRequest for what kaasq does not launch. The fields differ between the versions of Triton."""
    cluster = tuple(getattr(metadata, "cluster_dims", None) or ())
    if getattr(metadata, "num_ctas", 1) != 1 or cluster not in _ONE_BLOCK:
        raise BadRequest("needs clusters of blocks (num_ctas above 1), which kaasq does not launch", at="num_ctas")
    for name, what in _REFUSED.items():
        if getattr(metadata, name, False):
            raise BadRequest(f"needs {what}, which kaasq does not offer", at=name)
    if getattr(metadata, "tensordesc_meta", None):
        raise BadRequest("takes TMA descriptors made on the host, which kaasq cannot pass", at="signature")
    warp = getattr(metadata, "warp_size", WARP_THREADS)
    if warp != WARP_THREADS:
        raise BadRequest(f"has warps of {warp} threads, kaasq launches warps of {WARP_THREADS}", at="target")
    if not 1 <= metadata.num_warps <= MOST_WARPS:
        raise BadRequest(f"needs {metadata.num_warps} warps a block; at most {MOST_WARPS} are possible", at="num_warps")


def scratch(metadata: Any, ptx: str, parameters: Collection[Parameter], version: str) -> tuple[int, ...]:
    """Bytes per program of each pointer that Triton appended to the parameters.

    Raises BadRequest if the parameters in the PTX are others than that makes them.
    """
    present = [each for each in _SCRATCH if hasattr(metadata, f"{each}_size")]
    for each in present:
        alignment = getattr(metadata, f"{each}_align", 1)
        if ALIGNMENT % alignment:
            raise BadRequest(
                f"{each} must start at a multiple of {alignment} bytes, kaasq's are of {ALIGNMENT}", at="fn"
            )
    expected = (*(each.nbytes for each in parameters), *(POINTER_BYTES for _ in present))
    found = parameter_sizes(ptx, metadata.name)
    if found != expected:
        raise BadRequest(
            f"Triton {version} gave the kernel parameters of {found} bytes where {expected} were expected (those of "
            f"the signature and {len(present)} pointers of its own): this version or an option is not supported",
            at="fn",
        )
    return tuple(getattr(metadata, f"{each}_size") or 0 for each in present)

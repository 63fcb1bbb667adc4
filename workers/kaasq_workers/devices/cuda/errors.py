"""CUDA's errors as kaasq's: the one place that translates them, and that knows which of them end the context.

Runtime and driver number what matters here alike; whichever of CuPy or the bindings reports it, the number decides.
Imports no CUDA.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from kaasq.errors import KaasqError, KernelFailed, ModuleRejected, OutOfMemory, WorkerFailed

_INVALID_VALUE = 1
_OUT_OF_MEMORY = 2
_LAUNCH_OUT_OF_RESOURCES = 701

# What a kernel did, in words. Each of these leaves the context unusable for good.
_KERNEL_CRASHES = {
    700: "it read or wrote an address that is not its own",
    702: "it ran longer than the system's watchdog allows",
    710: "an assert in it failed",
    714: "its stack was corrupted or overran",
    715: "it met an illegal instruction",
    716: "it read or wrote an address that is not aligned to the size of the access",
    717: "it used an address of another kind of memory than the instruction is for",
    718: "it jumped to an address that holds no code",
    719: "it crashed",
    721: "it leaked tensor memory",
}
# The call was refused and nothing else happened. What is in neither table ends the context, to be safe.
_CAPTURE = set(range(900, 909))  # what a stream that is being recorded cannot take
_REFUSED = {
    _INVALID_VALUE, _OUT_OF_MEMORY, 9, 98, 400, 500, 600, _LAUNCH_OUT_OF_RESOURCES, 712, 713, 720, 801, 912, *_CAPTURE,
}  # fmt: skip
# The driver has no use for the code that it was given.
_CODE_REJECTED = {
    _INVALID_VALUE: "the driver cannot read it",
    200: "the driver cannot read it",
    209: "it holds no code for this device",
    218: "its PTX does not assemble",
    221: "the driver has no compiler for its PTX",
    222: "its PTX is newer than the driver",
    223: "its PTX may not be compiled here",
    225: "it waits for kernels that it starts, which this device cannot",
    300: "the driver cannot read it",
    302: "it refers to a symbol that is not in it",
    303: "it could not be initialised",
    500: "it refers to a symbol that is not in it",
}

_NUMBERED = re.compile(r"(CUDA_ERROR_\w+|cudaError\w+)")


class Poisonable(Protocol):
    """A device: what is in need of knowing that its context is gone."""

    name: str
    poisoned: bool


class DriverCallFailed(Exception):
    """A call through cuda.bindings returned an error. Never leaves this package."""

    def __init__(self, status: int, name: str) -> None:
        super().__init__(name)
        self.status = status


def done(result: tuple[Any, ...]) -> Any:
    """What a driver call through cuda.bindings gave, less its status. Raises DriverCallFailed."""
    status, *values = result
    if status.value:
        raise DriverCallFailed(int(status.value), status.name)
    return values[0] if len(values) == 1 else values


def run_error(error: Exception, device: Poisonable, doing: str, kernels: tuple[str, ...] = ()) -> KaasqError:
    """The error for a launch, copy or synchronisation that failed; marks the device where its context is gone."""
    status = getattr(error, "status", None)
    what = _named(error)
    detail: dict[str, Any] = {"cuda_error": what, "device": device.name, "kernels": list(kernels) or None}
    if status in _REFUSED:
        if status == _OUT_OF_MEMORY:
            return OutOfMemory(f"{device.name} has no memory left for {doing}", **detail)
        reason = "too many registers or too much shared memory for one block" if status == 701 else str(error)
        return KernelFailed(f"{device.name} refused {doing}: {reason}", **detail)
    device.poisoned = True
    if status in _KERNEL_CRASHES:
        # A stream reports whatever happened in the context: with several requests in flight it may be a neighbour's.
        suspects = f"kernel {', '.join(map(repr, kernels))}" if kernels else "a kernel"
        return KernelFailed(f"{suspects} failed on {device.name}: {_KERNEL_CRASHES[status]} ({what})", **detail)
    return WorkerFailed(f"{device.name} failed during {doing}: {error}", **detail)


def load_error(error: Exception, device: Poisonable, what: str) -> KaasqError:
    """The error for code that did not load."""
    reason = _CODE_REJECTED.get(getattr(error, "status", -1))
    if reason is None:
        return run_error(error, device, f"loading {what}")
    return ModuleRejected(
        f"{what} does not load on {device.name}: {reason} ({_named(error)})", cuda_error=_named(error)
    )


def _named(error: Exception) -> str:
    found = _NUMBERED.search(str(error))
    return found.group(1) if found else type(error).__name__

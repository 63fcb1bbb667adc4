"""Registers host memory with the driver, so that the GPU reads it by itself: mapped files of the store, above all."""

from __future__ import annotations

from contextlib import suppress

from cupy.cuda import runtime

from kaasq.log import get_logger
from kaasq_workers.devices.cuda.addresses import AddressReader

log = get_logger()

_READ_ONLY_SUPPORTED = 113  # cudaDevAttrHostRegisterReadOnlySupported, which CuPy has no name for
_READ_ONLY = 8  # cudaHostRegisterReadOnly: without it a mapping that cannot be written to is refused


class CudaPinned:
    """A registration. The memory must stay mapped until it is released."""

    def __init__(self, address: int) -> None:
        self._address = address

    def release(self) -> None:
        """End it; idempotent. Only when nothing queued reads the memory any more."""
        address, self._address = self._address, 0
        if address:
            with suppress(runtime.CUDARuntimeError):  # only where the context is gone, and the registration with it
                runtime.hostUnregister(address)


class Pinning:
    """Registers memory, where the device and the system can: not for every file system, nor in every container."""

    def __init__(self, index: int) -> None:
        self._address_of = AddressReader()
        try:
            self._supported = bool(runtime.deviceGetAttribute(_READ_ONLY_SUPPORTED, index))
        except runtime.CUDARuntimeError:  # a driver that does not know the question
            self._supported = False

    def pin(self, data: memoryview) -> CudaPinned | None:
        """Have the GPU read these bytes by itself; None where that cannot be had."""
        if not self._supported or not data.nbytes:
            return None
        address = self._address_of(data)
        try:
            runtime.hostRegister(address, data.nbytes, _READ_ONLY)
        except runtime.CUDARuntimeError as error:
            log.debug("pinning.refused", nbytes=data.nbytes, reason=str(error))
            return None
        return CudaPinned(address)

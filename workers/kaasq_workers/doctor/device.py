"""Whether a device compiles a kernel and runs it right."""

from __future__ import annotations

import time

import msgspec
import numpy as np

from kaasq.errors import BadRequest, DeviceUnavailable, KaasqError, ModuleRejected
from kaasq.messages import Request
from kaasq.settings import Settings
from kaasq.units import size
from kaasq_storage import BufferStore
from kaasq_workers.devices.opening import open_device
from kaasq_workers.doctor.finding import Finding
from kaasq_workers.doctor.probe import ANSWER, probe
from kaasq_workers.executor.engine import Engine


def check_device(settings: Settings, store: BufferStore, name: str) -> Finding:
    """Compile a kernel, run it, compare."""
    spec = probe()
    try:
        device = open_device(msgspec.structs.replace(settings, device=name))
        try:
            started = time.perf_counter()
            engine = Engine(device, store, inline_limit=settings.inline_limit)
            executed = engine.run("doctor", spec, Request(graph=spec))
            took_ms = (time.perf_counter() - started) * 1e3
            data = executed.outputs[0].data
            right = isinstance(data, bytearray) and np.frombuffer(data, np.int32).tolist() == ANSWER
            description = f"{device.description}, {size(device.limits.memory)}"
        finally:
            device.close()
    except KaasqError as error:
        return Finding(name, "broken", error.message.splitlines()[0], _mend(error))
    if not right:
        return Finding(name, "broken", f"{description}: a kernel gave a wrong answer", "Do not use this device.")
    return Finding(name, "ok", f"{description}; compiled and ran a kernel in {took_ms:.0f} ms")


def _mend(error: KaasqError) -> str:
    match error:
        case BadRequest():
            return ""  # the message says which devices there are
        case DeviceUnavailable() if "pip install" in error.message:
            return ""
        case DeviceUnavailable():
            return "Compare the driver (nvidia-smi) with the extra that was installed, cuda12 or cuda13."
        case ModuleRejected():
            return "Install a C++ compiler: apt-get install g++, or pip install ziglang."
    return "See the setting cache_dir (KAASQ_CACHE_DIR) and the log of 'kaasq worker --log-level debug'."

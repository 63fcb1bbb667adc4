"""Which devices there are, and opening one by name."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points

import msgspec

from kaasq.errors import BadRequest
from kaasq.settings import Settings
from kaasq_workers.devices.gpus import count_gpus
from kaasq_workers.devices.protocol import Device

GROUP = "kaasq.devices"


def device_names(wanted: str) -> list[str]:
    """The devices that ``--device`` means: ``auto`` and ``all`` resolved. Raises BadRequest, also for what is none."""
    match wanted:
        case "auto":
            return ["cuda:0" if count_gpus() else "cpu"]
        case "all":
            count = count_gpus()
            if not count:
                raise BadRequest(
                    "there is no usable GPU here; say cpu, or see 'kaasq doctor' for what is missing", at="device"
                )
            return [f"cuda:{index}" for index in range(count)]
    kind, _, index = wanted.partition(":")
    if index and not index.isdecimal():
        raise BadRequest(f"{wanted!r}: a device is cpu, cuda:0, cuda:1, ..., all or auto", at="device")
    if kind not in {"cpu", "cuda"} and _entry(kind) is None:
        raise BadRequest(f"there is no device {wanted!r}: say cpu, cuda:0, all or auto", at="device")
    return [wanted]


def one_device(wanted: str) -> str:
    """The one device that is meant. Raises BadRequest where it could be several."""
    names = device_names(wanted)
    if wanted == "all" or len(names) != 1:
        raise BadRequest(f"{wanted!r} may be several devices; name one", at="device")
    return names[0]


def default_slot(device: str) -> str:
    """A device's name as a word of a routing key: ``cpu``, ``cuda0``."""
    return device.replace(":", "")


def load_device(name: str) -> None:
    """Load what opening that device takes, without touching it. What is missing or wrong is said when it is opened."""
    kind = name.partition(":")[0]
    with suppress(ImportError):
        if kind == "cpu":
            import kaasq_workers.devices.cpu
        elif kind == "cuda":
            import kaasq_workers.devices.cuda.loading  # noqa: F401 - loading it is the point
        else:
            entry = _entry(kind)
            if entry is not None:
                entry.load()


def open_device(settings: Settings, sharing: int = 1) -> Device:
    """The device that the settings name. Raises BadRequest; KaasqError if it cannot be used.

    ``sharing``: so many processes open it, each for an equal part of the memory.
    """
    name = one_device(settings.device)
    kind, _, index = name.partition(":")
    part = settings.device_memory // sharing
    if kind == "cpu":
        from kaasq_workers.devices.cpu import CpuDevice

        return CpuDevice(
            cache_dir=settings.cache_path / "cpu",
            compiler=settings.compiler or None,
            memory_limit=part or None,
            sharing=sharing,
            guard=settings.guard,
        )
    if kind == "cuda":
        from kaasq_workers.devices.cuda import CudaDevice

        return CudaDevice(
            int(index or 0), memory_limit=part or None, sharing=sharing, cache_dir=settings.cache_path / "cuda"
        )
    entry = _entry(kind)
    assert entry is not None  # else there is no such name
    device: Device = entry.load()(int(index or 0), msgspec.structs.replace(settings, device_memory=part))
    return device


def _entry(kind: str) -> EntryPoint | None:
    """Of what makes a device that another package adds."""
    return next((each for each in entry_points(group=GROUP) if each.name == kind), None)

"""The old name of ``compiled.CompiledCache``, which ops/bench/device.py still imports."""

from __future__ import annotations

from kaasq_workers.devices.cuda.compiled import CompiledCache

CodeCache = CompiledCache

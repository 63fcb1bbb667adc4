"""What kaasq wants to reach: shown beside what was measured, never asserted. Ratios unless they say otherwise."""

from __future__ import annotations

from kaasq_bench.figures import at_least, at_most

# A no-op graph beside a bare echo on the same broker; durable: quorum queue, outcomes synced to disk.
NOOP_P50 = at_most(1.6)
NOOP_THROUGHPUT = at_least(0.6)
DURABLE_P50 = at_most(1.6)
DURABLE_THROUGHPUT = at_least(0.5)
CELERY_P50 = at_most(0.5)
CELERY_THROUGHPUT = at_least(3.0)
# 4 KiB of saxpy on a GPU, beside a worker written by hand with pika and CuPy.
SAXPY_P50 = at_most(1.3)
SAXPY_THROUGHPUT = at_least(1.2)

# A step of a chain or of a workflow that the worker goes on with, beside a round trip of the client that sends the same
# requests itself.
STEP_BESIDE_CLIENT = at_most(0.6)
# A workflow: so many items at once and what joins them, beside the items as plain requests; and what a step that takes
# the output of the one before copies through the host.
FAN_OUT_BESIDE_REQUESTS = at_most(1.5)
BYTES_BETWEEN_STEPS = at_most(0.0, of="value")

# A graph's launches: the device's own time, then whole requests.
LAUNCHES_BESIDE_CAPTURED = at_most(1.1)
LAUNCHES_BESIDE_LOOP = at_most(0.3)
JACOBI_BESIDE_CAPTURED = at_most(1.1)
JACOBI_BESIDE_LOOP = at_most(1.0)
GEMM_CHAIN_BESIDE_RESIDENT = at_most(1.05)

# 256 MiB between store and device.
COPY_IN_BESIDE_PINNED = at_least(0.8)
COPY_IN_BESIDE_MEMCPY = at_least(0.5)
COPY_OUT_BESIDE_MEMCPY = at_least(0.5)
CACHED_EXECUTOR_US = at_most(80.0, of="value")
CACHED_BYTES_COPIED = at_most(0.0, of="value")

# Many tenants on one device.
TENANTS_THROUGHPUT = at_least(0.95)
BESIDE_RESTARTED = at_least(50.0)
SMALL_GRIDS_TOGETHER = at_least(3.0)
HIT_RATE = at_least(0.6, of="value")
# Throughput as the working set outgrows the device, beside the best possible hit rate's. Half of it is what HIT_RATE
# gives where misses cost nearly everything; a cache that keeps nothing of each round gives a fifth.
NO_CLIFF = at_least(0.5)

CPU_BESIDE_NUMPY = at_least(0.8)
CPU_CORES_AT_WORK = at_least(0.75)

# From the death of an executor to the first answer of the next one, on a GPU.
RESTART_MS = at_most(1500.0, of="value")

"""Which temps share a buffer: those of one type and size that are not needed at the same time. Pure.

The device holds all temps of a request at once, so sharing bounds what a deep model needs. Sizes must be equal, since a
buffer is seen as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from kaasq.importers.onnx.program import Step, Storage


def share(steps: list[Step], keep: Collection[Storage]) -> dict[Storage, Storage]:
    """For each storage outside ``keep`` the one whose buffer it uses, itself or an earlier one; in order of first use.

    Greedy, step by step: what a step writes first takes a buffer that fell free before it, so nothing that the step
    itself reads is overwritten.
    """
    last = {each: index for index, step in enumerate(steps) for each in step.touched("reads", "writes", "updates")}
    free: dict[tuple[str, int], list[Storage]] = defaultdict(list)
    owners: dict[Storage, Storage] = {}
    for index, step in enumerate(steps):
        touched = [each for each in step.touched("reads", "writes", "updates") if each not in keep]
        for storage in touched:
            if storage not in owners:
                pool = free[storage.dtype, storage.elements]
                owners[storage] = pool.pop() if pool else storage
        for storage in dict.fromkeys(touched):
            if last[storage] == index:
                free[storage.dtype, storage.elements].append(owners[storage])
    return owners

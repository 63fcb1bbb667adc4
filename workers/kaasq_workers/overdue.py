"""Says which workflows stand still, whoever's they are: a process of its own, for the front of a worker.

The front does not open the store itself. Executors write to it, and what one of them broke there ends whoever reads it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import msgspec

from kaasq.errors import KaasqError
from kaasq.names import REQUEST_ID_BYTES, is_word
from kaasq_workers.front.handles import SECRETS

LOOKED_AT = 100_000  # workflows that are due; of each tenant one is told
TIMEOUT_S = 30.0

Ids = dict[str, Annotated[str, msgspec.Meta(min_length=1, max_length=REQUEST_ID_BYTES)]]


def overdue(store: Path) -> Ids:
    """By tenants, a workflow of theirs that stands still. Raises OSError, ValueError and what subprocess raises."""
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "kaasq_workers.overdue", str(store)],
        capture_output=True,
        check=True,
        timeout=TIMEOUT_S,
        env={name: value for name, value in os.environ.items() if name not in SECRETS},
        process_group=0,  # a terminal's Ctrl-C is for the front alone
    )
    found = msgspec.json.decode(ran.stdout, type=Ids)
    return {tenant: flow for tenant, flow in found.items() if is_word(tenant)}


def main() -> None:
    """Print them as JSON."""
    from kaasq_storage import open_store  # which the front has no use for

    path, found = Path(sys.argv[1]), dict[str, str]()
    try:
        if path.is_dir():
            with open_store(path) as store:
                for tenant, flow in store.reminders(LOOKED_AT):
                    found.setdefault(tenant, flow)
    except KaasqError as error:
        sys.exit(error.message)
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()

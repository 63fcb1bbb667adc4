"""``ops/faults``: the long form of the fault tests. Prints a Markdown table, and every breach."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
from pathlib import Path

from kaasq_faults.parts import PARTS, Row, Run, table
from real_broker import ROOT_VARIABLE


def main() -> int:
    """0 if there was no breach."""
    parser = argparse.ArgumentParser(
        prog="ops/faults",
        description="Inject faults into a kaasq under load, and hold a ledger kept outside of it against its store.",
        epilog=f"{ROOT_VARIABLE}=DIR: run the RabbitMQ of the debootstrap folder DIR instead of the installed one.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--seed", default=secrets.token_hex(3), help="to repeat a run (default: a new one)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the full counts, such as 0.1")
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second of each of the 4 clients")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0, for the kernels")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep ledgers and logs there")
    given = parser.parse_args()
    unknown = [each for each in given.parts if each not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}: there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="kaasq-faults-", ignore_cleanup_errors=True) as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        run = Run(folder, given.seed, given.rate, given.scale, given.device)
        rows: list[Row] = []
        for name in given.parts or PARTS:
            print(f"{name} (seed {given.seed}) ...", file=sys.stderr, flush=True)
            for row in PARTS[name](run):
                rows.append(row)
                print(table(run, [row]).splitlines()[-1], file=sys.stderr, flush=True)
                for problem in row.problems[:50]:
                    print(f"    {problem}", file=sys.stderr, flush=True)
        print(table(run, rows))
    return 1 if any(row.problems for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

"""When processes of workers are to die: what ``mortal`` in them reads, and what it leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

MORTAL = Path(__file__).with_name("mortal")


class Deaths:
    """Nobody dies before ``at``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.never()

    def at(self, *moments: str, second: int = 0) -> None:
        """From now on once for each message at these moments: ``"begun"``, or ``"begun 1 4"`` for those numbers.

        ``second``: and the worker that serves then, after so many moments of its front since the first of these deaths.
        """
        self._write("second", str(second or ""))
        self._write("moments", "\n".join(moments))

    def never(self) -> None:
        """From now on nobody dies."""
        self.at()

    def count(self, moment: str) -> int:
        """How often it was the end of a process."""
        return len(list(self.folder.glob(f"{moment}-*")))

    def forget(self) -> None:
        """That anybody died, or that a step failed."""
        for each in (*self.folder.glob("*-*"), self.folder / "failed"):
            each.unlink(missing_ok=True)

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """For workers whose processes are to die."""
        path = [str(MORTAL), *inherited.get("PYTHONPATH", "").split(os.pathsep)]
        return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, path)), "CHAIN_DEATHS": str(self.folder)}

    def _write(self, name: str, text: str) -> None:
        new = self.folder / f"{name}.tmp"
        new.write_text(text)
        new.rename(self.folder / name)  # whole, whenever it is read

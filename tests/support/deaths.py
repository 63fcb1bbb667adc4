"""When processes of workers are to die: what ``mortal`` in them reads, and what it leaves."""

from __future__ import annotations

from pathlib import Path

MORTAL = Path(__file__).with_name("mortal")


class Deaths:
    """Nobody dies before ``at``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.never()

    def at(self, *moments: str) -> None:
        """From now on once for each message at these moments: ``"begun"``, or ``"begun 1 4"`` for those numbers."""
        new = self.folder / "moments.new"
        new.write_text("\n".join(moments))
        new.rename(self.folder / "moments")  # whole, whenever it is read

    def never(self) -> None:
        """From now on nobody dies."""
        self.at()

    def count(self, moment: str) -> int:
        """How often it was the end of a process."""
        return len(list(self.folder.glob(f"{moment}-*")))

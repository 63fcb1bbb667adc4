"""Processes that end with the one that started them, so that a run which is killed leaves none behind."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

_SETPRIV = shutil.which("setpriv")  # of util-linux: it sets this one thing and becomes the command, under the same pid


def tied(*command: str) -> Sequence[str]:
    """The command, run so that the kernel kills it when the thread that starts it has ended, however that was.

    So start it on a thread that lives as long. Where there is no ``setpriv`` it is the command as it is.
    """
    return command if _SETPRIV is None else (_SETPRIV, "--pdeathsig", "KILL", "--", *command)

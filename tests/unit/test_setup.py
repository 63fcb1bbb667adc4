"""ops/setup.sh, which ops/demo and ops/test source."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

SETUP = Path(__file__).parents[2] / "ops" / "setup.sh"
SAY = ["bash", "-c", f'. "{SETUP}"; say "installing 100% of it"']


def test_what_is_said_has_no_colours_in_a_file(tmp_path: Path) -> None:
    with (tmp_path / "err").open("wb") as file:
        subprocess.run(SAY, stderr=file, check=True)
    assert (tmp_path / "err").read_bytes() == b"> installing 100% of it\n"


def test_what_is_said_is_dim_on_a_terminal() -> None:
    ours, terminal = pty.openpty()
    try:
        subprocess.run(SAY, stderr=terminal, check=True)
        assert os.read(ours, 100) == b"\x1b[2m> installing 100% of it\x1b[0m\r\n"
    finally:
        os.close(ours)
        os.close(terminal)

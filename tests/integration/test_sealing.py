"""A worker's front is closed to other processes of its user, unless it is set otherwise; what it starts is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What `kaasq worker` is when it begins to serve, as an ordinary user; and a process that it starts, as an executor is.
PROGRAM = """
import ctypes, os, subprocess, sys
import kaasq_workers.cli
from kaasq.cli import main
LOOK = 'for each in $PPID $$; do cat /proc/$each/environ > /dev/null 2>&1 && echo open || echo closed; done'
def serve(*_):
    return subprocess.run(["/bin/sh", "-c", LOOK], check=False).returncode
kaasq_workers.cli.serve = serve
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # another user's /proc: as it is for who began as that user
main(["worker"])
"""


@pytest.mark.parametrize(("traceable", "seen"), [("false", ["closed", "open"]), ("true", ["open", "open"])])
def test_a_front_is_closed_to_processes_of_its_user_unless_it_is_traceable(traceable: str, seen: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"KAASQ_TRACEABLE": traceable, "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", seen)

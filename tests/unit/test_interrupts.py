"""Ctrl-C at any moment ends the command quietly, with 130; and SIGTERM with 143."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Sends itself a signal just as it is about to import a module.
PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have what runs in the background ignore it
{before}
wanted = sys.argv.pop(1)
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.{signal})
sys.meta_path.insert(0, Interrupting())
from kaasq.__main__ import main
main()
"""


def interrupted(
    module: str, *arguments: str, before: str = "", signal: str = "SIGINT"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before, signal=signal), module, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("module", ["click", "kaasq.cli", "numpy", "kaasq_producers.commands.store", "rich.console"])
def test_ctrl_c_while_the_command_loads_ends_it_quietly(module: str) -> None:
    done = interrupted(module, "ls")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\n")


@pytest.mark.parametrize("module", ["click", "numpy", "rich.console"])
def test_sigterm_while_the_command_loads_ends_it_quietly(module: str) -> None:
    done = interrupted(module, "ls", signal="SIGTERM")
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("fails", ["", "raise KaasqError('cannot be put away')"])
def test_once_the_command_runs_it_is_told(signal: str, code: int, fails: str) -> None:
    done = interrupted("", "ls", before=INTERRUPTED_COMMAND.format(signal=signal, fails=fails))
    assert (done.returncode, done.stdout, done.stderr.strip()) == (code, "put away\n", "")


def test_who_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    done = interrupted("click", "--version", before="signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert done.returncode == 0
    assert "version" in done.stdout


INTERRUPTED_COMMAND = """
import kaasq_producers.commands.store as store
from kaasq.errors import KaasqError
def settings(flags, **_):
    try:
        os.kill(os.getpid(), signal.{signal})
    finally:
        print("put away")
        {fails}
store.load_settings = settings
"""

"""Ctrl-C at any moment ends the command quietly, with 130; SIGTERM with 143, and SIGHUP with 129."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# Sends itself a signal just as it is about to import a module.
PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have what runs in the background ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as nohup does with this
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
@pytest.mark.parametrize(("signal", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_another_signal_while_the_command_loads_ends_it_quietly(module: str, signal: str, code: int) -> None:
    done = interrupted(module, "ls", signal=signal)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize("fails", ["", "raise KaasqError('cannot be put away')"])
def test_once_the_command_runs_it_is_told(signal: str, code: int, fails: str) -> None:
    done = interrupted("", "ls", before=INTERRUPTED_COMMAND.format(signal=signal, fails=fails))
    assert (done.returncode, done.stdout, done.stderr.strip()) == (code, "put away\n", "")


@pytest.mark.parametrize("number", ["SIGINT", "SIGHUP"])
def test_who_ignores_one_goes_on_ignoring_it(number: str) -> None:
    before = f"signal.signal(signal.{number}, signal.SIG_IGN)"
    done = interrupted("click", "--version", before=before, signal=number)
    assert done.returncode == 0
    assert "version" in done.stdout


@pytest.mark.parametrize(
    ("handler", "stops"),
    [("signal.SIG_DFL", True), ("signal.SIG_IGN", False), ("lambda *_: None", False)],
    ids=["usual", "nohup", "its own use"],
)
def test_workers_and_services_take_sighup_unless_it_has_another_use(handler: str, stops: bool) -> None:
    program = f"""
import signal
from kaasq.interrupts import asking_to_stop
signal.signal(signal.SIGHUP, {handler})
print(*asking_to_stop())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert {str(int(each)) for each in (signal.SIGINT, signal.SIGTERM)} <= {*done.stdout.split()}
    assert (str(int(signal.SIGHUP)) in done.stdout.split()) is stops


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

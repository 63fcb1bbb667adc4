"""Temporary folders: gone with their process, killed or not; nobody else's is touched."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import kaasq
from kaasq.temporary import TemporaryFolder, remove_left
from tests.support.waiting import until

NAME = "kaasq-local-ab12_xyz"
PROGRAM = (
    "import kaasq\nwith kaasq.local(device='cpu') as client: print(client.settings.store_path, flush=True), input()"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(place: Path, name: str = NAME) -> Path:
    """A folder as a killed process leaves it."""
    folder = place / name
    folder.mkdir(mode=0o700)
    (folder / "store" / "meta").mkdir(parents=True)
    (folder / "store" / "meta" / "data.mdb").write_bytes(b"x")
    return folder


@pytest.mark.parametrize("isolate", [False, True])
def test_what_a_killed_process_left_goes_at_the_next_start_and_what_lives_stays(place: Path, isolate: bool) -> None:
    environment = {**os.environ, "TMPDIR": str(place)}
    program = PROGRAM.replace("'cpu'", f"'cpu', isolate={isolate}")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        killed, living = (Path((each.stdout or sys.stdin).readline().strip()) for each in processes)
        assert killed.parent.parent == living.parent.parent == place
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait(20)
        assert killed.exists()
        with kaasq.local(device="cpu"):
            until(lambda: not killed.parent.exists())
        assert living.exists()
        processes[1].communicate("\n", timeout=20)
        assert (processes[1].returncode, list(place.iterdir())) == (0, [])
    finally:
        for each in processes:
            each.kill()
            each.communicate()


def test_one_is_there_until_it_is_deleted(place: Path) -> None:
    folder = TemporaryFolder()
    (folder.path / "store").mkdir()
    remove_left(place)
    assert folder.path.exists()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.delete()
    assert list(place.iterdir()) == []


FORKS = """
import os, sys, kaasq
client = kaasq.local(device='cpu')
client.put(b'x', name='x')
child = os.fork()
if not child:
    sys.exit()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert bytes(client.get('x')) == b'x' and os.path.exists(client.settings.store_path)
"""


def test_a_forked_child_that_ends_leaves_that_of_its_parent_alone(place: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(place)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS], check=False, env=environment, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr, list(place.iterdir())) == (0, b"", [])


def test_those_of_others_and_what_is_none_stay(place: Path) -> None:
    beside, elsewhere = place / "beside", place / "elsewhere"
    beside.mkdir()
    precious = left(beside)
    elsewhere.mkdir()
    (elsewhere / "data").write_bytes(b"x")
    (place / "kaasq-local-11111111").symlink_to(precious)
    (place / "kaasq-local-22222222").write_bytes(b"a file")
    linked = place / "kaasq-local-33333333"
    linked.mkdir(mode=0o700)
    (linked / "store").symlink_to(elsewhere)
    (left(place, "kaasq-local-44444444") / "notes.txt").write_bytes(b"somebody's own")
    left(place, "kaasq-local-55555555").chmod(0o755)
    left(place, "kaasq-local-mine")
    left(place, "kaasq-ab12_xyz")
    before = sorted(place.rglob("*"))
    remove_left(place)
    assert sorted(place.rglob("*")) == before


def test_those_of_another_user_stay(place: Path) -> None:
    folder = left(place)
    remove_left(place, user=os.geteuid() + 1)
    assert folder.exists()
    remove_left(place)
    assert not folder.exists()


def test_a_place_that_is_not_there_is_nothing_to_tell(place: Path) -> None:
    remove_left(place / "none")


def test_of_many_that_start_at_once_none_takes_another_s_for_left(place: Path) -> None:
    def use(_: int) -> bool:
        folder = TemporaryFolder()
        (folder.path / "store").mkdir()
        remove_left(place)
        there = folder.path.exists()
        folder.delete()
        return there

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(400)))
    assert list(place.iterdir()) == []

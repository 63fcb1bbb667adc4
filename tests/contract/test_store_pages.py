"""Files in shared memory, in huge pages where there are any: whole before they are written, with nobody's old bytes."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from kaasq.model import content_hash
from kaasq_storage import open_store
from kaasq_storage.mapping import HUGE_PAGE_BYTES, mapped
from kaasq_storage.pages import FROM_BYTES, allocate

HUGE = HUGE_PAGE_BYTES or 2 << 20
LARGE = 5 * HUGE + 12_345
SEVERAL_PIECES = 16 * HUGE  # for several threads
SHARED_MEMORY = Path("/dev/shm")
NO_HUGE_PAGES = 41  # PR_SET_THP_DISABLE
COLLAPSE = 25  # MADV_COLLAPSE


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in shared memory; anywhere, where there is none."""
    with TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture(params=["memory", "disk"])
def place(request: pytest.FixtureRequest, memory: Path, tmp_path: Path) -> Path:
    return memory if request.param == "memory" else tmp_path


# ------------------------------------------------------------------------------------------------------------ pages


def check_pages(path: Path, start: int, end: int) -> None:
    """Allocate a file from there on, whose bytes before are ones."""
    path.write_bytes(b"\1" * start)
    with path.open("r+b") as file:
        allocate(file.fileno(), start, end, memory=True)
        status = os.fstat(file.fileno())
        assert status.st_size == end
        assert status.st_blocks * 512 >= end
        contents = mapped(file.fileno(), end)
        assert (contents[:start] == 1).all()
        assert not contents[start:].any()


@pytest.mark.parametrize("end", [FROM_BYTES - 1, FROM_BYTES, LARGE, 33 << 20])
@pytest.mark.parametrize("start", [0, 1, HUGE, FROM_BYTES - 2])
def test_a_file_has_all_its_pages_and_they_hold_zeros(place: Path, start: int, end: int) -> None:
    check_pages(place / "file", start, end)


def without_huge_pages() -> None:
    assert not ctypes.CDLL(None).prctl(NO_HUGE_PAGES, 1, 0, 0, 0)


def limit_memory(nbytes: int) -> None:
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE + nbytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def without_address_space() -> None:
    limit_memory(SEVERAL_PIECES // 2)


def without_threads() -> None:
    limit_memory(SEVERAL_PIECES + 3 * HUGE)  # the file's mapping, but no stack


@pytest.mark.parametrize("limited", [without_huge_pages, without_address_space, without_threads])
def test_where_huge_pages_are_not_to_be_had_it_has_small_ones(memory: Path, limited: Callable[[], None]) -> None:
    path = memory / "file"
    done = subprocess.run([sys.executable, __file__, limited.__name__, str(path)], check=False, timeout=60)
    assert done.returncode == 0
    assert (path.stat().st_size, path.stat().st_blocks * 512) == (SEVERAL_PIECES, SEVERAL_PIECES)


def test_they_are_huge_wherever_the_system_collapses_a_file_at_all(memory: Path) -> None:
    def huge_bytes(path: Path) -> int:
        """Of all mappings of that file in this process."""
        ours = Path("/proc/self/smaps").read_text().partition(str(path))[2].partition("VmFlags")[0]
        found = [line.split()[1] for line in ours.splitlines() if line.startswith("ShmemPmdMapped")]
        return int(found[0]) << 10 if found else 0

    bare, ours = memory / "bare", memory / "ours"
    with bare.open("w+b") as file:
        os.posix_fallocate(file.fileno(), 0, 2 * HUGE)
        by_hand = mapped(file.fileno(), 2 * HUGE, writable=True)
        refused = ctypes.CDLL(None).madvise(ctypes.c_void_p(by_hand.ctypes.data), ctypes.c_size_t(2 * HUGE), COLLAPSE)
        by_hand[:] = 1
        assert bool(huge_bytes(bare)) is not bool(refused)
    with ours.open("w+b") as file:
        allocate(file.fileno(), 0, LARGE, memory=True)
        contents = mapped(file.fileno(), LARGE, writable=True)
        contents[:] = 1
        assert huge_bytes(ours) == (0 if refused else LARGE // HUGE * HUGE)


# ---------------------------------------------------------------------------------------------------------- mappings


@pytest.mark.parametrize("nbytes", [1, HUGE - 1, HUGE, LARGE])
def test_a_mapping_ends_with_the_last_array_that_refers_to_it(tmp_path: Path, nbytes: int) -> None:
    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path / "file"))

    (tmp_path / "file").write_bytes(os.urandom(nbytes))
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    contents = mapped(fd, nbytes)
    os.close(fd)
    assert contents.tobytes() == (tmp_path / "file").read_bytes()
    with pytest.raises(ValueError, match="read-only"):
        contents[0] = 1
    part = contents[-1:]
    del contents
    gc.collect()
    assert mappings() == 1
    assert part[0] == (tmp_path / "file").read_bytes()[-1]
    del part
    gc.collect()
    assert mappings() == 0


def test_a_mapping_that_cannot_be_had_says_why_and_keeps_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(HUGE))
    with path.open("rb") as file, pytest.raises(PermissionError):
        mapped(file.fileno(), HUGE, writable=True)
    gc.collect()
    assert path not in [each.resolve() for each in Path("/proc/self/fd").iterdir()]
    assert str(path) not in Path("/proc/self/maps").read_text()


# ------------------------------------------------------------------------------------------------------------ stores


def test_who_is_killed_between_allocating_and_publishing_leaves_nothing(memory: Path) -> None:
    path = memory / "store"
    child = subprocess.Popen([sys.executable, __file__, "stage", str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"staged\n"
    with open_store(path) as store:
        assert store.usage().used == LARGE
        store.gc()
        assert store.usage().used == LARGE  # it lives
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        child.stdout.close()
        assert store.gc().orphans == 1
        assert store.usage().used == 0
        assert not [*(path / "staging").iterdir(), *(path / "spare").iterdir()]


def test_a_tenants_file_starts_as_zeros_and_no_object_shows_what_its_file_held(memory: Path) -> None:
    secret = b"secret"
    with open_store(memory / "store", spare_bytes=1 << 30) as store:

        def put(tenant: str, nbytes: int, value: bytes) -> str:
            staged = store.stage(tenant, nbytes)
            whole = np.frombuffer(staged.data, np.uint8)
            if tenant == "b":
                assert not whole.any()
            whole[:] = np.frombuffer((value * (nbytes // len(value) + 1))[:nbytes], np.uint8)
            del whole
            staged.seal()
            with store.transaction() as transaction:
                return transaction.publish(staged)[0].ref

        for nbytes in (LARGE, LARGE - HUGE, LARGE // 2 + 1, LARGE):
            for tenant, value in (("a", secret), ("b", b"other")):
                ref = put(tenant, nbytes, value)
                (file,) = (memory / "store" / "objects" / tenant).rglob(ref)
                assert content_hash(file.read_bytes()) == ref  # nothing beside it in the file either
                store.delete(tenant, ref=ref)
                for each in (memory / "store" / "spare").glob("b.*"):
                    each.unlink()  # so that its next one is new
                gc.collect()


def test_several_processes_write_read_and_delete_beside_each_other(memory: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, __file__, "work", str(memory / "store"), tenant])
        for tenant in ("a", "a", "b")
    ]
    assert [each.wait(90) for each in children] == [0, 0, 0]
    with open_store(memory / "store") as store:
        assert store.gc().orphans == 0
        assert (store.usage().used, store.usage().objects) == (0, 0)


def stage(path: str) -> None:
    with open_store(path) as store:
        staged = store.stage("a", LARGE)
        staged.data[:5] = b"bytes"
        print("staged", flush=True)
        signal.pause()


def work(path: str, tenant: str) -> None:
    random = np.random.default_rng(os.getpid())
    with open_store(path, sync=False, spare_bytes=3 * LARGE) as store:
        for _ in range(20):
            data = random.integers(0, 256, int(random.integers(FROM_BYTES, LARGE)), np.uint8)
            ref = store.put(tenant, data.data)[0].ref
            with store.open(tenant, ref) as reading:
                assert content_hash(bytes(reading.data)) == ref
            store.delete(tenant, ref=ref)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["stage", path]:
            stage(path)
        case ["work", path, tenant]:
            work(path, tenant)
        case [how, path]:
            with Path(path).open("w+b") as file:
                {each.__name__: each for each in (without_huge_pages, without_address_space, without_threads)}[how]()
                allocate(file.fileno(), 0, SEVERAL_PIECES, memory=True)

"""A store that cannot be used says so, and what to do: full disk, no permission, not a store, a newer one."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import lmdb
import numpy as np
import pytest

from kaasq import errors
from kaasq.model import content_hash
from kaasq_storage import Outcome, open_store
from kaasq_storage.errors import translated
from kaasq_storage.mounts import network_file_system
from tests.support.logs import log_lines

# --------------------------------------------------------------------------------------------------------- full disks


def fill(path: str, nbytes: int) -> None:
    """Runs on a tiny disk, or with a limit on the size of files: fill the store, make room, fill it again."""
    with open_store(path, capacity=1 << 40, sync=False) as store:
        stored: list[str] = []
        with pytest.raises(errors.StoreFull, match="make room on the disk") if fills(nbytes) else nullcontext():
            for i in range(500):
                store.put("a", np.random.default_rng(i).bytes(nbytes), name=f"{i}")
                stored.append(f"{i}")
        assert [each.name for each in store.names("a")] == sorted(stored)
        for each in store.names("a"):
            with store.open("a", each.object.ref) as reading:
                assert content_hash(bytes(reading.data)) == each.object.ref
        assert store.usage().used == nbytes * len(stored)
        for name in stored[:10]:
            store.delete("a", name=name)  # a full disk does not keep one from making room
        store.gc()
        store.put("a", os.urandom(nbytes), name="again")
        with store.transaction() as txn:
            assert txn.record("a", "id", Outcome(body="b", reply=b"", expires=1.0))
        with pytest.raises(errors.StoreFull) as caught:
            store.stage("a", 64 << 20)
        assert caught.value.needed == 64 << 20
        for each in list(store.names("a")):
            store.delete("a", name=each.name)
        store.gc()
        assert (store.usage().used, store.usage().objects) == (0, 0)
    print("filled", end="")


def fills(nbytes: int) -> bool:
    """A limit on the size of each file does not bind files that are smaller, however many."""
    return nbytes == 20_000 or resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 8 MiB, where one may mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        yield None
        return
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("how", "nbytes"),
    [("disk", 20_000), ("disk", 100_000), ("disk", 5 << 20), ("limit", 20_000), ("limit", 100_000)],
)
def test_a_full_disk_is_store_full_and_leaves_the_store_usable(
    how: str, nbytes: int, tiny_disk: Path | None, tmp_path: Path
) -> None:
    # Where nobody may mount, the limit on file sizes stands in for both: LMDB sees a write cut short either way.
    limit = how == "limit" or tiny_disk is None
    nbytes = min(nbytes, 100_000) if limit else nbytes
    done = subprocess.run(
        [sys.executable, __file__, str((tmp_path if limit else tiny_disk or tmp_path) / "store"), str(nbytes)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))) if limit else None,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("filled", "", 0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_refuses_a_file_is_store_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(fd: int, offset: int, nbytes: int) -> None:
        raise OSError(number, os.strerror(number))

    clock = [1e9]
    with open_store(tmp_path / "s", sync=False, clock=lambda: clock[0]) as store:
        store.put("a", bytes(100_000), ttl_s=1)
        clock[0] += 2
        monkeypatch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(errors.StoreFull, match="disk") as caught:
            store.put("a", bytes(200_000))
        assert caught.value.needed == 200_000
        assert store.usage().objects == 0  # what had expired was removed before refusing
        assert list((tmp_path / "s" / "staging").iterdir()) == []


# ------------------------------------------------------------------------------------------------- what is no store


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(errors.StoreUnavailable, match="no folder"):
            open_store(path)


def test_a_folder_with_other_things_in_it(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(errors.StoreUnavailable, match="not empty"):
        open_store(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_database(tmp_path: Path) -> None:
    open_store(tmp_path / "s").close()
    (tmp_path / "s" / "meta" / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(errors.StoreUnavailable, match="no kaasq store"):
        open_store(tmp_path / "s")


def test_another_programs_database(tmp_path: Path) -> None:
    (tmp_path / "s" / "meta").mkdir(parents=True)
    with lmdb.open(str(tmp_path / "s" / "meta")) as env, env.begin(write=True) as txn:
        txn.put(b"key", b"value")
    with pytest.raises(errors.StoreUnavailable, match="no kaasq store"):
        open_store(tmp_path / "s")


def test_a_store_of_a_newer_format(tmp_path: Path) -> None:
    open_store(tmp_path / "s").close()
    with lmdb.open(str(tmp_path / "s" / "meta")) as env, env.begin(write=True) as txn:
        txn.put(b"S", b'{"format": 2, "anything": "else"}')
    with pytest.raises(errors.StoreUnavailable, match="format 2"):
        open_store(tmp_path / "s")


def test_halves_of_two_stores(tmp_path: Path) -> None:
    for name in ("one", "two"):
        open_store(tmp_path / name).close()
    (tmp_path / "one" / "blobs").rename(tmp_path / "one" / "old")
    (tmp_path / "two" / "blobs").rename(tmp_path / "one" / "blobs")
    with pytest.raises(errors.StoreUnavailable, match="different stores"):
        open_store(tmp_path / "one")


def test_a_store_that_failed_to_open_can_be_opened_once_mended(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("in the way")
    with pytest.raises(errors.StoreUnavailable):
        open_store(path)
    path.unlink()
    open_store(path).close()


def test_a_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # chmod does not bind root, who often runs tests: the system's answer is put in LMDB's mouth.
    for number in (errno.EROFS, errno.EACCES):
        failure: Exception = lmdb.Error(os.strerror(number))
        failure.code = number  # type: ignore[attr-defined]

        def refuse(*args: object, failure: Exception = failure, **options: object) -> None:
            raise failure

        monkeypatch.setattr(lmdb, "open", refuse)
        with pytest.raises(errors.StoreUnavailable, match=r"cannot be written.*permission"):
            open_store(tmp_path / "s")


def test_another_use_of_the_same_folder_in_this_process(tmp_path: Path) -> None:
    with open_store(tmp_path / "s", sync=False) as store:
        (tmp_path / "link").symlink_to(tmp_path / "s")
        with open_store(tmp_path / "link", sync=False) as same:
            assert same.id == store.id
        with pytest.raises(errors.StoreUnavailable, match="other options"):
            open_store(tmp_path / "s", sync=True)


@pytest.mark.parametrize(
    "kind", [each for each in vars(lmdb).values() if isinstance(each, type) and issubclass(each, lmdb.Error)]
)
def test_every_error_of_lmdb_is_translated(kind: type[lmdb.Error], tmp_path: Path) -> None:
    full = kind in {lmdb.MapFullError, lmdb.DiskError}
    found = translated(kind("text"), tmp_path, 5)
    assert isinstance(found, errors.StoreFull if full else errors.StoreUnavailable)
    assert str(tmp_path) in found.message


def test_processes_that_make_a_store_at_once_make_one(tmp_path: Path) -> None:
    code = "import sys; from kaasq_storage import open_store; sys.stdin.read(1); print(open_store(sys.argv[1]).id)"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")], stdin=-1, stdout=-1, text=True)
        for _ in range(4)
    ]
    ids = {each.communicate("x", timeout=20)[0] for each in started}
    assert len(ids) == 1
    with open_store(tmp_path / "s") as store:
        assert {f"{store.id}\n"} == ids


def test_a_synced_store_brings_bytes_to_the_disk_before_their_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(100_000)
    ref = content_hash(data)
    seen: list[tuple[str, bool]] = []
    fsync = os.fsync
    with open_store(tmp_path / "s", sync=True) as store:

        def watched(fd: int) -> None:
            where = Path(f"/proc/self/fd/{fd}").readlink().relative_to(tmp_path / "s")
            seen.append((where.parts[0] if where.parts[0] == "staging" else str(where), visible()))
            fsync(fd)

        def visible() -> bool:
            return any(each.ref == ref for each in store.objects("a"))

        monkeypatch.setattr(os, "fsync", watched)
        store.put("a", data)
        folders = {f"objects/a/{ref[:2]}", "objects/a", "objects"}
        assert seen[0] == ("staging", False)
        assert set(seen[1:]) == {(each, False) for each in folders}
        seen.clear()
        store.put("b", b"small")
        assert seen == []  # LMDB does that by itself
    with open_store(tmp_path / "unsynced", sync=False) as store:
        store.put("a", data)
        assert seen == []


# ---------------------------------------------------------------------------------------------------- damage, healed


def test_what_has_lost_its_bytes_is_forgotten(tmp_path: Path) -> None:
    """As after a power cut with sync=False, or after somebody removed files."""
    with open_store(tmp_path / "s", sync=False) as store:
        small = store.put("a", b"small", name="small")[0].ref
        large = store.put("a", bytes(100_000), name="large")[0].ref
        kept = store.put("a", bytes(100_001), name="kept")[0].ref
        with store.transaction() as txn:
            txn.record("a", "id", Outcome(body="b", reply=bytes(9000)))
    next((tmp_path / "s" / "objects").glob(f"*/*/{large}")).unlink()
    with lmdb.open(str(tmp_path / "s" / "blobs"), map_size=1 << 30) as env, env.begin(write=True) as txn:
        for key in [bytes(key) for key, _ in txn.cursor() if key != b"S"]:
            txn.delete(key)
    with open_store(tmp_path / "s", sync=False) as store:
        for ref in (small, large):
            with pytest.raises(errors.NameNotFound):
                store.open("a", ref)
        assert store.outcome("a", "id") is None
        assert store.gc().objects == 2
        assert [each.object.ref for each in store.names("a")] == [kept]
        assert [each.ref for each in store.objects("a")] == [kept]
        with store.transaction() as txn:
            assert txn.record("a", "id", Outcome(body="b", reply=b"again"))
        assert (store.usage().used, store.usage().outcomes) == (100_006, 1)


def test_a_collection_passes_over_what_others_have_put_into_the_folder(tmp_path: Path) -> None:
    with open_store(tmp_path / "s", sync=False) as store:
        stored, _ = store.put("ann", bytes(100_000))
        objects = tmp_path / "s" / "objects"
        folder = objects / "ann" / stored.ref[:2]
        (objects / "lost+found").mkdir(mode=0)  # the folder may be a disk of its own
        strays = [folder / ("x" * 64), folder / content_hash(b"elsewhere"), folder / "notes.txt"]
        for each in strays:
            each.write_bytes(b"?")
        leftover = folder / (stored.ref[:2] + "0" * 62)
        leftover.write_bytes(b"nobody's")
        assert store.gc().orphans == 1
        assert not leftover.exists()
        assert all(each.exists() for each in strays)
        with store.open("ann", stored.ref) as reading:
            assert reading.data.nbytes == 100_000


def test_a_file_cut_short_is_not_mapped(tmp_path: Path) -> None:
    with open_store(tmp_path / "s", sync=False) as store:
        ref = store.put("a", bytes(100_000))[0].ref
        os.truncate(next((tmp_path / "s" / "objects").glob(f"*/*/{ref}")), 5000)
        with pytest.raises(errors.NameNotFound, match="gone"):
            store.open("a", ref)


# -------------------------------------------------------------------------------------------------- network mounts

MOUNTS = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:20 / /net rw - nfs4 server:/export rw
24 23 0:21 / /net/local rw - xfs /dev/vdb rw
25 22 0:22 / /with\040blank rw - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv", None),
        ("/net", "nfs4"),
        ("/net/a", "nfs4"),
        ("/network", None),
        ("/net/local/a", None),
        ("/with blank/s", "cifs"),
    ],
)
def test_network_file_systems_are_recognised(tmp_path: Path, path: str, kind: str | None) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert network_file_system(Path(path), mounts) == kind


def test_a_network_file_system_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaasq_storage.environment.network_file_system", lambda path: "nfs")
    with log_lines() as logs:
        open_store(tmp_path / "s").close()
    told = [(each["event"], each["kind"]) for each in logs if each["log_level"] != "debug"]
    assert told == [("store.network_file_system", "nfs")]


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]))

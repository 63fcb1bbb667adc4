"""The cache of compiled code: found again, bounded, private, shared by processes, and never a reason to fail."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kaasq.errors import BadRequest
from kaasq_workers.devices.code_cache import LEFTOVER_S, CodeCache, code_key
from kaasq_workers.devices.cuda.compiled import Compiled, CompiledCache

KEY = code_key("source", "-DA=1")


def test_code_is_found_again_by_its_key(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path / "code")
    assert cache.get(KEY) is None
    cache.put(KEY, b"code")
    assert CodeCache(tmp_path / "code").get(KEY) == b"code"
    assert not list(cache.work.iterdir())


def test_a_key_keeps_its_parts_apart() -> None:
    assert len({code_key("ab", "c"), code_key("a", "bc"), code_key("abc"), code_key("abc", "")}) == 4
    assert code_key("a") == code_key(b"a")


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda data: b""])
def test_a_damaged_entry_is_dropped(tmp_path: Path, damage) -> None:
    cache = CodeCache(tmp_path / "code")
    cache.put(KEY, b"code")
    (path,) = cache.folder.glob("*.code")
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get(KEY) is None
    assert not path.exists()


def test_the_cache_stays_within_its_capacity_and_drops_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path / "code", capacity=10_000)
    keys = [code_key(str(index)) for index in range(20)]
    for key in keys:
        cache.put(key, bytes(1000))
        assert cache.get(keys[0]) is not None  # used all the time
        assert sum(path.stat().st_size for path in cache.folder.glob("*.code")) <= 10_000
    assert [key for key in keys if cache.get(key) is not None] == [keys[0], *keys[-8:]]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(BadRequest, match="only this user can write to"):
        CodeCache(folder)


def test_a_link_to_a_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(BadRequest, match="cache_dir"):
            CodeCache(tmp_path / name)


def test_a_fresh_folder_is_this_users_alone(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path / "code")
    assert {path.stat().st_mode & 0o777 for path in (cache.folder, cache.work)} == {0o700}
    cache.put(KEY, b"code")
    (path,) = cache.folder.glob("*.code")
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_written_is_compiled_all_the_same(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path / "code")
    for each in sorted(cache.folder.rglob("*"), reverse=True):
        each.rmdir()
    cache.folder.rmdir()
    assert cache.get_or_make(KEY, lambda: b"code") == b"code"
    assert cache.get(KEY) is None


def test_what_is_wanted_several_times_at_once_is_made_once(tmp_path: Path) -> None:
    made = []
    together = threading.Barrier(4)

    def make() -> bytes:
        made.append(1)
        time.sleep(0.02)  # long enough for the others to come
        return b"code"

    def want(_: int) -> bytes:
        cache = CodeCache(tmp_path / "code")
        together.wait()
        return cache.get_or_make(KEY, make)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(want, range(4))) == [b"code"] * 4
    assert len(made) == 1


def test_a_failure_to_compile_is_passed_on_and_not_kept(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path / "code")
    with pytest.raises(ZeroDivisionError):
        cache.get_or_make(KEY, lambda: bytes(1 // 0))
    assert cache.get_or_make(KEY, lambda: b"code") == b"code"


def test_what_killed_processes_left_behind_is_removed_after_a_while(tmp_path: Path) -> None:
    work = CodeCache(tmp_path / "code").work
    for name, age_s in (("old", LEFTOVER_S + 60), ("young", 0)):
        (work / name).mkdir()
        (work / name / "module.cpp").touch()
        os.utime(work / name, (time.time() - age_s,) * 2)
    CodeCache(tmp_path / "code")
    assert [path.name for path in work.iterdir()] == ["young"]


def test_machine_code_and_its_symbols_are_kept_together(tmp_path: Path) -> None:
    compiled = Compiled(b"code", {"scale<float>": "_Z"})
    assert CompiledCache(tmp_path / "code").get_or_make(KEY, lambda: compiled) == compiled
    assert CompiledCache(tmp_path / "code").get_or_make(KEY, lambda: Compiled(b"again", {})) == compiled
    assert CompiledCache(None).get_or_make(KEY, lambda: Compiled(b"again", {})) == Compiled(b"again", {})

"""The cache of compiled CUDA code: found again, bounded, private, and never a reason to fail."""

from __future__ import annotations

from pathlib import Path

from kaasq_workers.devices.cuda.code_cache import CodeCache, Compiled


def test_compiled_code_is_found_again_by_its_key(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path / "cache")
    key = CodeCache.key("source", "-DA=1")
    assert key != CodeCache.key("source-DA=1", "")
    assert cache.get(key) is None
    cache.put(key, Compiled(b"code", {"scale<float>": "_Z"}))
    assert CodeCache(tmp_path / "cache").get(key) == Compiled(b"code", {"scale<float>": "_Z"})
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_a_damaged_entry_is_dropped(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path)
    cache.put("a" * 64, Compiled(b"code", {}))
    (path,) = tmp_path.glob("*.code")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert cache.get("a" * 64) is None
    assert not path.exists()


def test_the_cache_stays_below_its_limit_and_drops_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path, limit_bytes=10_000)
    keys = [CodeCache.key(str(index)) for index in range(20)]
    for key in keys:
        cache.put(key, Compiled(bytes(1000), {}))
        assert cache.get(keys[0]) is not None  # used all the time
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000
    assert cache.get(keys[-1]) is not None
    assert cache.get(keys[1]) is None


def test_without_a_usable_folder_nothing_is_kept_and_nothing_breaks(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cache in (CodeCache(None), CodeCache(tmp_path / "file")):
        cache.put("a" * 64, Compiled(b"code", {}))
        assert cache.get("a" * 64) is None

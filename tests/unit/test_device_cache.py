"""The device cache: tenants and parts apart, what is in use stays, what was never loaded goes."""

from __future__ import annotations

from kaasq_workers.executor.device_cache import DeviceCache, Entry, Key


class Memory:
    def __init__(self, nbytes: int) -> None:
        self.address, self.nbytes, self.freed = 256, nbytes, False

    def part(self, offset: int, nbytes: int) -> Memory:
        return Memory(nbytes)

    def free(self) -> None:
        self.freed = True


def key(ref: str, nbytes: int, *, tenant: str = "t", offset: int = 0) -> Key:
    return Key(tenant, ref, offset, nbytes)


def filled(cache: DeviceCache, which: Key) -> Entry:
    assert cache.admit(which)
    entry = cache.put(which, Memory(which.nbytes))
    entry.loaded = True
    return entry


def freed(entry: Entry) -> bool:
    assert isinstance(entry.memory, Memory)
    return entry.memory.freed


def test_what_is_worth_more_replaces_what_was_used_longest_ago():
    cache = DeviceCache(100)
    a, b = (filled(cache, key(each, 40)) for each in "ab")
    for each in (a, b):
        cache.release(each)
    again = cache.use(key("a", 40))
    assert again is a
    cache.release(a)
    wanted = key("c", 40)
    attempts = [cache.admit(wanted) for _ in range(4)]
    assert attempts[0] is False  # what comes once displaces nobody
    assert attempts[-1] is True
    assert (freed(a), freed(b)) == (False, True)
    assert cache.nbytes == 40


def test_what_an_unfinished_request_uses_is_never_evicted():
    cache = DeviceCache(100)
    a = filled(cache, key("a", 80))
    assert cache.use(key("a", 80)) is a
    cache.release(a)  # one of two requests
    assert not any(cache.admit(key("b", 40)) for _ in range(9))
    assert cache.shed(10) == 0
    assert not freed(a)
    cache.release(a)
    assert cache.shed(10) == 80
    assert freed(a)


def test_another_tenants_object_and_another_part_are_not_found():
    cache = DeviceCache(100)
    filled(cache, key("a", 10))
    assert cache.use(key("a", 10, tenant="other")) is None
    assert cache.use(key("a", 10, offset=10)) is None
    assert cache.use(key("a", 9)) is None


def test_what_can_never_fit_is_not_admitted():
    cache = DeviceCache(100)
    assert not cache.admit(key("a", 101))
    assert cache.nbytes == 0


def test_what_its_request_never_loaded_is_dropped():
    cache = DeviceCache(100)
    which = key("a", 60)
    assert cache.admit(which)
    entry = cache.put(which, Memory(60))
    cache.release(entry)
    assert freed(entry)
    assert cache.use(which) is None
    assert cache.nbytes == 0
    assert cache.admit(which)

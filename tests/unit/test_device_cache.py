"""The device cache: bytes counted, tenants apart, what is in use stays."""

from kaasq_workers.executor.device_cache import DeviceCache


class Memory:
    def __init__(self, nbytes: int) -> None:
        self.address, self.nbytes, self.freed = 256, nbytes, False

    def part(self, offset: int, nbytes: int) -> "Memory":
        return Memory(nbytes)

    def free(self) -> None:
        self.freed = True


def test_the_least_recently_used_goes_first_and_bytes_are_counted():
    cache = DeviceCache(100)
    a, b, c = Memory(40), Memory(40), Memory(40)
    assert cache.put("t", "a", a)
    assert cache.put("t", "b", b)
    cache.release()
    assert cache.get("t", "a") is a
    cache.release()
    assert cache.put("t", "c", c)
    assert (a.freed, b.freed, c.freed) == (False, True, False)
    assert cache.nbytes == 80


def test_what_a_running_request_uses_is_never_evicted():
    cache = DeviceCache(100)
    a = Memory(80)
    assert cache.put("t", "a", a)
    assert not cache.put("t", "b", Memory(40))
    assert cache.shed(10) == 0
    assert not a.freed
    cache.release()
    assert cache.shed(10) == 80
    assert a.freed


def test_another_tenants_object_is_not_found():
    cache = DeviceCache(100)
    cache.put("one", "a", Memory(10))
    assert cache.get("two", "a") is None


def test_what_can_never_fit_stays_with_its_owner():
    cache = DeviceCache(100)
    assert not cache.put("t", "a", Memory(101))
    assert cache.nbytes == 0

"""Quotas: whose limit is which, and the bucket of device time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaasq.errors import BadRequest, QuotaExceeded
from kaasq.quotas import INLINE_BYTES, Limits, LimitsByTenant, Quota, Quotas, check_inline, stored_limits
from kaasq.settings import load_settings
from kaasq_workers.executor.device_time import DeviceTime

TEN_A_MINUTE = Limits(device_seconds=10.0, window=60.0)


def test_without_quotas_only_inline_bytes_are_limited():
    assert LimitsByTenant(Quotas()).of("ann") == Limits(0, 0.0, 60.0, INLINE_BYTES)
    assert stored_limits(Quotas()) == (None, {})


def test_a_tenants_own_limit_comes_before_everybodys():
    quotas = Quotas(queued=3, device_seconds=5.0, tenants={"ann": Quota(queued=0, window=1.0)})
    limits = LimitsByTenant(quotas)
    assert limits.of("ann") == Limits(0, 5.0, 1.0, INLINE_BYTES)
    assert limits.of("bob") == Limits(3, 5.0, 60.0, INLINE_BYTES)


def test_bytes_in_the_store_are_left_alone_unless_something_is_said():
    quotas = Quotas(stored_bytes=0, tenants={"ann": Quota(stored_bytes=5), "bob": Quota(queued=1)})
    assert stored_limits(quotas) == (0, {"ann": 5})


def test_quotas_are_read_from_the_file(tmp_path):
    file = tmp_path / "kaasq.toml"
    file.write_text("[quotas]\nstored_bytes = 7\n[quotas.tenants.ann]\ndevice_seconds = 2.5\n")
    quotas = load_settings(environ={}, file=file).quotas
    assert quotas == Quotas(stored_bytes=7, tenants={"ann": Quota(device_seconds=2.5)})


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        (
            "[quotas]\nqueud = 3",
            "kaasq.toml: quotas.queud: unknown setting .did you mean queued..; known are .*stored_bytes",
        ),
        ("[quotas]\nqueued = -3", "kaasq.toml: quotas.queued: -3: .*>= 0"),
        ("[quotas]\nwindow = 0", "kaasq.toml: quotas.window: 0: .*> 0"),
        ("[quotas.tenants.ann]\nqueue = 3", "quotas.tenants.ann.queue: unknown setting .did you mean queued"),
        ("[quotas.tenants.ann]\ntenants = {}", "quotas.tenants.ann.tenants: unknown setting; known are stored_bytes"),
        (
            "[quotas.tenants.ann]\nstored_bytes = 'all'",
            "quotas.tenants.ann.stored_bytes: 'all': is no size",
        ),
    ],
)
def test_wrong_quotas_are_named(tmp_path, toml, says):
    file = tmp_path / "kaasq.toml"
    file.write_text(toml)
    with pytest.raises(BadRequest, match=says):
        load_settings(environ={}, file=file)


def test_inline_bytes_are_refused_above_the_limit():
    check_inline(Limits(inline_bytes=10), 10)
    check_inline(Limits(inline_bytes=0), 1 << 40)
    with pytest.raises(QuotaExceeded) as caught:
        check_inline(Limits(inline_bytes=10), 11)
    assert (caught.value.which, caught.value.limit, caught.value.used) == ("inline_bytes", 10, 11)


def refused(time: DeviceTime, now: float, tenant: str = "ann", limits: Limits = TEN_A_MINUTE) -> QuotaExceeded | None:
    try:
        time.check(tenant, limits, now)
    except QuotaExceeded as error:
        return error
    return None


def test_a_tenant_may_go_on_until_its_allowance_is_used_and_again_when_it_has_filled():
    time = DeviceTime()
    assert refused(time, 0.0) is None
    time.charge("ann", TEN_A_MINUTE, 9.9, 0.0)
    assert refused(time, 0.0) is None
    time.charge("ann", TEN_A_MINUTE, 2.1, 0.0)  # 2 s in debt: 12 s of filling
    error = refused(time, 0.0)
    assert (error.which, error.limit, error.used, error.retry_after_s) == ("device_seconds", 10.0, 12.0, 12.0)
    assert refused(time, 11.9) is not None
    assert refused(time, 12.1) is None


def test_one_tenants_use_is_not_anothers_and_no_limit_is_none():
    time = DeviceTime()
    time.charge("ann", TEN_A_MINUTE, 100.0, 0.0)
    assert refused(time, 0.0, "bob") is None
    time.charge("eve", Limits(), 1e9, 0.0)
    assert refused(time, 0.0, "eve", Limits()) is None


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0.001, 5)), max_size=60))
def test_over_any_time_a_tenant_gets_its_share_and_one_allowance_at_most(steps):
    time, now, used, longest = DeviceTime(), 0.0, 0.0, 0.0
    for pause, kernel_s in steps:
        now += pause
        error = refused(time, now)
        if error is None:
            time.charge("ann", TEN_A_MINUTE, kernel_s, now)
            used, longest = used + kernel_s, max(longest, kernel_s)
        else:
            assert refused(time, now + error.retry_after_s + 0.001) is None
            now += error.retry_after_s + 0.001  # the bucket has been looked at then: time does not go back
    assert used <= 10.0 + now * 10.0 / 60.0 + longest + 1e-6

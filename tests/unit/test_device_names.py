"""Which devices ``--device`` can mean: what can be none is told before anything is connected or started."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from kaasq.errors import BadRequest
from kaasq.settings import Settings
from kaasq_workers import cli
from kaasq_workers.devices import opening
from kaasq_workers.devices.opening import device_names, one_device
from tests.support.packages import install


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:12"])
def test_a_name_means_itself(name: str) -> None:
    assert device_names(name) == [name]
    assert one_device(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "there is no device 'gpu': say cpu, cuda:0, all or auto"),
        ("", "there is no device ''"),
        ("gpu:0", "there is no device 'gpu:0'"),
        ("cuda:x", "'cuda:x': a device is cpu, cuda:0, cuda:1, ..., all or auto"),
        ("cuda:-1", "'cuda:-1': a device is"),
        ("cuda:0:1", "'cuda:0:1': a device is"),
    ],
)
def test_what_can_be_no_device(name: str, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        device_names(name)
    assert caught.value.message.startswith(f"device: {message}")


def test_a_worker_says_so_before_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "RabbitBroker", None)
    with pytest.raises(BadRequest, match="there is no device 'gpu'"):
        cli.serve(Settings(device="gpu"), threading.Event(), threading.Event(), 0.0)


def test_all_and_auto_follow_the_gpus_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "count_gpus", lambda: 2)
    assert (device_names("auto"), device_names("all")) == (["cuda:0"], ["cuda:0", "cuda:1"])
    monkeypatch.setattr(opening, "count_gpus", lambda: 0)
    assert device_names("auto") == ["cpu"]
    for mean in (device_names, one_device):
        with pytest.raises(BadRequest, match="no usable GPU"):
            mean("all")


def test_a_package_may_add_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "other-devices", {"other": "made = print"}, {opening.GROUP: {"tpu": "other:made"}})
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert device_names("tpu:1") == ["tpu:1"]
    with pytest.raises(BadRequest):
        device_names("tpux")

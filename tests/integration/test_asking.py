"""Questions about workflows, while the only executor is in a kernel that does not end: real processes, one broker."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import kaasq
from tests.support.graphs import held, saxpy
from tests.support.tenants import tenants
from tests.support.waiting import until

X = np.arange(4, dtype=np.float32)
TIMEOUT_S = 60.0


def hung(folder: Path) -> kaasq.Workflow:
    flow = kaasq.Workflow("hung")
    flow.step("hang", held(folder))
    return flow


def short() -> kaasq.Workflow:
    flow = kaasq.Workflow("short")
    flow.output("sum", flow.step("add", saxpy(4), x=X, y=X)["out"])
    return flow


def informants() -> list[int]:
    """The processes that answer in an executor's place, of workers in this process."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"PPid:\t{os.getpid()}\n" in (each / "status").read_text()
            if ours and b"kaasq_workers.informing" in (each / "cmdline").read_bytes():
                found.append(int(each.name))
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.parametrize("isolation", ["shared", "tenant"])
def test_questions_are_answered_while_the_only_executor_is_in_a_kernel(tmp_path: Path, isolation: str) -> None:
    with tenants("cpu", tmp_path, "ann", "bob", isolation=isolation, isolation_executors=1) as (ann, bob):
        ended = ann.run(short(), timeout=TIMEOUT_S).id
        assert informants() == []  # nobody had to wait
        run = ann.start(hung(tmp_path))
        until((tmp_path / "begun").exists)
        status = run.status()
        assert [each.state for each in status.steps] == ["running"]
        (item,) = ann.attach(ended).status(items=True).items
        assert (item.state, item.timings is not None, item.worker is not None) == ("completed", True, True)
        assert ann.attach(ended).wait(TIMEOUT_S)["sum"].tolist() == [0, 3, 6, 9]
        assert {each.id for each in ann.workflows()} == {run.id, ended}
        with pytest.raises(kaasq.NameNotFound, match="there is no workflow 'never'"):
            ann.attach("never").status()

        assert bob.workflows().total == 0  # others' are not there
        for each in (run.id, ended):
            with pytest.raises(kaasq.NameNotFound):
                bob.attach(each).status()
            with pytest.raises(kaasq.NameNotFound):
                bob.attach(each).wait(TIMEOUT_S)

        (first,) = informants()
        os.kill(first, signal.SIGKILL)
        assert run.status().state == "running"
        assert informants() != [first]

        (tmp_path / "end").touch()
        assert run.wait(TIMEOUT_S).flow.state == "completed"
    assert informants() == []

"""Processes that rigs start end with whoever started them, however that ends."""

from __future__ import annotations

import subprocess
import sys

from kaasq_bench.children import tied
from kaasq_bench.rabbitmq.processes import is_alive
from tests.support.waiting import until

PARENT = """
import subprocess, sys, time
from kaasq_bench.children import tied
child = subprocess.Popen(tied(sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"), stdout=-1)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_child_ends_when_its_parent_is_killed():
    with subprocess.Popen(tied(sys.executable, "-c", PARENT), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    until(lambda: not is_alive(child))


def test_a_child_is_the_command_itself():
    done = subprocess.run(tied(sys.executable, "-c", "raise SystemExit(7)"), check=False)
    assert done.returncode == 7

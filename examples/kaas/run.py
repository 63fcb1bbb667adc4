"""A request in the KaaS format: puts its inputs under their keys, runs it, gets its output. Needs nothing running.

With workers, their module folder takes the place of ``settings``: ``kaasq worker --modules examples/kaas``, then
``kaasq.Client()`` instead of ``kaasq.local()``, or any program that publishes ``dot.json`` as it stands.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import kaasq
from kaasq import kaas
from kaasq.settings import load_settings

FOLDER = Path(__file__).parent

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--device", default="auto", help="cpu, cuda:0 or auto (a GPU if there is one)")
device = parser.parse_args().device

request = kaas.load(FOLDER / "dot.json")
numbers = np.arange(1024, dtype=np.uint32)

with kaasq.local(device=device, settings=load_settings({"modules": str(FOLDER)})) as client:
    client.put(numbers, name="example/a")
    client.put(numbers, name="example/b")
    client.run(request)
    print("0*0 + 1*1 + ... + 1023*1023 =", client.get("example/dot").view(np.uint32)[0])

    client.put(np.ones_like(numbers), name="example/ones")
    client.run(request.with_keys({"b": "example/ones", "dot": "example/sum"}))
    print("0 + 1 + ... + 1023 =", client.get("example/sum").view(np.uint32)[0])

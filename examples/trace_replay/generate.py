"""Makes mixed.csv: many small interactive jobs and a few large ones, each kind a Poisson process. See README.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from examples.trace_replay.arrivals import FIELDS, Arrival

FILE = Path(__file__).with_name("mixed.csv")
SEED = 7
LENGTH_S = 8.0


def mixed(seed: int = SEED, length_s: float = LENGTH_S) -> list[Arrival]:
    """30 interactive jobs per second, sizes log-normal around 1024 numbers (sigma 1, from 64 to 16384); one large job
    per second, sizes log-uniform from 2**18 to 2**21 numbers (1 to 8 MiB).
    """
    random = np.random.default_rng(seed)
    small = [
        Arrival(at, "interactive", int(np.clip(random.lognormal(np.log(1024)), 64, 16384)))
        for at in poisson(random, 30, length_s)
    ]
    large = [Arrival(at, "large", int(2 ** random.uniform(18, 21))) for at in poisson(random, 1, length_s)]
    return sorted([*small, *large], key=lambda each: each.at_s)


def poisson(random: np.random.Generator, rate: float, length_s: float) -> list[float]:
    """Arrival times at that rate: what lies between two is exponentially distributed."""
    times, now = [], random.exponential(1 / rate)
    while now < length_s:
        times.append(round(float(now), 4))
        now += random.exponential(1 / rate)
    return times


def as_csv(arrivals: list[Arrival]) -> str:
    """The file's text."""
    rows = [f"{each.at_s:.4f},{each.kind},{each.size}" for each in arrivals]
    return "\n".join([",".join(FIELDS), *rows]) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_csv(mixed()), encoding="utf-8")

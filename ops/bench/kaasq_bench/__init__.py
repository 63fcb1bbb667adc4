"""The benchmark suite: what kaasq costs beside what it stands on and beside its peers. ``./ops/bench/run --help``."""

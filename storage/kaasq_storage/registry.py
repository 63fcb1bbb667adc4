"""Which stores this process has open: each folder once, for LMDB's locks break when a process opens a file twice."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from kaasq.errors import StoreUnavailable
from kaasq_storage.environment import Environment, Options
from kaasq_storage.errors import Faults

_open_stores: dict[Path, Environment] = {}
_lock = threading.Lock()


def acquire(path: Path, options: Options) -> Environment:
    """The environment of that folder, opened or shared. Raises StoreUnavailable."""
    with Faults(path):
        path = path.expanduser().resolve()
    with _lock:
        env = _open_stores.get(path)
        if env is None:
            env = _open_stores[path] = Environment(path, options, _close_if_idle)
        elif env.forked:
            raise StoreUnavailable(forked_message(path), path=str(path))
        elif env.options != options:
            raise StoreUnavailable(
                f"the store {path} is already open in this process with other options: {env.options}", path=str(path)
            )
        env.users += 1
        return env


def release(env: Environment) -> None:
    """One user fewer; the last one gone, the environment closes when the last reading of it ends."""
    with _lock:
        env.users -= 1
        if not env.forked:
            _close_if_unused(env)


def forked_message(path: Path) -> str:
    """What to tell who uses a store across fork."""
    return (
        f"the store {path} was open when this process was forked, and LMDB does not survive that: open stores "
        "only after forking, or start processes with multiprocessing's 'spawn'"
    )


def _close_if_idle(env: Environment) -> None:
    # May run inside a weak reference's callback, where waiting for the lock could mean waiting for oneself. Not
    # getting it is harmless: the environment stays open for the next one who asks for it.
    if not env.users and not env.forked and _lock.acquire(blocking=False):
        try:
            _close_if_unused(env)
        finally:
            _lock.release()


def _close_if_unused(env: Environment) -> None:
    if not env.users and not env.snapshots.open and _open_stores.get(env.path) is env:
        del _open_stores[env.path]
        env.close()


def _after_fork() -> None:
    # Closing or aborting here would clear the parent's slots in the shared reader table: leave everything alone.
    global _lock
    _lock = threading.Lock()
    for env in _open_stores.values():
        env.abandon()


os.register_at_fork(after_in_child=_after_fork)

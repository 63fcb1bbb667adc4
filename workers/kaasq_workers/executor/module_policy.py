"""Which modules a worker runs: any, those on a list, or those that are signed. Built-ins always.

Files of the worker's own module folders are the operator's, and allowed as they are: with compiler options, which come
with the request and can give every word in them another meaning, they are modules like others. What is added to the
list or to the keys counts from the next module on that is not allowed yet; what is removed, from the next start on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kaasq import signing
from kaasq.errors import BadRequest, Forbidden
from kaasq.model import Module
from kaasq.names import is_ref
from kaasq.settings import Settings

AGAIN_S = 1.0  # so that who sends forbidden modules all the time does not have files read all the time


class ModulePolicy:
    """Of one worker. Raises BadRequest for a list or for keys that cannot be read."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = settings.module_policy
        self._clock = clock
        self._allowed: set[str] = set()  # hashes
        self._keys: list[Any] = []
        self._read_at = clock()
        self._path = Path()
        if self._policy == "listed":
            self._path = _given(settings.module_list, "module_list")
        elif self._policy == "signed":
            self._path = _given(settings.module_keys, "module_keys")
            if not self._path.is_dir():
                raise BadRequest(f"{str(self._path)!r} is no folder", at="module_keys")
        self._read()

    def check(self, module: Module, sent: Module) -> None:
        """Raises Forbidden for a module that may not run. ``sent``: as the request has it, a library maybe."""
        if self._policy == "any":
            return
        if sent.kind == "library" and not sent.path.startswith("@") and not sent.options:
            return
        if self._is_allowed(module.hash, sent.signature):
            return
        if self._clock() - self._read_at > AGAIN_S:
            self._read()
            if self._is_allowed(module.hash, sent.signature):
                return
        raise self._refusal(module, sent)

    def _is_allowed(self, module_hash: str, signature: bytes) -> bool:
        if module_hash in self._allowed:
            return True
        if self._policy != "signed" or not signature or not signing.is_signed(module_hash, signature, self._keys):
            return False
        self._allowed.add(module_hash)  # it is the code that was approved, whoever sends it
        return True

    def _read(self) -> None:
        self._read_at = self._clock()
        if self._policy == "listed":
            self._allowed |= read_list(self._path)
        elif self._policy == "signed":
            self._keys = signing.read_keys(self._path)

    def _refusal(self, module: Module, sent: Module) -> Forbidden:
        what = f"module {module.hash}" + (f" (library {sent.path!r})" if sent.kind == "library" else "")
        if self._policy == "listed":
            told = (
                f"{what} is not on the list of modules that this worker runs: have its operator add the hash as a line "
                "of module_list"
            )
        elif sent.signature:
            told = (
                f"{what} has a signature by none of the keys that this worker trusts: sign it as it is, options "
                "included, with one of them"
            )
        else:
            told = f"{what} is not signed, and this worker runs signed modules only: kaasq sign FILE --key KEY"
        return Forbidden(told, module=module.hash, policy=self._policy)


def read_list(path: Path) -> set[str]:
    """The hashes in a file, one a line; what follows a # is for people. Raises BadRequest."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise BadRequest(f"cannot read it: {error.strerror}", at=f"module_list: {path}") from None
    except UnicodeDecodeError:
        raise BadRequest("is no text", at=f"module_list: {path}") from None
    found: set[str] = set()
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text and not is_ref(text):
            raise BadRequest(f"{text[:80]!r} is no module's hash: 64 hexadecimal digits", at=f"{path}:{number}")
        found |= {text} if text else set()
    return found


def _given(path: str, setting: str) -> Path:
    if not path:
        raise BadRequest(f"is needed with this module_policy ({setting} is empty)", at=setting)
    return Path(path).expanduser()

"""A page that front and executor share: which requests are running, and signs of life.

It lets the front see without a message per request what the executor is running: if the executor dies, those are the
suspects.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

RUNNING_MOST = 64
_WORD = struct.Struct("<Q")
_RUNNING = struct.Struct("<QQ")
_PLACES = 1 << 16  # prefetch is at most one less
_TURNS_AT = RUNNING_MOST * _RUNNING.size
_PULSE_AT = _TURNS_AT + _WORD.size
_DRAINING_AT = _PULSE_AT + _WORD.size
_WITHDRAWN_AT = _DRAINING_AT + _WORD.size
_NAMES_AT = _WITHDRAWN_AT + _PLACES * _WORD.size
_NAME_BYTES = 256  # its length, and a graph's name as it fits into a routing key
_VITALS_BYTES = _NAMES_AT + RUNNING_MOST * _NAME_BYTES

_STEP = 1 << 42  # more requests than a front ever takes
_LAST_STEP = (1 << 64) - _STEP


def next_tag(tag: int) -> int | None:
    """The tag of the request that goes on where the one with this tag has ended; None if there are no more.

    The front's own tags are small. So no two requests have the same one, whoever of front and executor makes it, and
    all that stand on one delivery have one place in the page.
    """
    return tag + _STEP if tag < _LAST_STEP else None


def goes_on_from(tag: int, before: int) -> bool:
    """Whether the request with the first tag goes on from that with the other, directly or not."""
    return tag > before and (tag - before) % _STEP == 0


class Vitals:
    """Shared memory: the requests that are running, each with its deadline; signs of life; which tags are withdrawn.

    A request is known by its tag, which is never 0. Deadlines are in milliseconds since the epoch, 0 for none. Of a
    request's two words the tag is written last and erased first, so that a reader never holds it against another's
    deadline. A tag is withdrawn by its number in the place that is its own (more of them than places are never with
    one executor), so that a running request can look without a system call; what goes on from it (``next_tag``), which
    the front may not have heard of yet, is withdrawn with it.

    Beside a request stands the name of its graph, once it is read: if its executor dies, its event can still be told.

    There are two signs of life, both counters: the turns of the executor's loop, which stand still while a request
    runs that nobody can look into, and the process's pulse, which goes on through any kernel.
    """

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, _VITALS_BYTES)
        self._places: dict[int, int] = {}  # of what runs here
        self._free = list(range(_TURNS_AT - _RUNNING.size, -1, -_RUNNING.size))

    @classmethod
    def create(cls) -> tuple[Vitals, int]:
        """A new page and the file descriptor by which another process maps it.

        Its size stays: whoever looks at a page whose file was cut short is killed, and the executor runs tenants' code.
        """
        fd = os.memfd_create("kaasq-vitals", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _VITALS_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return cls(fd), fd

    @property
    def running(self) -> dict[int, int]:
        """The tags that are running, and their deadlines."""
        return {tag: deadline_ms for tag, deadline_ms in _RUNNING.iter_unpack(self._page[:_TURNS_AT]) if tag}

    @property
    def graphs(self) -> dict[int, str]:
        """The names of the graphs of the tags that are running, as far as they were read."""
        found: dict[int, str] = {}
        for number, (tag, _) in enumerate(_RUNNING.iter_unpack(self._page[:_TURNS_AT])):
            at = _NAMES_AT + number * _NAME_BYTES
            length = self._page[at]
            if tag and length:
                found[tag] = self._page[at + 1 : at + 1 + length].decode("ascii", "replace")
        return found

    @property
    def turns(self) -> int:
        """The turns of the executor's loop so far."""
        return int(_WORD.unpack_from(self._page, _TURNS_AT)[0])

    @property
    def pulse(self) -> int:
        """The beats of the executor's process so far."""
        return int(_WORD.unpack_from(self._page, _PULSE_AT)[0])

    def turn(self) -> None:
        """The loop goes round once more."""
        _WORD.pack_into(self._page, _TURNS_AT, self.turns + 1)

    def beat(self) -> None:
        """The process lives."""
        _WORD.pack_into(self._page, _PULSE_AT, self.pulse + 1)

    @property
    def draining(self) -> bool:
        """Whether the executor is to end soon: chains do not go on in it."""
        return bool(_WORD.unpack_from(self._page, _DRAINING_AT)[0])

    def drain(self) -> None:
        """From now on."""
        _WORD.pack_into(self._page, _DRAINING_AT, 1)

    def begin(self, tag: int, deadline_ms: int = 0) -> None:
        """A request begins; this deadline holds until its own is known. At most ``RUNNING_MOST`` at once."""
        place = self._places[tag] = self._free.pop()
        self._page[self._name_at(place)] = 0
        _WORD.pack_into(self._page, place + _WORD.size, deadline_ms)
        _WORD.pack_into(self._page, place, tag)

    def due(self, tag: int, deadline_ms: int) -> None:
        """A running request's own deadline."""
        _WORD.pack_into(self._page, self._places[tag] + _WORD.size, deadline_ms)

    def read(self, tag: int, graph: str) -> None:
        """A running request's graph has that name."""
        name, at = graph.encode("ascii"), self._name_at(self._places[tag])
        if len(name) < _NAME_BYTES:  # else it fits no routing key either
            self._page[at + 1 : at + 1 + len(name)] = name
            self._page[at] = len(name)

    def end(self, tag: int) -> None:
        """It runs no longer."""
        place = self._places.pop(tag)
        _WORD.pack_into(self._page, place, 0)
        self._free.append(place)

    def withdraw(self, tag: int) -> None:
        """The request with this tag is not to run any further."""
        _WORD.pack_into(self._page, self._place(tag), tag)

    def withdrawn(self, tag: int) -> bool:
        """Whether it is not to run any further, or what it goes on from was not to."""
        word = int(_WORD.unpack_from(self._page, self._place(tag))[0])
        return word > 0 and (word == tag or goes_on_from(tag, word))

    @staticmethod
    def _name_at(place: int) -> int:
        return _NAMES_AT + place // _RUNNING.size * _NAME_BYTES

    @staticmethod
    def _place(tag: int) -> int:
        return _WITHDRAWN_AT + tag % _PLACES * _WORD.size

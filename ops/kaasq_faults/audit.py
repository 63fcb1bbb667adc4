"""Holds the ledger against the store: was anything lost, done twice, wrong, or told otherwise than it was? Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kaasq_faults.ledger import OK, Asked, Ended, Entry, Finished, Known, Started


@dataclass(frozen=True)
class Stored:
    """What the store holds at the end."""

    names: Mapping[str, tuple[int, float]]
    """Version and first element of every name."""
    outcomes: Mapping[str, str]
    """``ok`` or an error's code, of every request id that the ledger knows."""


@dataclass
class Request:
    """One request's life, as the ledger has it."""

    asked: Asked
    id: str | None
    ends: list[Ended] = field(default_factory=list)
    orphan: bool = False
    """Its client was killed before it heard of it, and nobody goes on asking."""


@dataclass
class Verdict:
    """Counts, and every breach in words."""

    asked: int = 0
    flows: int = 0
    """Workflows among them, and their steps."""
    steps: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    orphans: Counter[str] = field(default_factory=Counter)
    """Of killed clients' requests: what the store says of them, for nobody heard."""
    problems: list[str] = field(default_factory=list)

    def merge(self, other: Verdict) -> None:
        """Add what another run gave."""
        self.asked += other.asked
        self.flows += other.flows
        self.steps += other.steps
        self.ends += other.ends
        self.orphans += other.orphans
        self.problems += other.problems


def lives(entries: Iterable[Entry]) -> tuple[list[Request], bool]:
    """The requests in one client's file, and whether its last process finished what it had begun."""
    requests: dict[str, Request] = {}
    finished = False
    for entry in entries:
        match entry:
            case Asked():
                requests[entry.key] = Request(entry, entry.id)
            case Known():
                requests[entry.key].id = entry.id
            case Ended():
                requests[entry.key].ends.append(entry)
            case Started():
                finished = False
                for each in requests.values():
                    each.orphan |= not each.ends and not entry.resumes
            case Finished():
                finished = True
    return list(requests.values()), finished


def audit(files: Mapping[str, Sequence[Entry]], stored: Stored, allowed: Mapping[str, int | None]) -> Verdict:
    """``allowed``: error codes with which requests may end, and how many at most (None: any number)."""
    verdict = Verdict()
    shared: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for client, entries in files.items():
        requests, finished = lives(entries)
        if not finished:
            verdict.problems.append(f"client {client} did not finish")
        for request in requests:
            verdict.asked += 1
            verdict.flows += bool(request.asked.steps)
            verdict.steps += len(request.asked.steps)
            verdict.problems += _judge(request, stored, verdict)
            asked = request.asked
            if asked.shared and asked.name is not None:
                done = OK in {each.end for each in request.ends} or _outcome(request, stored) == OK
                shared[asked.name] += done
                unknown[asked.name] += request.orphan and request.id is None
    for name, completed in shared.items():
        version = stored.names.get(name, (0, 0.0))[0]
        if not completed <= version <= completed + unknown[name]:
            verdict.problems.append(f"{name} has version {version} after {completed} completed requests")
    for code, count in verdict.ends.items():
        if code != OK and not code.startswith("wanted:"):
            most = allowed.get(code, 0)
            if most is not None and count > most:
                verdict.problems.append(f"{count} requests ended with {code}, {most} may")
    return verdict


def _judge(request: Request, stored: Stored, verdict: Verdict) -> list[str]:
    """What is wrong with one request; counts how it ended."""
    asked, key = request.asked, request.asked.key
    wrong: list[str] = []
    outcome = _outcome(request, stored)
    version, value = stored.names.get(asked.name or "", (0, 0.0))
    own = asked.name is not None and not asked.shared
    if request.orphan:
        verdict.orphans[outcome or "none"] += 1
        done = outcome == OK
        if own and request.id is not None and version != done:
            wrong.append(f"{key} (client killed) has outcome {outcome}, and its name version {version}")
    elif len(request.ends) != 1:
        told = ", ".join(each.end for each in request.ends) or "nothing"
        wrong.append(f"{key} ({request.id}) was told {told}; the store says {outcome}")
        done = bool(request.ends)
    else:
        (ended,) = request.ends
        done = ended.end == OK
        wanted = asked.code is not None and ended.end == asked.code
        verdict.ends[f"wanted:{ended.end}" if wanted else ended.end] += 1
        if asked.code is not None and not wanted:
            wrong.append(f"{key} was to end with {asked.code}, and was told {ended.end}: {ended.detail}")
        if not ended.right:
            wrong.append(f"{key} got a wrong answer: {ended.detail}")
        if outcome is not None and request.id is not None and (outcome == OK) != done:
            wrong.append(f"{key} ({request.id}) was told {ended.end}, the store says {outcome}")
        if own and version != done:
            wrong.append(f"{key} ({request.id}) was told {ended.end}, and its name has version {version}")
    for name, want in asked.steps.items():
        times, first = stored.names.get(name, (0, 0.0))
        if times > 1 or (done and not times):
            wrong.append(f"{key} ({request.id}): its step that keeps {name} was done {times} times")
        if times and first != want:
            wrong.append(f"{key}: its step that keeps {name} kept {first}, not {want}")
    if own and version and value != asked.want:
        wrong.append(f"{key} kept {value}, not {asked.want}")
    if own and version > 1:
        wrong.append(f"{key} ({request.id}) was done {version} times")
    return wrong


def _outcome(request: Request, stored: Stored) -> str | None:
    return stored.outcomes.get(request.id or "")

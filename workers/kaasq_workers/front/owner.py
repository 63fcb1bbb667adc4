"""Whom a supervisor tells what becomes of requests and of its executor."""

from __future__ import annotations

from typing import Protocol

from kaasq.errors import KaasqError
from kaasq.messages import ErrorBody
from kaasq_workers.front.stopping import Stopped
from kaasq_workers.link import Answer, Driven, Job, Withdrawn


class Owner(Protocol):
    """Whom a supervisor tells. Each request that it was given ends in exactly one of the first four."""

    def answered(self, answer: Answer, onward: Job | None) -> None:
        """The executor answered a request, and runs that one now: it takes its place."""

    def stopped(self, stopped: Stopped) -> None:
        """A request was stopped, together with its executor."""

    def killed(self, job: Job, error: ErrorBody) -> None:
        """A request killed executors once too often, even the one that was to record so."""

    def unsendable(self, job: Job) -> None:
        """A request that cannot be handed over."""

    def ready(self, error: KaasqError | None) -> None:
        """The executor is up, or cannot start: then it is not tried again."""

    def noted(self, withdrawn: Withdrawn) -> None:
        """What became of withdrawals."""

    def driven(self, driven: Driven) -> None:
        """What is due in workflows."""

    def turned(self) -> None:
        """What the executor had to say has been dealt with."""

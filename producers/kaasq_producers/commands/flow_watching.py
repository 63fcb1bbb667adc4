"""A workflow as a terminal follows it: how it goes, how its steps ended, what became of it when it was cancelled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.live import Live

from kaasq.errors import KaasqError, NameNotFound, ReplyTimeout
from kaasq.flows.model import ENDED, FlowStatus
from kaasq_producers.client import Client
from kaasq_producers.commands import display
from kaasq_producers.flows.display.tree import tree
from kaasq_producers.flows.display.words import tally
from kaasq_producers.flows.result import FlowResult
from kaasq_producers.flows.run import Run
from kaasq_producers.futures import FlowFuture

REDRAWN_S = 0.5
ASKED_S = 5.0  # for an answer to how a cancelled workflow stands
ENDING_S = 10.0  # for it to have ended: an executor that has to be stopped for it is, after a second


def awaited(future: FlowFuture, sent: Run) -> FlowResult:
    """Its result; until then a terminal shows how it goes."""
    with Live(console=Console(stderr=True, highlight=False), auto_refresh=False, transient=True) as live:
        while not wait_for([future], REDRAWN_S).done:
            with suppress(KaasqError):  # it has not begun, or nobody says: then it is asked again
                live.update(tree(sent.status(timeout=2 * REDRAWN_S)), refresh=True)
    return future.result()


def stopped(sent: Run) -> str:
    """Cancel it: what has become of it."""
    try:
        sent.cancel()
        return became(sent)
    except NameNotFound:
        return "is cancelled: it had not begun"
    except KaasqError as error:
        return f"may go on ({error.message}): `kaasq flow show {sent.id}` shows it"


def became(cancelled: Run) -> str:
    """What has become of a workflow whose cancellation the broker has, as far as somebody says so in time."""
    until_s = time.monotonic() + ENDING_S
    told = "is to be cancelled: the broker has that for each worker of the pool"
    look = f"kaasq flow show {cancelled.id}"
    while True:
        try:
            status = cancelled.status(timeout=ASKED_S)
        except ReplyTimeout as error:
            return f"{told}. None has said yet how it stands ({error.detail['timeout_s']:g} s); `{look}` asks again"
        if status.state in ENDED:
            return "is cancelled" if status.state == "cancelled" else f"has ended already: {status.state}"
        if time.monotonic() > until_s:
            return f"{told}. It has not ended yet: {tally(status)}; `{look}` shows it"
        time.sleep(REDRAWN_S)


@contextmanager
def steps_told(client: Client) -> Iterator[None]:
    """If the workflow fails, show how its steps ended, and where they ran, if somebody says so in time."""
    try:
        yield
    except KaasqError as error:
        status = getattr(error, "flow", None)
        if status is not None:
            with suppress(KaasqError):
                status = client.attach(status.id).status(items=True, timeout=ASKED_S)
            Console(stderr=True, highlight=False).print(tree(status, error=False))  # the command tells it when it ends
        raise


def ended(attached: Run, items: int, *, quiet: bool) -> FlowStatus:
    """How it ended; drawn until then. Items are fetched only where they are shown: there may be thousands."""
    console = Console(quiet=True) if quiet else display.console()
    with Live(console=console, auto_refresh=False) as live:
        while (status := attached.status(items=items > 0)).state not in ENDED:
            live.update(tree(status, items=items), refresh=True)
            time.sleep(REDRAWN_S)
        status = attached.status(items=True)
        live.update(tree(status, items=items), refresh=True)
    if not console.is_terminal:
        console.line()  # which Live leaves out there
    return status

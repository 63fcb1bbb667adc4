"""Direct replies, with connection and publisher driven by hand: who waits for whom, who is blamed, what is repeated."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kaasq.broker import Message
from kaasq.errors import BrokerLost, KaasqError
from kaasq.rabbit.direct import SHARES, DirectLimits, DirectReplies
from kaasq.rabbit.publishing import Publish, tell

FORGED = BrokerLost("INTERNAL_ERROR", reply_code=541)
GIVEN_UP = BrokerLost("not confirmed", unconfirmed=True)


class Line:
    """Connection and publisher in one."""

    def __init__(self) -> None:
        self.ready = True
        self.sent: list[Publish] = []
        self.given_up: list[Publish] = []
        self.drops = 0

    def publish(self, item: Publish) -> None:
        self.sent.append(item)

    def expire(self) -> None:
        given_up, self.given_up = self.given_up, []
        for each in given_up:
            self.sent.remove(each)
            tell(each, GIVEN_UP)

    def confirm(self) -> None:
        """All that is on its way, and what goes out then."""
        while self.sent:
            tell(self.sent.pop(0), None)

    def drop(self) -> None:
        self.drops += 1

    def start(self, callbacks: Any) -> None:
        pass

    def wake(self) -> None:
        pass

    def detach(self, error: KaasqError) -> None:
        self.ready = False
        self.sent.clear()

    def attach(self, connection: Any) -> None:
        self.ready = True

    def block(self, blocked: bool) -> None:
        pass


class Rig:
    def __init__(self, **limits: Any) -> None:
        self.line = Line()
        self.replies = DirectReplies(self.line, "worker", DirectLimits(**limits), impersonates=True)
        vars(self.replies)["_publisher"] = self.line

    def send(self, tenant: str, channel: str, size: int = 1) -> list[KaasqError | None]:
        """What it is told, once it is."""
        told: list[KaasqError | None] = []
        key = f"amq.rabbitmq.reply-to.{channel}.k"
        self.replies.publish(Publish(Message(body=bytes(size)), "", key, False, told.append, tenant))
        return told

    def lose(self, error: KaasqError = FORGED) -> None:
        self.replies._down(error)

    def up(self) -> None:
        self.replies._up(None)
        self.replies._pump()

    @property
    def under_way(self) -> list[str]:
        """Their channels."""
        return [each.routing_key.split(".")[-2] for each in self.line.sent]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def forge(rig: Rig) -> None:
    """Mallory is under alert from now on; there is no connection."""
    told = rig.send("mallory", "forged")
    rig.lose()
    assert told == [FORGED]


def test_who_forges_has_an_eighth_of_the_room_however_real_its_channel(rig):
    rig.send("mallory", "real")
    rig.line.confirm()
    forge(rig)
    told = [rig.send("mallory", "real") for _ in range(1000)]
    assert [not each for each in told] == [number < 1000 // SHARES for number in range(1000)]
    anns = rig.send("ann", "new")
    rig.up()
    rig.line.confirm()
    assert anns == [None]


def test_who_forges_has_an_eighth_of_the_bytes(rig):
    rig.send("mallory", "real")
    rig.line.confirm()
    forge(rig)
    most = DirectLimits().waiting_bytes // SHARES
    assert rig.send("mallory", "real", most) == []
    (refused,) = rig.send("mallory", "real", 1)
    assert isinstance(refused, BrokerLost)
    assert not refused.detail.get("unconfirmed")


def test_one_for_which_there_is_no_room_may_be_published_again_while_there_is_a_connection():
    rig = Rig(waiting=2)
    rig.line.ready = False
    for _ in range(2):
        rig.send("ann", "a")
    (refused,) = rig.send("bob", "b")
    assert "wait already" in str(refused)
    assert refused.detail["unconfirmed"]
    rig.replies._failed(BrokerLost("no more connections for this user"))
    (refused,) = rig.send("bob", "b")
    assert "no more connections" in str(refused)
    assert not refused.detail["unconfirmed"]


def test_late_ones_may_be_published_again_but_not_for_who_forged():
    rig = Rig(wait_s=1e-6)
    forge(rig)
    mallorys, anns = rig.send("mallory", "other"), rig.send("ann", "a")
    time.sleep(0.001)
    rig.replies.expire()
    assert [each.detail["unconfirmed"] for each in (*mallorys, *anns)] == [False, True]


def test_nothing_goes_out_behind_one_that_is_given_up_and_nobody_else_is_blamed_for_it(rig):
    forged, anns = rig.send("mallory", "forged"), rig.send("ann", "a")
    assert rig.under_way == ["forged"]
    rig.line.given_up = list(rig.line.sent)
    rig.replies.expire()
    assert [each.detail["unconfirmed"] for each in forged] == [True]
    assert rig.under_way == []
    assert rig.line.drops == 1
    rig.lose()  # the broker has read it after all
    assert anns == []
    rig.up()
    assert rig.under_way == ["a"]
    rig.line.confirm()
    assert anns == [None]


def test_one_of_a_tenant_under_alert_that_is_given_up_is_not_repeated(rig):
    forge(rig)
    again = rig.send("mallory", "other")
    rig.up()
    rig.line.given_up = list(rig.line.sent)
    rig.replies.expire()
    assert [each.detail["unconfirmed"] for each in again] == [False]


def test_all_of_others_go_out_before_the_next_of_who_forged(rig):
    forge(rig)
    for number in range(4):
        rig.send("mallory", f"forged{number}")
    anns = [rig.send("ann", f"program{number}") for number in range(20)]
    rig.up()
    for number in range(20):
        assert rig.under_way == [f"program{number}"]
        tell(rig.line.sent.pop(0), None)
    assert anns == [[None]] * 20
    assert rig.under_way == ["forged0"]

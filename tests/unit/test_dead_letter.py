"""Dead letters: what workers write is read back, what RabbitMQ writes is understood, what tenants write is not."""

from __future__ import annotations

import datetime as dt

import pytest

from kaasq.broker import Message
from kaasq.dead_letter import again, bury, read
from kaasq.errors import BadRequest, Forbidden
from kaasq_producers.dead.selection import Selection, is_meant, seconds
from tests.support.front_bench import Taken

REQUEST = Message(
    body=b"{}",
    content_type="application/json",
    message_id="0193a1c27f3e",
    correlation_id="c",
    user_id="ann",
    reply_to="r",
    expiration_ms=5000,
    priority=3,
    timestamp_ms=1000,
    headers={"traceparent": "00-a-b-01"},
)
DEATH = {
    "reason": "expired",
    "queue": "kaasq.work.p",
    "time": dt.datetime.fromtimestamp(50, dt.UTC),
    "exchange": "kaasq.requests",
    "original-expiration": "250",
}


def letter_of(message, exchange="kaasq.dead", key="ann.p.any"):
    taken = Taken(message)
    taken.exchange, taken.routing_key = exchange, key
    return taken


def buried(request=REQUEST, tenant="ann", code="kernel_failed", reason="it crashed", key="ann.p.any"):
    taken = letter_of(request, "kaasq.requests", key)
    message, exchange, routing_key = bury(taken, tenant, code, reason)
    return read(letter_of(message, exchange, routing_key))


def expired(**headers):
    request = Message(body=b"{}", message_id="id", user_id="ann", reply_to="r", headers={"x-death": [DEATH], **headers})
    return read(letter_of(request))


def test_what_a_worker_buries_is_the_request_again():
    letter = buried()
    assert (letter.tenant, letter.code, letter.reason, letter.pool) == ("ann", "kernel_failed", "it crashed", "p")
    assert letter.by == "worker"
    assert letter.request == REQUEST
    request, key = again(letter)
    assert key == "ann.p.any"
    assert (request.timestamp_ms or 0) > 1_700_000_000_000  # its time starts afresh
    assert (request.message_id, request.user_id, request.reply_to) == ("0193a1c27f3e", "ann", "r")
    assert (request.expiration_ms, request.priority) == (5000, 3)
    assert request.headers == REQUEST.headers


def test_what_rabbitmq_gave_up_is_the_request_again_with_all_of_its_time():
    letter = expired()
    assert (letter.tenant, letter.code, letter.by, letter.pool) == ("ann", "expired", "broker", "p")
    assert letter.reason == "its time was over before a worker took it from queue kaasq.work.p (it had 250 ms)"
    assert letter.buried_ms == 50_000
    request, _ = again(letter)
    assert (request.expiration_ms, request.headers) == (250, {})


@pytest.mark.parametrize("reason", ["delivery_limit", "rejected", "maxlen", "something new"])
def test_every_reason_of_rabbitmqs_is_told(reason):
    letter = read(letter_of(Message(body=b"", headers={"x-death": [{**DEATH, "reason": reason}]})))
    assert letter.code == reason
    assert "{" not in letter.reason


def test_a_tenant_cannot_pass_for_another_with_headers_of_a_worker():
    letter = expired(**{"kaasq-user-id": "bob", "kaasq-code": "x", "kaasq-routing-key": "bob.p.any"})
    assert (letter.tenant, letter.code) == ("ann", "expired")
    assert again(letter)[0].user_id == "ann"


def test_an_expiration_without_end_in_a_forged_x_death_is_none():
    death = {**DEATH, "original-expiration": "9" * 5000}  # RabbitMQ 3.10 counts on in what the tenant gave it
    assert read(letter_of(Message(body=b"", headers={"x-death": [death]}))).request.expiration_ms is None


@pytest.mark.parametrize("deaths", [None, 3, "x", [], ["x"], [{}], [{"reason": 4, "time": "now"}]])
def test_a_spoiled_x_death_is_read_all_the_same(deaths):
    letter = read(letter_of(Message(body=b"", user_id="ann", headers={"x-death": deaths})))
    assert (letter.code, letter.buried_ms) == ("unknown", None)


def test_a_worker_carries_no_x_death_on_so_that_its_letter_stays_its_own():
    request = Message(body=b"", message_id="i", user_id="ann", headers={"x-death": "forged", "kaasq-tenant": "bob"})
    letter = buried(request)
    assert (letter.by, letter.tenant, letter.request.headers) == ("worker", "ann", {})


def test_as_a_new_request_it_has_another_id():
    assert again(buried(), fresh_id=True)[0].message_id != REQUEST.message_id


def test_a_letter_that_was_no_request_cannot_be_replayed():
    with pytest.raises(Forbidden, match="has no tenant"):
        again(buried(Message(body=b"", message_id="i", user_id="Not A Word"), tenant="unknown"))
    with pytest.raises(BadRequest, match="does not say its pool"):
        again(buried(key="nonsense"))
    stranger = read(letter_of(Message(body=b"hello")))
    assert (stranger.tenant, stranger.code, stranger.id) == (None, "unknown", "")


def test_letters_are_selected_by_tenant_code_and_age():
    letter = expired()  # dead since 1970
    assert Selection()(letter)
    assert Selection(tenant="ann", code="expired", older_s=60)(letter)
    assert not Selection(tenant="bob")(letter)
    assert not Selection(code="kernel_failed")(letter)
    assert not Selection(younger_s=60)(letter)
    assert Selection(younger_s=60)(buried())
    ageless = read(letter_of(Message(body=b"")))
    assert not Selection(older_s=0)(ageless)


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("90s", 90), ("1.5min", 90), ("2 h", 7200), ("7d", 604800)])
def test_ages_have_units(text, expected):
    assert seconds(text, "--older-than") == expected


@pytest.mark.parametrize("text", ["", "soon", "-1", "3 weeks"])
def test_a_wrong_age_is_named(text):
    with pytest.raises(BadRequest, match=r"--older-than: .* is no time: expected a number with s, min, h or d"):
        seconds(text, "--older-than")


def test_an_id_may_be_cut_short():
    letter = buried()
    assert is_meant(letter, "0193a1c27f3e")
    assert is_meant(letter, "0193a1c2")
    assert not is_meant(letter, "0193a1c")
    assert not is_meant(letter, "0193a1c27f3e0")

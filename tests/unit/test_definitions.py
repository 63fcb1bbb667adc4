"""The RabbitMQ definitions: what is committed is what the command makes, and names of one tenant match no other's."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from kaasq import topology
from rabbitmq.definitions import EXCHANGES, definitions, password_hash, permissions, read_users

FOLDER = Path(__file__).parents[2] / "ops" / "rabbitmq"


def test_the_committed_definitions_are_those_of_the_committed_users():
    def without_salt(made: dict) -> dict:
        return {**made, "users": [{**each, "password_hash": ""} for each in made["users"]]}

    users, vhost = read_users(FOLDER / "users.toml")
    committed = json.loads((FOLDER / "definitions.json").read_text())
    assert without_salt(committed) == without_salt(definitions(users, vhost))


def test_the_exchanges_are_those_that_workers_declare():
    assert set(EXCHANGES) == {each.name for each in topology.pool_topology("p", "s").exchanges}


def test_a_password_is_hashed_as_rabbitmq_does():
    raw = base64.b64decode(password_hash("secret", b"abcd"))
    assert raw == b"abcd" + hashlib.sha256(b"abcdsecret").digest()


@pytest.mark.parametrize(
    "queue",
    [
        topology.reply_queue("bob", "r"),
        topology.reply_queue("annx", "r"),
        "kaasq.replyxann.r",
        "kaasq.reply.ann.",
        "kaasq.work.ann",
        "kaasq.work.reply.ann.r",
        "x.kaasq.reply.ann.r",
        "kaasq.reply.ann.r\nkaasq.dead",
        topology.DEAD,
        "amq.default",
    ],
)
def test_a_tenant_may_do_nothing_with_what_is_not_its_own(queue):
    allowed = permissions("tenants", "ann")
    assert not any(re.search(each, queue) for each in allowed.values())


def test_a_tenant_may_do_everything_with_its_replies():
    assert all(re.search(each, topology.reply_queue("ann", "r")) for each in permissions("tenants", "ann").values())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tenant]\nann = 'x'", "'tenant' is no table of users: expected tenants, workers, operators"),
        ("[tenants]\n'A.B' = 'x'", "tenants.A.B: use lower-case"),
        ("[tenants]\nann = ''", "tenants.ann: expected a password"),
        ("[tenants]\nann = 'x'\n[workers]\nann = 'y'", "workers.ann: 'ann' is one of the tenants already"),
    ],
)
def test_wrong_users_are_named(tmp_path, text, says):
    (tmp_path / "users.toml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(says)):
        read_users(tmp_path / "users.toml")

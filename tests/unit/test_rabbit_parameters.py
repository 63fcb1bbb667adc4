"""A broker URL as connection parameters."""

from __future__ import annotations

import pytest

from kaasq.rabbit.parameters import connection_parameters


@pytest.mark.parametrize(("query", "heartbeat_s"), [("", 60), ("?heartbeat=10", 10), ("?heartbeat=0", 0)])
def test_the_url_may_say_the_heartbeat(query: str, heartbeat_s: int) -> None:
    parameters, _ = connection_parameters(f"amqp://ann:secret@broker.example/v{query}", connection_name="kaasq")
    assert parameters.heartbeat == heartbeat_s


def test_what_the_url_says_goes_before_the_defaults() -> None:
    url = "amqp://ann:secret@broker.example/v?blocked_connection_timeout=7&socket_timeout=3&stack_timeout=4"
    parameters, where = connection_parameters(url, connection_name="kaasq")
    assert (parameters.blocked_connection_timeout, parameters.socket_timeout, parameters.stack_timeout) == (7, 3, 4)
    assert (where.user, where.vhost, where.port) == ("ann", "v", 5672)
    assert "secret" not in f"{where} {where!r}"

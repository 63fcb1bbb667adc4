"""Names and arguments of what kaasq declares: other programs rely on them."""

from __future__ import annotations

from kaasq import topology
from kaasq.memory.node import matches
from kaasq.topology import Binding, Queue


def test_a_worker_declares_its_pools_queue_its_own_and_the_dead() -> None:
    declared = topology.pool_topology("default", "gpu0")
    quorum = {
        "x-queue-type": "quorum",
        "x-delivery-limit": 20,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "kaasq.dead",
        "x-dead-letter-strategy": "at-least-once",
    }
    assert [each.name for each in declared.exchanges] == [
        "kaasq.requests",
        "kaasq.replies",
        "kaasq.events",
        "kaasq.dead",
        "kaasq.control",
    ]
    assert declared.queues == (
        Queue(name="kaasq.dead", arguments={"x-queue-type": "quorum", "x-delivery-limit": 2**31 - 1}),
        Queue(name="kaasq.work.default", arguments=quorum),
        Queue(name="kaasq.work.default.gpu0", arguments=quorum),
        Queue(
            name="kaasq.control.default.gpu0",
            arguments={
                "x-queue-type": "quorum",
                "x-expires": 86_400_000,
                "x-message-ttl": 86_400_000,
                "x-max-length": 100_000,
            },
        ),
    )
    assert set(declared.bindings) == {
        Binding("kaasq.dead", "kaasq.dead", "#"),
        Binding("kaasq.requests", "kaasq.work.default", "*.default.any"),
        Binding("kaasq.requests", "kaasq.work.default.gpu0", "*.default.gpu0"),
        Binding("kaasq.control", "kaasq.control.default.gpu0", "*.default"),
    }


def test_classic_work_queues_have_no_argument_that_classic_queues_refuse() -> None:
    for queue in topology.pool_topology("p", "s", "classic").queues[1:3]:
        assert queue.arguments == {"x-overflow": "reject-publish", "x-dead-letter-exchange": "kaasq.dead"}


def test_a_client_declares_a_reply_queue_that_goes_by_itself() -> None:
    declared = topology.reply_topology("ann", "r1")
    assert declared.queues == (Queue(name="kaasq.reply.ann.r1", arguments={"x-expires": 600_000}),)
    assert declared.bindings == (Binding("kaasq.replies", "kaasq.reply.ann.r1", "ann.r1"),)


def test_keys_reach_the_queues_they_are_meant_for() -> None:
    pool, own, control = topology.pool_topology("p", "s").bindings[1:]
    assert matches(control.pattern, topology.control_key("ann", "p"))
    assert not matches(control.pattern, topology.control_key("ann", "q"))
    assert matches(pool.pattern, topology.request_key("ann", "p"))
    assert matches(own.pattern, topology.request_key("ann", "p", "s"))
    assert not matches(pool.pattern, topology.request_key("ann", "p", "s"))
    assert not matches(own.pattern, topology.request_key("ann", "q", "s"))
    assert matches("ann.*.failed", topology.event_key("ann", "saxpy", "failed"))


def test_a_named_subscription_keeps_what_it_collects_and_one_without_a_name_does_not() -> None:
    keys = ("ann.saxpy.*", "ann.images.#")
    declared = topology.subscription_topology("ann", "billing", keys, max_length=1000, ttl_ms=60_000)
    own = "kaasq.events.ann.subscriptions.all"
    assert declared.exchanges[0].name == own
    assert declared.queues == (
        Queue(name="kaasq.events.ann.subscriptions.dead"),
        Queue(
            name="kaasq.events.ann.billing",
            arguments={
                "x-queue-type": "quorum",
                "x-delivery-limit": 20,
                "x-overflow": "reject-publish",
                "x-dead-letter-exchange": own,
                "x-dead-letter-routing-key": "dead.billing",
                "x-dead-letter-strategy": "at-least-once",
                "x-max-length": 1000,
                "x-message-ttl": 60_000,
                "x-expires": 60_000,
            },
        ),
    )
    assert declared.bindings == (
        Binding(own, "kaasq.events.ann.subscriptions.dead", "dead.#"),
        *(Binding("kaasq.events", "kaasq.events.ann.billing", key) for key in keys),
    )
    listener = topology.listener_topology("ann", "l1", keys[:1])
    assert listener.queues == (
        Queue(name="kaasq.events.ann.l1", arguments={"x-expires": 600_000, "x-max-length": 10_000}),
    )
    assert listener.bindings == (Binding("kaasq.events", "kaasq.events.ann.l1", "ann.saxpy.*"),)


def test_what_is_removed_is_not_declared_again() -> None:
    two = topology.Topology(
        queues=(Queue(name="a"), Queue(name="b")),
        bindings=(Binding("x", "a", "1"), Binding("x", "a", "2"), Binding("x", "b", "1")),
    )
    exchange = topology.Topology(exchanges=(topology.Exchange("x"),))
    removed = topology.Topology(queues=(Queue(name="b"),), bindings=(Binding("x", "a", "1"),))
    assert topology.without([two, exchange], removed) == [
        topology.Topology(queues=(Queue(name="a"),), bindings=(Binding("x", "a", "2"),)),
        exchange,
    ]
    assert topology.without([two], topology.Topology(queues=two.queues)) == []

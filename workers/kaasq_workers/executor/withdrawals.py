"""Records that requests and workflows are not to run any further: whoever of the pool meets them answers so."""

from __future__ import annotations

from collections.abc import Sequence

from kaasq.errors import KaasqError
from kaasq.ids import chain_id
from kaasq.log import get_logger
from kaasq.messages import WorkerInfo
from kaasq_storage import BufferStore
from kaasq_workers.executor.identity import withdrawal
from kaasq_workers.flows.driver import Flows
from kaasq_workers.link import Driven, FromExecutor, Told, Withdraw, Withdrawn

log = get_logger()


class Withdrawals:
    """Of one executor. ``ttl_s``: for how long they are kept."""

    def __init__(self, store: BufferStore, flows: Flows, worker: WorkerInfo, *, ttl_s: float) -> None:
        self._store = store
        self._flows = flows
        self._worker = worker
        self._ttl_s = ttl_s
        self._log = log.bind(device=worker.device)

    def record(self, withdrawn: Sequence[Withdraw]) -> list[FromExecutor]:
        """Give those requests an outcome, unless they have one.

        What the front is told: whether that is done for good, and who hears of workflows that end so.
        """
        tags, ends, driven = [each.tag for each in withdrawn], list[Told](), list[FromExecutor]()
        try:
            with self._store.transaction() as transaction:
                flows = self._flows.settling(transaction, {})
                for each in withdrawn:
                    ended = flows.withdraw(each.tenant, each.id)
                    if ended is not None:
                        ends += ended[0]
                        driven.append(Driven(each.tenant, ended[1]))
                        continue
                    outcome = withdrawal(each.id, self._worker, self._ttl_s)
                    recorded = transaction.record(each.tenant, each.id, outcome)
                    if not recorded:  # it has ended, and what follows it may not have begun
                        transaction.record(each.tenant, chain_id(each.id), outcome)
                    self._log.debug("request.withdrawn", request=each.id, tenant=each.tenant, in_time=recorded)
                flows.save()
        except KaasqError as error:
            self._log.warning("withdrawing.failed", requests=len(withdrawn), error=error.message)
            return [Withdrawn(tags, durable=False)]
        return [Withdrawn(tags, told=ends), *driven]

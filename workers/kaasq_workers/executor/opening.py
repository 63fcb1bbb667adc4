"""Opens device and store for an executor, says hello to the front, and serves it until it is gone."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

import msgspec

from kaasq.builtins import builtin_names
from kaasq.errors import KaasqError
from kaasq.log import get_logger
from kaasq.messages import ErrorBody, WorkerInfo
from kaasq.processors import busy_poll_s
from kaasq.quotas import stored_limits
from kaasq_storage import open_store
from kaasq_workers.channel import BlockingChannel
from kaasq_workers.devices.opening import open_device
from kaasq_workers.executor.serving import Executor
from kaasq_workers.link import Hello, Orders, Refusal
from kaasq_workers.vitals import Vitals

log = get_logger()


def serve(sock: socket.socket, vitals: Vitals, orders: Orders) -> bool:
    """Open device and store, say hello (or why not), then serve until the front is gone.

    False if the device was lost and requests were left unanswered that may be to blame.
    """
    settings = orders.settings
    channel = BlockingChannel(sock, busy_poll_s(settings.busy_poll))
    # What pins memory of the store counts per executor, and the device's memory is divided by the device.
    settings = msgspec.structs.replace(settings, pinned_memory=settings.pinned_memory // orders.sharing)
    with ExitStack() as opened:
        try:
            store = open_store(
                settings.store_path,
                capacity=settings.store_capacity,
                sync=settings.store_sync,
                spare_bytes=settings.store_spare,
            )
            opened.callback(store.close)
            everybody, by_tenant = stored_limits(settings.quotas)
            if everybody is not None or by_tenant:
                store.set_quotas(everybody, by_tenant)
            builtin_names()  # loads what other packages add: what cannot be is logged now, not at its first use
            device = open_device(settings, orders.sharing)
            opened.callback(device.close)
            worker = WorkerInfo(host=socket.gethostname(), pid=os.getpid(), device=device.name, store=store.id)
            executor = Executor(device, store, settings, worker)
            opened.callback(executor.close)
        except KaasqError as error:
            channel.send([Refusal(error=ErrorBody.of(error))])
            return True
        try:
            channel.send([Hello(worker, device.description, device.limits.memory, str(store.path))])
            return executor.serve(channel, vitals)
        except OSError as error:
            log.warning("front.gone", error=str(error))
    return True

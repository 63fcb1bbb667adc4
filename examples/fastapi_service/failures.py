"""kaasq's errors as HTTP answers: the code decides the status."""

from __future__ import annotations

import logging

from fastapi import Request
from fastapi.responses import JSONResponse

from kaasq import KaasqError

STATUS = {
    "bad_request": 400,
    "buffer_size": 400,
    "buffer_missing": 400,
    "name_not_found": 404,
    "forbidden": 403,
    "conflict": 409,
    "broker_lost": 503,
    "broker_refused": 503,
    "device_unavailable": 503,
    "out_of_memory": 503,
    "unroutable": 503,
    "deadline_exceeded": 504,
    "reply_timeout": 504,
    "store_full": 507,
}
log = logging.getLogger(__name__)

CLIENT_GONE = 499  # nginx's; nobody reads it but the access log


def body(error: KaasqError) -> dict[str, object]:
    """What a caller is told. The message of an error of the service itself (status 500) goes to the log instead."""
    request_id = error.detail.get("request_id")
    message = error.message
    if error.code not in STATUS:
        log.error("%s: request %s: %s", error.code, request_id, message)
        message = "the service failed"
    return {"error": {"code": error.code, "message": message, "request_id": request_id}}


def status(error: KaasqError) -> int:
    """The HTTP status; 500 for what is no fault of the caller and will not mend by waiting."""
    return STATUS.get(error.code, 500)


async def answer(_: Request, error: Exception) -> JSONResponse:
    """An exception handler for KaasqError."""
    assert isinstance(error, KaasqError)
    return JSONResponse(body(error), status_code=status(error))

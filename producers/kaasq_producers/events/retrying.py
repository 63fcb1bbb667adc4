"""Whether a step that failed is tried again, and when. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kaasq.errors import BadRequest


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """``attempts`` in all; between them a pause that begins with ``first_s`` and doubles, up to ``most_s``.

    While it pauses the event stays with its service, unacked: all pauses together must stay well below the broker's
    consumer_timeout (30 minutes). Raises BadRequest.
    """

    attempts: Annotated[int, msgspec.Meta(ge=1, le=20)] = 5
    first_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.5
    most_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 30.0

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(type(self)):
            given = getattr(self, field.name)
            try:
                msgspec.convert(given, field.type)
            except msgspec.ValidationError as error:
                raise BadRequest(f"{given!r:.60}: {error}", at=f"retries.{field.name}") from None


def pause_after(failures: int, retries: Retries) -> float | None:
    """Seconds until the next attempt after so many failures; None if there is to be no other."""
    if failures >= retries.attempts:
        return None
    return float(min(retries.first_s * 2 ** (failures - 1), retries.most_s))

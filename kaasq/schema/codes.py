"""The codes of errors: all that this version has, in the order of ``kaasq.errors``."""

from __future__ import annotations

from kaasq import errors

CODES: tuple[str, ...] = tuple(
    dict.fromkeys(
        each.code
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.KaasqError) and "code" in vars(each)
    )
)

"""What a call gives beside a KaaS request: it comes before what the request says itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kaasq.kaas import KaasRequest
from kaasq_producers.inputs import check_mapping
from kaasq_producers.references import Keep


def with_defaults(
    request: KaasRequest, given: Sequence[Mapping[str, Any]], keep: Mapping[str, str]
) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
    """Values by name as the call gives them, then the request's for what it does not; the outputs to keep.

    A ``Keep`` among the values changes the key of an output, and of an inout without unbinding it.
    """
    check_mapping(keep, "keep")
    data = [{name: value for name, value in group.items() if not isinstance(value, Keep)} for group in given]
    kept = {name: value.name for group in given for name, value in group.items() if isinstance(value, Keep)}
    rest = {name: value for name, value in request.bind.items() if not any(name in group for group in data)}
    return [*data, rest], {**request.keep, **kept, **keep}

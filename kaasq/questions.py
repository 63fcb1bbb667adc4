"""The limits for questions about workflows."""

from __future__ import annotations

import msgspec

from kaasq.setting_values import Bytes, Positive, Seconds


class QuestionLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of questions that a process beside the executor answers. What goes beyond them waits for the executor."""

    patience: Seconds = 0.5
    """For so long the executor may answer by itself."""
    timeout: Seconds = 20.0
    """A process that needs longer for an answer is replaced."""
    idle: Seconds = 60.0
    """A process without a question for so long ends."""
    size: Bytes = 4 << 10
    """A larger message is taken for no question."""
    waiting: Positive = 512
    """Questions behind the one that the process has."""
    tenant_waiting: Positive = 64
    """The same of one tenant."""

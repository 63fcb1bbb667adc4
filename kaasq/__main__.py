"""``python -m kaasq``, and where the ``kaasq`` command begins."""

from __future__ import annotations

from kaasq import interrupts


def main() -> None:
    """Load the command and run it."""
    interrupts.end_at_once()
    from kaasq.cli import main as command

    command()


if __name__ == "__main__":
    main()

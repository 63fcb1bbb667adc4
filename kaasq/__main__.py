"""``python -m kaasq``."""

from kaasq.cli import main

main()

"""The suite's parts: each a module with ``CASES``, independent of each other."""

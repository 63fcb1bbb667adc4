"""Workflows: steps that are graphs, with edges between them, as data; and the checks before one starts."""

"""Workflows from the producer's side: building, starting, awaiting and showing them."""

"""Devices: what the executor needs of one, those that kaasq ships, and how one is found by name."""

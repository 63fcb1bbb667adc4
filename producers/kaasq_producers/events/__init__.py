"""How requests ended, as a program hears it: subscriptions, and services whose functions are steps of a chain."""

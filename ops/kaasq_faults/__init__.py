"""Faults injected into a running kaasq, and a ledger outside of it that says whether anything was lost or doubled."""

"""Requests in the format of the Berkeley Kernel-as-a-Service system: ``kaas.load("request.json")`` runs like a graph.

docs/compatibility.md tells how each of the format's fields is honoured.
"""

from kaasq.kaas.loading import load
from kaasq.kaas.request import KaasRequest

__all__ = ["KaasRequest", "load"]

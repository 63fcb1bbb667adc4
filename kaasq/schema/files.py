"""The documents as files: what each is called and what is in it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kaasq.schema.asyncapi import asyncapi
from kaasq.schema.documents import NAMES, json_schema

ASYNCAPI = "asyncapi"
DOCUMENTS = (*NAMES, ASYNCAPI)


def text(document: str) -> str:
    """That document as JSON. Raises KeyError for a name outside DOCUMENTS."""
    content = asyncapi() if document == ASYNCAPI else json_schema(document)
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n"


def path(folder: Path, document: str) -> Path:
    """Where a folder with the documents has that one."""
    return folder / f"{document}.json" if document == ASYNCAPI else folder / "schema" / f"{document}.json"

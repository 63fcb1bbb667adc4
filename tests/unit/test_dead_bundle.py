"""Bundles of dead letters that somebody else made: nothing in them takes more memory than the file has."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from kaasq.checks import GraphLimits
from kaasq.errors import BadRequest
from kaasq_producers.dead import bundle


def packed(folder: Path, manifest: bytes, kind: int = zipfile.ZIP_STORED) -> Path:
    path = folder / "letter.zip"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(bundle.MANIFEST, manifest)
    return path


def test_what_would_grow_as_it_is_read_is_not_read(tmp_path):
    path = packed(tmp_path, bytes(64 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(BadRequest, match=r"^bundle.json: is compressed, and `kaasq dead export` stores"):
        bundle.read(path, GraphLimits())


@pytest.mark.parametrize("manifest", [b"", b"\xff", b'{"headers": ' + b"[" * 100_000, b"{}"])
def test_what_says_nothing_of_a_letter_is_a_bad_request(tmp_path, manifest):
    with pytest.raises(BadRequest):
        bundle.read(packed(tmp_path, manifest), GraphLimits())


def test_what_was_cut_off_is_a_bad_request(tmp_path):
    path = packed(tmp_path, b"{" + b" " * 1000)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + whole[600:])
    with pytest.raises(BadRequest):
        bundle.read(path, GraphLimits())

"""Signatures of modules: Ed25519 over a module's hash. The only module that imports cryptography.

Keys are PEM files, as OpenSSL makes them::

    openssl genpkey -algorithm ed25519 -out team.key
    openssl pkey -in team.key -pubout -out keys/team.pem
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaasq.errors import BadRequest
from kaasq.extras import install

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SUFFIX = ".sig"
"""Of the file beside a module's that has its signature, in base64."""

SIGNATURE_BYTES = 64
MOST_KEYS = 1000


def signature_of(module_hash: str, key: Path) -> bytes:
    """Sign a module by its hash with the private key in that file. Raises BadRequest."""
    return _private(key).sign(_signed(module_hash))


def is_signed(module_hash: str, signature: bytes, keys: list[Ed25519PublicKey]) -> bool:
    """Whether one of the keys signed it."""
    from cryptography.exceptions import InvalidSignature

    for key in keys:
        try:
            key.verify(signature, _signed(module_hash))
        except InvalidSignature:
            continue
        return True
    return False


def read_keys(folder: Path) -> list[Ed25519PublicKey]:
    """The public keys in a folder, each in a .pem file. Raises BadRequest naming what is none."""
    _need()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys: list[Ed25519PublicKey] = []
    for path in sorted(folder.glob("*.pem"))[:MOST_KEYS]:
        key = _load(path, load_pem_public_key)
        if not isinstance(key, Ed25519PublicKey):
            raise BadRequest("expected a public Ed25519 key in PEM", at=str(path))
        keys.append(key)
    return keys


def read_signature(path: Path) -> bytes:
    """The signature in a file that ``kaasq sign`` made. Raises BadRequest."""
    try:
        return base64.b64decode(path.read_text().strip(), validate=True)
    except OSError as error:
        raise BadRequest(f"cannot read it: {error.strerror}", at=str(path)) from None
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise BadRequest("is no signature: expected base64, as `kaasq sign` writes it", at=str(path)) from None


def _private(path: Path) -> Ed25519PrivateKey:
    _need()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = _load(path, lambda data: load_pem_private_key(data, password=None))
    if not isinstance(key, Ed25519PrivateKey):
        raise BadRequest("expected a private Ed25519 key in PEM (openssl genpkey -algorithm ed25519)", at=str(path))
    return key


def _load(path: Path, load: Any) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load(path.read_bytes())
    except OSError as error:
        raise BadRequest(f"cannot read it: {error.strerror}", at=str(path)) from None
    except TypeError:
        raise BadRequest("the key is encrypted: decrypt it (openssl pkey -in KEY -out ...)", at=str(path)) from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadRequest("is no key in PEM", at=str(path)) from None


def _need() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise BadRequest(f"signed modules need cryptography: {install('signing')}", at="cryptography") from None


def _signed(module_hash: str) -> bytes:
    # What is signed says what it is for: a signature made for this can stand for nothing else.
    return b"kaasq module " + module_hash.encode()

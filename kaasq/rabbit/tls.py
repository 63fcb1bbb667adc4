"""TLS to the broker: the files that a URL names as a context, and what a failed handshake means."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from kaasq.errors import BrokerRefused

CA, CERT, KEY = "cacertfile", "certfile", "keyfile"
"""What RabbitMQ's own URI format calls them; the settings are broker_ca, broker_cert, broker_key."""

_SETTINGS = {CA: "broker_ca", CERT: "broker_cert", KEY: "broker_key"}
# https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21, 24, 27}

_ALERTS = {
    "CERTIFICATE_REQUIRED": "it asks for a client's certificate: give one with broker_cert and broker_key",
    "HANDSHAKE_FAILURE": "it asks for a client's certificate (broker_cert, broker_key), or has no cipher in common",
    "UNKNOWN_CA": "it does not know the authority of our certificate (broker_cert; cacertfile in rabbitmq.conf)",
    "CERTIFICATE_EXPIRED": "our own certificate (broker_cert) has expired: renew it",
    "BAD_CERTIFICATE": "it does not accept our certificate (broker_cert)",
    "CERTIFICATE_UNKNOWN": "it does not accept our certificate (broker_cert)",
    "PROTOCOL_VERSION": "it speaks older versions of TLS only: 1.2 is the least that is accepted",
    "WRONG_VERSION_NUMBER": "that port does not speak TLS: RabbitMQ's TLS port is usually 5671",
}

_REASON = re.compile(r"\[SSL: (\w+)\]")


def context(files: Mapping[str, str]) -> ssl.SSLContext:
    """A context that checks the broker's certificate and name. Raises BrokerRefused naming the file that is wrong.

    ``files``: the authority (CA; the system's, if left out), and a client's certificate (CERT) with its key (KEY, or in
    the same file), all in PEM.
    """
    if KEY in files and CERT not in files:
        raise BrokerRefused("broker_key is a certificate's key: give the certificate, too, with broker_cert")
    paths = {kind: Path(each).expanduser() for kind, each in files.items()}
    for kind, path in paths.items():
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise BrokerRefused(f"{_SETTINGS[kind]} {str(path)!r} cannot be read: {error.strerror}") from None
    try:
        made = ssl.create_default_context(cafile=str(paths[CA]) if CA in paths else None)
    except ssl.SSLError:
        raise BrokerRefused(f"broker_ca {str(paths[CA])!r} holds no certificate in PEM") from None
    if CERT in paths:
        try:
            made.load_cert_chain(paths[CERT], paths.get(KEY), password=_no_password)
        except ssl.SSLError as error:
            raise BrokerRefused(_unusable(error, paths)) from None
    return made


def explain(error: ssl.SSLError) -> str:
    """Why there is no TLS, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code, said = getattr(error, "verify_code", 0), getattr(error, "verify_message", "") or str(error)
        if code in _UNKNOWN_AUTHORITY:
            return (
                f"its certificate comes from an authority that is not trusted here ({said}): name the authority's "
                "certificate with broker_ca (SSL_CERT_FILE adds one for all programs)"
            )
        if code in {_OTHER_HOST, _OTHER_ADDRESS}:
            return f"its certificate is for another name ({said}): use one that the certificate has in the broker URL"
        if code == _EXPIRED:
            return "its certificate has expired: renew it on the broker (and see whether this machine's clock is right)"
        if code == _NOT_YET_VALID:
            return "its certificate is not yet valid: is this machine's clock right?"
        return f"its certificate is not accepted: {said}"
    return alert(str(error)) or f"{error}. Is that RabbitMQ's TLS port (usually 5671)?"


def alert(text: str) -> str | None:
    """What an alert in the text of an error means; None if there is none that is known.

    With TLS 1.3 a broker looks at a client's certificate only after the handshake: what it thinks of it then comes
    inside of pika's error about a lost connection.
    """
    found = _REASON.search(text)
    return next((meaning for name, meaning in _ALERTS.items() if found and name in found[1]), None)


def _no_password() -> NoReturn:
    """OpenSSL would ask the terminal."""
    raise BrokerRefused("broker_key is encrypted, and nobody is there to ask for its password: store it decrypted")


def _unusable(error: ssl.SSLError, paths: Mapping[str, Path]) -> str:
    files = f"broker_cert {str(paths[CERT])!r}" + (f" and broker_key {str(paths[KEY])!r}" if KEY in paths else "")
    if "KEY_VALUES_MISMATCH" in (error.reason or ""):
        return f"{files} do not belong together: the key is another certificate's"
    return f"{files} cannot be used: expected a certificate and its private key, in PEM"

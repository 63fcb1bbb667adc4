"""What a broker's URL has to look like."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from kaasq.errors import BrokerRefused

FORM = "amqp://user:password@host:5672/vhost"


def check_broker_url(url: str, at: str) -> None:
    """Raises BrokerRefused for what is no broker's URL, naming the place where it was given."""
    try:
        split_broker_url(url)
    except BrokerRefused as error:
        raise BrokerRefused(f"{at}: {error.message}", at=at) from None


def split_broker_url(url: str) -> SplitResult:
    """Its parts. Raises BrokerRefused for what is no such URL, and never shows it: it has a password in it."""
    try:
        parts = urlsplit(url)
    except ValueError:  # square brackets that are no IPv6 address
        raise malformed("its host is none") from None
    if parts.scheme not in {"amqp", "amqps"} or not url[len(parts.scheme) :].startswith("://"):
        raise malformed("it does not start with amqp:// or amqps://")
    if not parts.hostname:
        raise malformed("it names no host")
    try:
        _ = parts.port
    except ValueError:
        why = "its port is no number up to 65535 (in a password, write / as %2F, @ as %40, : as %3A)"
        raise malformed(why) from None
    return parts


def malformed(why: str) -> BrokerRefused:
    """The error for a URL that is none."""
    return BrokerRefused(f"the broker URL does not have the form {FORM} (amqps:// for TLS): {why}")

"""TLS to the broker: what is trusted connects, what is not is refused with what to do about it."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import trustme

import kaasq
from kaasq.errors import BrokerLost, BrokerRefused
from kaasq.rabbit import RabbitBroker
from kaasq.rabbit.dead import DeadQueue
from kaasq.settings import Settings
from kaasq_bench.rabbitmq.node import RabbitNode
from kaasq_bench.rabbitmq.ports import free_ports
from kaasq_faults.proxy import Proxy
from real_broker import RealBroker
from tests.support import graphs
from tests.support.fake_worker import FakeWorker
from tests.support.messaging import Deliveries, classic, declare, publish

X = np.arange(4, dtype=np.float32)
LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


class Pki:
    """An authority, a certificate for localhost, one for a client, and another authority; as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.stranger = trustme.CA()
        self.ca, self.strange_ca = folder / "ca.pem", folder / "strange-ca.pem"
        self.authority.cert_pem.write_to_path(self.ca)
        self.stranger.cert_pem.write_to_path(self.strange_ca)
        self.server = self.files("server", self.authority.issue_cert("localhost"))
        self.client = self.files("client", self.authority.issue_cert("ann@example.org"))
        self.strange_client = self.files("strange", self.stranger.issue_cert("ann@example.org"))

    def files(self, name: str, made: trustme.LeafCert) -> tuple[str, str]:
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        return str(certificate), str(key)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def tls_node(pki: Pki) -> Iterator[str]:
    """A RabbitMQ that speaks TLS and asks for clients' certificates: its URL."""
    (port,) = free_ports(1)
    config = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(pki.ca),
        "ssl_options.certfile": pki.server[0],
        "ssl_options.keyfile": pki.server[1],
        "ssl_options.verify": "verify_peer",
        "ssl_options.fail_if_no_peer_cert": "true",
    }
    with RabbitNode(config=config):
        yield f"amqps://guest:guest@localhost:{port}/"


def settings_of(url: str, pki: Pki, client: tuple[str, str] | None, ca: Path | None = None) -> Settings:
    certificate, key = client or ("", "")
    return Settings(broker_url=url, broker_ca=str(ca or pki.ca), broker_cert=certificate, broker_key=key)


def refusal(settings: Settings) -> str:
    """What is said, by both of the ways in which kaasq connects."""
    said = []
    for connect in (
        lambda: RabbitBroker(settings.connection_url).open(10),
        lambda: DeadQueue(settings.connection_url, timeout_s=10).__enter__(),
    ):
        with pytest.raises(BrokerRefused) as caught:
            connect()
        said.append(caught.value.message)
    assert said[0] == said[1]
    return said[0]


def test_client_and_worker_speak_tls_with_certificates_on_both_sides(tls_node, pki, tmp_path):
    settings = msgspec.structs.replace(settings_of(tls_node, pki, pki.client), store=str(tmp_path / "store"))
    with FakeWorker(RabbitBroker(settings.connection_url)), kaasq.Client(settings=settings) as client:
        np.testing.assert_array_equal(client.run(graphs.saxpy(), x=X, y=X)["out"], 3 * X)
    with DeadQueue(settings.connection_url, timeout_s=10) as queue:
        assert queue.count == 0


def test_certificate_and_key_may_be_one_file(tls_node, pki, tmp_path):
    both = tmp_path / "both.pem"
    both.write_text("".join(Path(each).read_text() for each in pki.client))
    broker = RabbitBroker(settings_of(tls_node, pki, (str(both), "")).connection_url)
    broker.open(10)
    broker.close()


HUNG_UP = "hangs up after TLS was agreed on: does it ask for a client's certificate"


@pytest.mark.parametrize(
    ("client", "says"),
    [
        (None, "it asks for a client's certificate: give one with broker_cert and broker_key"),
        ("strange", "it does not know the authority of our certificate (broker_cert"),
    ],
)
def test_a_client_whose_certificate_is_missing_or_unknown_is_told_so(tls_node, pki, client, says):
    settings = settings_of(tls_node, pki, pki.strange_client if client else None)
    # With TLS 1.3 the broker says so after the handshake, and hangs up: who is just writing may not read it any more.
    with pytest.raises((BrokerRefused, BrokerLost)) as caught, DeadQueue(settings.connection_url, timeout_s=10):
        pass
    assert says in caught.value.message or HUNG_UP in caught.value.message
    with pytest.raises((BrokerRefused, BrokerLost)) as caught:
        RabbitBroker(settings.connection_url).open(10)
    assert says in caught.value.message or HUNG_UP in caught.value.message


def test_a_broker_of_an_unknown_authority_is_not_trusted(tls_node, pki):
    said = refusal(settings_of(tls_node, pki, pki.client, ca=pki.strange_ca))
    assert "its certificate comes from an authority that is not trusted here" in said
    assert "broker_ca" in said
    assert "not trusted here" in refusal(Settings(broker_url=tls_node))


def test_a_broker_of_another_name_is_not_trusted(tls_node, pki):
    said = refusal(settings_of(tls_node.replace("localhost", "127.0.0.1"), pki, pki.client))
    assert "its certificate is for another name (IP address mismatch" in said
    assert "use one that the certificate has in the broker URL" in said


@pytest.mark.parametrize(
    ("validity", "says"),
    [
        ({"not_after": LONG_AGO + dt.timedelta(days=1), "not_before": LONG_AGO}, "has expired: renew it on the broker"),
        ({"not_before": dt.datetime(2090, 1, 1, tzinfo=dt.UTC)}, "is not yet valid: is this machine's clock right?"),
    ],
)
def test_a_broker_whose_certificate_is_not_valid_now_is_not_trusted(broker: RealBroker, pki, validity, says):
    certificate, key = pki.files("invalid", pki.authority.issue_cert("localhost", **validity))
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)
    with Proxy(broker.url, server_side) as proxy:
        assert f"its certificate {says}" in refusal(settings_of(proxy.url, pki, None))


def test_tls_to_a_port_that_does_not_speak_it_is_told(broker: RealBroker, pki):
    said = refusal(settings_of(broker.url.replace("amqp://", "amqps://"), pki, None))
    assert "that port does not speak TLS: RabbitMQ's TLS port is usually 5671" in said


def test_attempts_that_fail_while_they_are_given_up_say_nothing(broker: RealBroker, pki, capfd, caplog):
    settings = settings_of(broker.url.replace("amqp://", "amqps://"), pki, None)
    for _ in range(20):  # the first of two connections fails, and the second is failing by then, or is not
        refusal(settings)
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_amqp_to_a_port_that_speaks_tls_is_told(tls_node):
    with pytest.raises(BrokerLost, match="5671 needs amqps://"):
        RabbitBroker(tls_node.replace("amqps", "amqp")).open(1)  # it may be a broker that is starting: it tries again


def test_large_messages_pass(broker: RealBroker, rabbit_url: str, pki):
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(*pki.server)
    with Proxy(rabbit_url, server_side) as proxy:
        mq = RabbitBroker(settings_of(proxy.url, pki, None).connection_url)
        mq.open(10)
        assert declare(mq, classic("t.tls")) is None
        body = b"x" * 3_000_000
        assert publish(mq, body, "t.tls", exchange="") is None
        assert Deliveries(mq, "t.tls").one().message.body == body
        mq.close()


def test_files_that_cannot_be_used_are_named(pki, tmp_path):
    url = "amqps://guest:guest@localhost:1/"
    (tmp_path / "junk.pem").write_text("junk")
    junk, missing = str(tmp_path / "junk.pem"), str(tmp_path / "missing.pem")
    for given, says in (
        ({"broker_ca": missing}, f"broker_ca '{missing}' cannot be read: No such file or directory"),
        ({"broker_ca": junk}, f"broker_ca '{junk}' holds no certificate in PEM"),
        ({"broker_cert": missing}, f"broker_cert '{missing}' cannot be read"),
        ({"broker_cert": junk}, f"broker_cert '{junk}' cannot be used: expected a certificate and its private key"),
        ({"broker_cert": pki.client[0], "broker_key": pki.server[1]}, "do not belong together"),
        ({"broker_key": pki.client[1]}, "give the certificate, too, with broker_cert"),
        (
            {"broker_ca": str(pki.ca), "broker_url": "amqp://guest:guest@localhost:1/"},
            "start the broker URL with amqps://",
        ),
    ):
        with pytest.raises(BrokerRefused) as caught:
            RabbitBroker(Settings(**{"broker_url": url, **given}).connection_url)
        assert says in caught.value.message
        assert "guest:guest" not in caught.value.message


def test_an_encrypted_key_is_told_and_the_terminal_not_asked(pki, tmp_path):
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(Path(pki.client[1]).read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(BrokerRefused, match="broker_key is encrypted"):
        RabbitBroker(settings_of("amqps://a:b@localhost:1/", pki, (pki.client[0], str(encrypted))).connection_url)

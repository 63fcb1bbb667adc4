"""What every test can ask for: a real RabbitMQ, a fresh vhost on it, a pool name of its own, a broker to kill.

A test that asks for the broker runs against it or fails; only a missing GPU is a reason to skip.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog
from hypothesis import HealthCheck, settings

from kaasq.settings import Settings
from real_broker import MANAGEMENT_VARIABLE, Broker, RealBroker, own_broker, real_broker, source

# Who asks for one of these talks to a real RabbitMQ.
BROKER_FIXTURES = frozenset({"broker", "broker_url", "rabbit_url", "own_rabbit"})
BROKER_USED = pytest.StashKey[str]()
RAN_AGAINST = "ran against"  # a property of each test that did, which its report carries, from whichever process

ON_BROKER = {
    "url": "the RabbitMQ of KAASQ_TEST_BROKER_URL",
    "docker": "RabbitMQ in a container",
    "node": "a private node of an installed rabbitmq-server",
    "none": "none found: tests that need RabbitMQ will fail",
}


# A machine with other things to do is no reason to fail: neither a slow example nor slow drawing is a finding.
settings.register_profile("kaasq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kaasq")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests from this user's settings, stores and caches, in this process and in those that it starts.

    Of several processes of pytest-xdist each has a folder of its own below the first one's, but for compiled code.
    """
    for name in [each for each in os.environ if each.startswith("KAASQ_") and not each.startswith("KAASQ_TEST_")]:
        del os.environ[name]
    if hasattr(config, "workerinput"):
        home = Path(os.environ["XDG_CACHE_HOME"]).with_name(config.workerinput["workerid"])
    else:
        made = tempfile.TemporaryDirectory(prefix="kaasq-tests-", ignore_cleanup_errors=True)
        config.add_cleanup(made.cleanup)
        home = Path(made.name)
        os.environ["XDG_CACHE_HOME"] = str(home / "cache")
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        os.environ[name] = str(home / name)
    os.environ["KAASQ_CONFIG"] = os.devnull
    # It logs each refused connection as an error with a traceback; tests of a broker that is away refuse many.
    logging.getLogger("pika").setLevel(logging.CRITICAL)


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Iterator[RealBroker]:
    """The tests' RabbitMQ, started on first use; with pytest-xdist one for each process."""
    with real_broker() as found:
        pytestconfig.stash[BROKER_USED] = f"RabbitMQ {found.version} at {found.how}"
        yield found


@pytest.fixture(scope="session")
def broker_url(broker: RealBroker) -> str:
    """Its AMQP URL, for tests that keep apart by the names of their pools."""
    return broker.url


@pytest.fixture
def rabbit_url(broker: RealBroker) -> Iterator[str]:
    """AMQP URL of a fresh vhost, gone after the test (20 ms)."""
    if broker.management is None:  # on a shared vhost these tests would meet what others left there
        pytest.fail(f"the management API of the broker at {broker.how} does not answer: set {MANAGEMENT_VARIABLE}")
    parts = urlsplit(broker.url)
    vhost = f"t{secrets.token_hex(6)}"
    broker.management.add_vhost(vhost, parts.username or "guest")
    try:
        yield parts._replace(path=f"/{vhost}").geturl()
    finally:
        broker.management.delete_vhost(vhost)


@pytest.fixture(scope="session")
def _own_rabbit() -> Iterator[Broker]:
    with own_broker() as found:
        yield found


@pytest.fixture
def own_rabbit(_own_rabbit: Broker) -> Broker:
    """A second broker that the test may stop, kill and restart; running again at the next test."""
    return _own_rabbit.start()


@pytest.fixture
def pool() -> str:
    """A pool name that no other test uses."""
    return f"t{secrets.token_hex(5)}"


@pytest.fixture(scope="session")
def code_folder() -> Path:
    """Where workers keep compiled code by default, each kind of device in its folder: nothing is compiled twice."""
    return Settings().cache_path


@pytest.fixture(autouse=True)
def _log_as_a_library() -> Iterator[None]:
    """Commands that a test ran in this process configured the log: the next one finds nothing configured."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _note_the_broker(request: pytest.FixtureRequest) -> Iterator[None]:
    """Notes what really ran on RabbitMQ, including tests that ask for it while they run."""
    yield
    if BROKER_FIXTURES.intersection(request.fixturenames):
        used = request.config.stash.get(BROKER_USED, "a RabbitMQ of their own")
        request.node.user_properties.append((RAN_AGAINST, used))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that use the broker; skip those for a GPU where there is none."""
    if hasattr(config, "workerinput"):  # the longest file first, or the other processes would wait for it in the end
        items.sort(key=lambda item: "fault" not in item.path.parts)
    gpus = _gpus()
    for item in items:
        if BROKER_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("broker")
        asks = item.get_closest_marker("gpu")
        wanted = (asks.args[0] if asks.args else 1) if asks else 0
        if gpus < wanted:
            item.add_marker(pytest.mark.skip(reason=f"takes {wanted} GPUs, {gpus} here" if gpus else "no GPU here"))


def pytest_report_header() -> str:
    return f"broker: {ON_BROKER[source()]}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    used = Counter(
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, value in report.user_properties
        if name == RAN_AGAINST
    )
    for where, count in sorted(used.items()) or [("RabbitMQ", 0)]:
        terminalreporter.write_line(f"{count} {'test' if count == 1 else 'tests'} ran against {where}")


def _gpus() -> int:
    """The NVIDIA devices that the kernel shows: with a GPU but no working CUDA the tests must fail, not skip."""
    return max(len(list(Path("/dev").glob("nvidia[0-9]*"))), int(Path("/dev/dxg").exists()))

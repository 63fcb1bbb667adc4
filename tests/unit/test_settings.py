"""Settings: flags, then variables, then a file, then defaults; what is wrong is named with its origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kaasq
from kaasq.broker_url import FORM
from kaasq.errors import BadRequest, BrokerRefused
from kaasq.setting_values import flag_of
from kaasq.settings import DEFAULT_BROKER_URL, Settings, default_store, load_settings
from kaasq_producers import Client
from kaasq_storage import open_store
from tests.support.logs import log_lines

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kaasq.toml"
    path.write_text('pool = "file"\nstore = "file-store"\ncompiler = "a"\n\n[graph_limits]\nlaunches = 7\n')
    return path


def test_nothing_given_gives_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_config_dir", lambda _: str(tmp_path))
    assert load_settings(environ={}) == Settings()


def test_settings_that_are_none_are_refused_by_clients_saying_what_makes_them() -> None:
    for make in (Client, kaasq.AsyncClient, kaasq.local):
        with pytest.raises(BadRequest, match=r"settings: expected what .*load_settings\({.*}\) gives, given a dict"):
            make(settings={"pool": "images"})  # type: ignore[arg-type]


def test_flags_come_before_variables_before_the_file(file: Path) -> None:
    environ = {"KAASQ_POOL": "environ", "KAASQ_STORE": "environ-store"}
    settings = load_settings({"pool": "flag", "store": None}, environ=environ, file=file)
    assert (settings.pool, settings.store, settings.compiler) == ("flag", "environ-store", "a")
    assert settings.graph_limits.launches == 7


def test_variable_names_the_file(file: Path) -> None:
    assert load_settings(environ={"KAASQ_CONFIG": str(file)}).pool == "file"


def test_file_in_the_working_folder_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load_settings(environ={}).pool == "file"


def test_variables_are_converted(file: Path) -> None:
    environ = {
        "KAASQ_TIMEOUT": "2.5",
        "KAASQ_PREFETCH": "8",
        "KAASQ_STORE_SYNC": "false",
        "KAASQ_QUEUE_TYPE": "classic",
        "KAASQ_GUARD": "1",
    }
    settings = load_settings(environ=environ, file=file)
    assert (settings.timeout, settings.prefetch, settings.store_sync) == (2.5, 8, False)
    assert settings.queue_type == "classic"
    assert settings.guard


@pytest.mark.parametrize(
    ("flags", "environ", "toml", "says"),
    [
        ({"timeout": "soon"}, {}, "", "--timeout: 'soon'"),
        ({}, {"KAASQ_PREFETCH": "many"}, "", "KAASQ_PREFETCH: 'many'"),
        (
            {},
            {"KAASQ_QUEUE_TYPE": "fast"},
            "",
            "KAASQ_QUEUE_TYPE: 'fast': Invalid enum value 'fast'; expected one of quorum, classic",
        ),
        ({}, {"KAASQ_GRAPH_LIMITS": "launches=7"}, "", "KAASQ_GRAPH_LIMITS: is a table, which fits no variable"),
        ({}, {}, "prefetch = 'many'", "kaasq.toml: prefetch: 'many'"),
        ({}, {"KAASQ_PENDING_LIMIT": "0"}, "", "KAASQ_PENDING_LIMIT: '0'"),
        ({}, {"KAASQ_GUARD": "perhaps"}, "", "KAASQ_GUARD: 'perhaps': expected true or false"),
        ({}, {"KAASQ_TIMEOUT": "abc"}, "", "KAASQ_TIMEOUT: 'abc': expected a number"),
        ({}, {"KAASQ_BUSY_POLL": "x"}, "", "KAASQ_BUSY_POLL: 'x': expected a number"),
        ({}, {"KAASQ_BUSY_POLL": "3"}, "", "KAASQ_BUSY_POLL: '3': expected a number <= 0.1"),
        ({}, {}, "pool = 3", "kaasq.toml: pool: 3: expected a text"),
        ({"guard_band": 0}, {}, "", "--guard-band: 0"),
        ({"timeout": -1}, {}, "", "--timeout: -1"),
        ({}, {}, "polo = 'x'", "kaasq.toml: polo: unknown setting (did you mean pool?); known are broker_url, "),
        ({}, {}, "[quotas]\nx = 1", "kaasq.toml: quotas.x: unknown setting; known are stored_bytes, queued, "),
        ({}, {}, "[graph_limits]\nlanches = 7", "graph_limits.lanches: unknown setting (did you mean launches?)"),
        ({}, {}, "pool = ", "kaasq.toml: no valid TOML"),
        ({"pool": "Not A Word"}, {}, "", "--pool: 'Not A Word' is no pool: use lower-case"),
        ({}, {"KAASQ_POOL": "Foo Bar"}, "", "KAASQ_POOL: 'Foo Bar' is no pool: use lower-case"),
        ({"slot": "a.b"}, {}, "", "--slot: 'a.b' is no slot"),
        ({}, {}, "slot = 'a.b'", "kaasq.toml: slot: 'a.b' is no slot"),
        ({}, {}, "[graph_limits]\nlaunches = 'x'", "kaasq.toml: graph_limits.launches: 'x': expected a whole number"),
        ({}, {}, "[graph_limits]\nbuffers = -3", "kaasq.toml: graph_limits.buffers: -3: expected a whole number >= 1"),
        ({}, {}, "[graph_limits]\nbuffer_bytes = 0", "kaasq.toml: graph_limits.buffer_bytes: 0: 1 B is the least"),
        ({}, {}, "[graph_limits]\nretries = -1", "kaasq.toml: graph_limits.retries: -1: expected a whole number >= 0"),
        ({}, {}, "[quotas.tenants.ann]\nqueued = -1", "quotas.tenants.ann.queued: -1: expected a whole number"),
        ({}, {}, "graph_limits = 3", "kaasq.toml: graph_limits: 3: expected a table"),
    ],
)
def test_wrong_setting_is_named_with_its_origin(
    tmp_path: Path, flags: dict[str, str], environ: dict[str, str], toml: str, says: str
) -> None:
    file = tmp_path / "kaasq.toml"
    file.write_text(toml)
    with pytest.raises(BadRequest) as caught:
        load_settings(flags, environ=environ, file=file, called=flag_of)
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("flags", "environ", "toml", "place"),
    [
        ({"broker_url": "http://ann:secret@x"}, {}, "", "--broker"),
        ({}, {"KAASQ_BROKER_URL": "http://ann:secret@x"}, "", "KAASQ_BROKER_URL"),
        ({}, {}, "broker_url = 'http://ann:secret@x'", "kaasq.toml: broker_url"),
    ],
)
def test_a_wrong_url_of_the_broker_is_named_with_its_origin_and_never_shown(
    tmp_path: Path, flags: dict[str, str], environ: dict[str, str], toml: str, place: str
) -> None:
    file = tmp_path / "kaasq.toml"
    file.write_text(toml)
    with pytest.raises(BrokerRefused) as caught:
        load_settings(flags, environ=environ, file=file, called=flag_of)
    assert f"{place}: the broker URL does not have the form" in caught.value.message
    assert "secret" not in caught.value.message


def test_what_a_program_gave_a_client_is_named_as_it_was_given() -> None:
    with pytest.raises(BadRequest, match=r"^pool: 'Foo Bar' is no pool"):
        Client("amqp://localhost", pool="Foo Bar")
    with pytest.raises(BrokerRefused, match=r"^broker_url: the broker URL does not have the form"):
        Client("http://localhost")
    with pytest.raises(BrokerRefused, match=r"^broker_url: the broker URL does not have the form"):
        load_settings({"broker_url": "http://localhost"}, environ={})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("conect_timeout", "conect_timeout: unknown setting (did you mean connect_timeout?); known are broker_url, "),
        ("broker", "broker: unknown setting (did you mean broker_url?); known are broker_url, "),
        ("zz", "zz: unknown setting; known are broker_url, "),
    ],
)
@pytest.mark.parametrize("value", [3, None])
def test_what_a_program_gives_and_is_no_setting_is_refused(name: str, says: str, value: int | None) -> None:
    with pytest.raises(BadRequest) as caught:
        load_settings({name: value}, environ={})
    assert caught.value.message.startswith(says)


def test_capacity_is_left_to_the_store_unless_it_is_set() -> None:
    assert Settings().store_capacity is None
    assert load_settings(environ={"KAASQ_STORE_CAPACITY": "10GiB"}).store_capacity == 10 << 30


def test_sizes_take_units_in_variables_flags_and_tables(tmp_path: Path) -> None:
    file = tmp_path / "kaasq.toml"
    file.write_text(
        'pinned_memory = "1GiB"\nmessage_limit = 1000\n[graph_limits]\nmodule_bytes = "2MB"\n'
        '[quotas]\nstored_bytes = "1TiB"\n[quotas.tenants.ann]\ninline_bytes = "3 KiB"\n'
    )
    settings = load_settings({"guard_band": "4KiB", "store_spare": 0}, environ={"KAASQ_INLINE_LIMIT": "5"}, file=file)
    assert (settings.pinned_memory, settings.message_limit, settings.inline_limit) == (1 << 30, 1000, 5)
    assert (settings.guard_band, settings.store_spare) == (4096, 0)
    assert settings.graph_limits.module_bytes == 2_000_000
    assert settings.quotas.stored_bytes == 1 << 40
    assert settings.quotas.tenants["ann"].inline_bytes == 3072


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"store_capacity": "5"}, "store_capacity: '5': 1.0 MiB is the least; sizes are in bytes, or have a unit"),
        ({"store_capacity": "10 gigs"}, "store_capacity: '10 gigs': is no size: expected a number of bytes, or one"),
        ({"guard_band": "0"}, "guard_band: '0': 1 B is the least"),
        ({"inline_limit": -1}, "inline_limit: -1: 0 B is the least"),
        ({"inline_limit": True}, "inline_limit: True: expected a whole number"),
        ({"graph_limits": {"module_bytes": "x"}}, "graph_limits.module_bytes: 'x': is no size"),
        ({"quotas": {"tenants": {"ann": {"stored_bytes": "1 GB!"}}}}, "quotas.tenants.ann.stored_bytes: '1 GB!'"),
    ],
)
def test_what_is_no_size_or_too_small_is_told(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        load_settings(given, environ={})
    assert caught.value.message.startswith(says)


def test_client_with_default_settings_leaves_the_capacity_of_a_store(tmp_path: Path) -> None:
    open_store(tmp_path / "store", capacity=10_000_000, sync=False).close()
    with Client("amqp://ann@nowhere.invalid/", store=tmp_path / "store", settings=Settings(store_sync=False)) as client:
        client.put(b"data")
    with open_store(tmp_path / "store", sync=False) as store:
        assert store.usage().capacity == 10_000_000


def test_a_variable_that_is_no_setting_is_warned_of_once() -> None:
    with log_lines() as lines:
        for _ in range(2):
            load_settings(environ={"KAASQ_BROKR_URL": "amqp://x", "KAASQ_ZZ": "1", "KAASQ_POOL": "a"})
    assert [(each["event"], each["variable"], each["nearest"]) for each in lines] == [
        ("setting.unknown", "KAASQ_BROKR_URL", "KAASQ_BROKER_URL"),
        ("setting.unknown", "KAASQ_ZZ", None),
    ]


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("KAASQ_BROKER", "KAASQ_BROKER_URL"),  # the flag is --broker
        ("KAASQ_START", "KAASQ_START_TIMEOUT"),
        ("KAASQ_LOG", "KAASQ_LOG_LEVEL"),
        ("KAASQ_MODULE", "KAASQ_MODULES"),
        ("KAASQ_CONFIGS", "KAASQ_CONFIG"),
        ("KAASQ_pool", "KAASQ_POOL"),
    ],
)
def test_a_variable_that_is_no_setting_is_told_which_is_meant(variable: str, near: str) -> None:
    with log_lines() as lines:
        load_settings(environ={variable: "x"})
    assert [(each["variable"], each["nearest"]) for each in lines] == [(variable, near)]


@pytest.mark.parametrize(
    "variable",
    [
        *("KAASQ_CONFIG", "KAASQ_TEST_SEED", "KAASQ_PORT", "KAASQ_SERVICE_HOST", "KAASQ_SERVICE_PORT_AMQP"),
        *("KAASQ_WORKER_PORT_5672_TCP_ADDR", "KAASQ_WORKER_SERVICE_PORT", "OTHER_KAASQ_POOL"),
    ],
)
def test_variables_that_others_make_are_not_warned_of(file: Path, variable: str) -> None:
    with log_lines() as lines:
        load_settings(environ={variable: str(file)})
    assert not lines


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"gone\.toml: cannot read it: No such file"):
        load_settings(environ={"KAASQ_CONFIG": str(tmp_path / "gone.toml")})


def test_store_of_worker_and_client_is_the_same_by_default() -> None:
    assert Settings(pool="a").store_path == Settings(pool="a").store_path == default_store("a")
    assert Settings(pool="a").store_path != Settings(pool="b").store_path
    assert Settings(store="~/x").store_path == Path.home() / "x"


@pytest.mark.parametrize(
    ("url", "tenant"),
    [
        (DEFAULT_BROKER_URL, "guest"),
        ("amqp://localhost", "guest"),
        ("amqps://ann:secret@broker.example:5671/vhost", "ann"),
        ("amqp://team%2d1:p%40ss@broker.example", "team-1"),
    ],
)
def test_tenant_is_the_user_of_the_broker_url(url: str, tenant: str) -> None:
    assert Settings(broker_url=url).tenant == tenant


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://ann:secret@x", "it does not start with amqp:// or amqps://"),
        ("localhost:5672", "it does not start with amqp:// or amqps://"),
        ("amqp:localhost", "it does not start with amqp:// or amqps://"),
        ("", "it does not start with amqp:// or amqps://"),
        ("amqp://", "it names no host"),
        ("amqps://ann:secret@:5671/", "it names no host"),
        ("amqp://ann:secret@host:port/", "its port is no number up to 65535"),
        ("amqp://ann:sec/ret@host/", "its port is no number up to 65535 (in a password, write / as %2F"),
        ("amqp://ann:secret@[host/", "its host is none"),
    ],
)
def test_what_is_no_broker_url_is_refused_with_one_message_and_without_its_password(url: str, why: str) -> None:
    for ask in (lambda: Settings(broker_url=url).tenant, lambda: Settings(broker_url=url).connection_url):
        with pytest.raises(BrokerRefused) as caught:
            ask()
        says = caught.value.message
        assert says.startswith(f"the broker URL does not have the form {FORM} (amqps:// for TLS): {why}")
        assert "secret" not in says
        assert "ret@" not in says


def test_user_that_can_be_no_tenant_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"tenant: 'A\.B' is no tenant"):
        _ = Settings(broker_url="amqp://A.B@localhost").tenant


def test_every_setting_stands_in_the_operators_documentation() -> None:
    rows = [line.split("|")[1] for line in OPERATIONS.read_text().splitlines() if line.startswith("| `")]
    named = {word.strip(" `") for row in rows for word in row.split(",")}
    assert set(Settings.__struct_fields__) <= named

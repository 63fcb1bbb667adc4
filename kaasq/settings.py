"""Settings: flags first, then KAASQ_* variables, then a TOML file, then defaults. Read once, into a frozen value."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlencode

import msgspec
import platformdirs

from kaasq.broker_url import check_broker_url, split_broker_url
from kaasq.checks import GraphLimits
from kaasq.errors import BadRequest
from kaasq.log import get_logger
from kaasq.names import check_word
from kaasq.questions import QuestionLimits
from kaasq.quotas import Quotas
from kaasq.setting_values import SIZE, Bytes, Positive, Seconds, SomeBytes, check_known, converted, nearest_setting
from kaasq.topology import QueueType

DEFAULT_BROKER_URL = "amqp://guest:guest@localhost:5672/"
DEFAULT_POOL = "default"
INLINE_LIMIT_BYTES = 256 << 10
MESSAGE_LIMIT_BYTES = 16 << 20  # RabbitMQ's default from 4.0 on
GUARD_BAND_BYTES = 64 << 10  # a row of 16,384 floats: an index that is wrong by one row is seen, too
PINNED_BYTES = 2 << 30
STORE_LEAST_BYTES = 1 << 20  # a few outputs as large as may travel in a message
MOST_TTL_S = 4_294_967  # 49 days: RabbitMQ counts milliseconds in 32 bits
PREFIX = "KAASQ_"
FILE_NAME = "kaasq.toml"
TABLES = {"graph_limits", "questions", "quotas"}
# What begins like a variable of ours and is none: those of kaasq's own tests, and those by which Kubernetes and Docker
# tell of a service that is called kaasq or kaasq-something.
_OTHERS = re.compile(
    r"KAASQ_(TEST|FAULTS)_.*|KAASQ_(.*_)?(SERVICE_(HOST|PORT(_.*)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.*)?)?)"
)

log = get_logger()


StoreBytes = Annotated[int, msgspec.Meta(ge=STORE_LEAST_BYTES, extra=SIZE)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set. ``KAASQ_BROKER_URL`` sets ``broker_url``, and so on for each field.

    Sizes in bytes (texts may have a unit: ``10GiB``), times in seconds.
    """

    broker_url: str = DEFAULT_BROKER_URL
    broker_ca: str = ""
    """File with the certificate of the authority to trust, in PEM. Empty: the system's authorities."""
    broker_cert: str = ""
    """File with the certificate by which this program shows who it is, where the broker asks for one."""
    broker_key: str = ""
    """File with its private key. Empty: in the same file."""
    pool: str = DEFAULT_POOL
    store: str = ""
    """The store's folder. Empty: ``default_store(pool)``."""

    busy_poll: Annotated[float, msgspec.Meta(ge=0, le=0.1)] | None = None
    """For how long a worker, or a client that waits for replies, looks for messages before it sleeps; 0: not at all.
    None: it depends on how many processors there are (``processors.py``)."""

    # producers
    inline_limit: Bytes = INLINE_LIMIT_BYTES
    """Inline bytes in one message, inputs together; what is larger goes through the store."""
    timeout: Seconds = 60.0
    """A request's deadline; ``run`` waits a second longer at most, for what the worker says of it."""
    connect_timeout: Seconds = 10.0
    confirm_patience: Seconds = 1.0
    """A publish that is not confirmed after so long is repeated, if a later one to the same place is."""
    pending_limit: Positive = 10_000
    """Requests of one client without a reply; more wait."""
    event_limit: Positive = 100_000
    """Events that a named subscription holds; a full one gets no more until some are taken."""
    event_ttl: Annotated[float, msgspec.Meta(gt=0, le=MOST_TTL_S)] = 7 * 24 * 3600.0
    """How long a named subscription keeps an event, and itself if nobody listens to it."""

    # workers
    device: str = "auto"
    """``cpu``, ``cuda:0``, ``all`` (a worker for each GPU) or ``auto`` (a GPU if there is one)."""
    slot: str = ""
    """This worker's place in the pool. Empty: named after the device."""
    queue_type: QueueType = "quorum"
    prefetch: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 64
    """Requests a worker holds at a time."""
    in_flight: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    """Requests queued on the device at once; 0: what the device gains from (8 on a GPU, 1 on a CPU)."""
    device_memory: Bytes = 0
    """Bytes of device memory to use at most; 0: what the device has, less a reserve."""
    pinned_memory: Bytes = PINNED_BYTES
    """Bytes of stored objects that a GPU may keep pinned in host memory, to read them at the bus's full speed."""
    cache_dir: str = ""
    """Compiled modules. Empty: the user's cache folder."""
    modules: str = ""
    """Folders with modules for requests that name a ``library``, separated as in PATH. Empty: none."""
    module_policy: Literal["any", "listed", "signed"] = "any"
    """Which modules of requests are run: any, those whose hash is in ``module_list``, those signed by one of
    ``module_keys``."""
    module_list: str = ""
    """File of modules' hashes, one a line."""
    module_keys: str = ""
    """Folder of public Ed25519 keys, ``*.pem``."""
    compiler: str = ""
    """C++ compiler of the CPU device. Empty: g++, clang++ or ziglang, whichever is found first."""
    guard: bool = False
    """Guard mode, for finding bugs: writes outside of a buffer or to a ``const`` one fail the launch. Slow."""
    guard_band: SomeBytes = GUARD_BAND_BYTES
    """Bytes before and after each buffer that guard mode watches."""
    isolation: Literal["shared", "tenant"] = "shared"
    """``shared``: one executor for all tenants, who have to trust each other's kernels. ``tenant``: one for each."""
    isolation_executors: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """With ``tenant``: executors at once; each has an equal part of the device's memory."""
    isolation_idle: Seconds = 300.0
    """With ``tenant``: an executor without a request for so long is stopped."""
    isolation_turn: Seconds = 5.0
    """With ``tenant``: for how long an executor stays its tenant's while others wait for one and none is idle."""
    spare: Literal["none", "imported", "opened"] = "imported"
    """What stands by to replace an executor: nothing, a process that has loaded everything and waits before it opens
    the device, or one that has opened it, too."""
    most_attempts: Positive = 5
    """A request that so many deliveries were begun of, and none ended, is given up: its workers die of it."""
    traceable: bool = False
    """Whether other processes of the worker's user may read the front's memory and attach to it, and it may leave core
    dumps: for debugging."""
    longest_run: Seconds = 3600.0
    """A request that runs for longer is stopped, whatever its own deadline."""
    chain_spill: Annotated[float, msgspec.Meta(ge=0)] = 0.05
    """A chain goes on in the executor that it is in unless another request has waited there for so long; then its next
    step goes through the broker, to whoever is free. 0: each step does."""
    chain_hold: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    """A chain goes on without the broker for so long at most: less than the broker's ``consumer_timeout``."""
    workflow_patience: Seconds = 300.0
    """A step of a workflow that is due for so long and has not ended is published again, as what was lost would be.
    Later ones of the same workflow are waited for longer."""
    workflow_longest: Seconds = 7 * 24 * 3600.0
    """For so long after its start, what a running workflow still needs (outcomes and outputs of its steps, inputs) is
    kept, though it be older than ``result_ttl``."""
    executor_timeout: Annotated[float, msgspec.Meta(ge=2)] = 60.0
    """An executor that gives no sign of life for so long is replaced. A kernel that runs is a sign of life."""
    start_timeout: Seconds = 120.0
    """An executor that is not ready after so long is replaced; at the worker's start, the worker fails. Once one was
    ready, later ones have less (``front/silence.py``), and this at most."""
    message_limit: SomeBytes = MESSAGE_LIMIT_BYTES
    """Bytes of a message that a worker publishes for a continuation at most: the broker's ``max_message_size``."""
    result_ttl: Seconds = 24 * 3600.0
    """How long outcomes and outputs that nobody named are kept."""
    dead_ttl: Seconds = 7 * 24 * 3600.0
    """How long the stored inputs of a request that a worker dead-letters are kept at least."""
    health_file: str = ""
    """File in which a worker says that it lives, for ``kaasq health``. Empty: none."""
    graph_limits: GraphLimits = GraphLimits()
    quotas: Quotas = Quotas()
    """What each tenant may use."""
    questions: QuestionLimits = QuestionLimits()
    """How questions about workflows are answered while the executor has other things to do."""

    # the store
    store_capacity: StoreBytes | None = None
    """None: what the store has; a new one takes half of what the disk has free. A number is set for all who use it."""
    store_spare: Bytes | None = None
    """Bytes of files whose objects are gone, kept to be used again; None: up to 1 GiB in shared memory, else none."""
    store_sync: bool = True
    """Whether what is acknowledged survives a power cut; if not, it still survives any crash of a process."""

    # logs
    log_format: Literal["auto", "json", "console"] = "auto"
    """``json``, ``console`` or ``auto`` (console on a terminal)."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def connection_url(self) -> str:
        """The broker's URL, with the files for TLS in its query, as RabbitMQ's URI format has them.
        Raises BrokerRefused if it is none.
        """
        files = {"cacertfile": self.broker_ca, "certfile": self.broker_cert, "keyfile": self.broker_key}
        given = urlencode({key: value for key, value in files.items() if value})
        parts = split_broker_url(self.broker_url)
        return parts._replace(query="&".join(filter(None, (parts.query, given)))).geturl() if given else self.broker_url

    @property
    def tenant(self) -> str:
        """Whose objects and names a program sees: the broker URL's user. Raises BadRequest if it can be no tenant,
        BrokerRefused if the URL is none.
        """
        user = split_broker_url(self.broker_url).username
        return check_word("guest" if user is None else unquote(user), "tenant")

    @property
    def store_path(self) -> Path:
        """The store's folder."""
        return Path(self.store).expanduser() if self.store else default_store(self.pool)

    @property
    def cache_path(self) -> Path:
        """The folder of compiled modules."""
        return Path(self.cache_dir).expanduser() if self.cache_dir else Path(platformdirs.user_cache_dir("kaasq"))


def default_store(pool: str) -> Path:
    """Where a pool's store lies unless something else is said: the same for worker and client of one user."""
    return Path(platformdirs.user_data_dir("kaasq")) / "store" / pool


def changed(settings: object, given: Mapping[str, Any]) -> Settings:
    """The settings (without any: those of environment and file), with what is given itself (None means not). Raises
    BadRequest, and what load_settings raises.
    """
    if settings is None:
        return load_settings(given)
    if not isinstance(settings, Settings):
        raise BadRequest(
            f"expected what kaasq.settings.load_settings({{...}}) gives, given a {type(settings).__name__}",
            at="settings",
        )
    return msgspec.structs.replace(settings, **{key: value for key, value in given.items() if value is not None})


def load_settings(
    given: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
    called: Callable[[str], str] = str,
) -> Settings:
    """Merge what is given (None means not), environment and file. Raises BadRequest naming what is wrong, and where, or
    BrokerRefused for the broker's URL; warns of variables that are no settings, once. ``called``: by which name errors
    speak of what is given; commands say ``flag_of``.

    The file is ``file``, else ``KAASQ_CONFIG``, else ``kaasq.toml`` here, else the user's configuration folder's.
    """
    environ = os.environ if environ is None else environ
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    known = {each.name: each for each in msgspec.structs.fields(Settings)}

    path = file or _find_file(environ)
    if path is not None:
        for key, value in _read_file(path).items():
            check_known(key, known, at=f"{path}: {key}")
            merged[key], origin[key] = value, f"{path}: {key}"
    for key in known:
        text = environ.get(PREFIX + key.upper())
        if text is not None:
            if key in TABLES:
                raise BadRequest(
                    f"is a table, which fits no variable: write [{key}] into {FILE_NAME}", at=PREFIX + key.upper()
                )
            merged[key], origin[key] = text, PREFIX + key.upper()
    for variable in environ:
        if variable.startswith(PREFIX) and not _OTHERS.fullmatch(variable):
            _check_variable(variable)
    for key, value in (given or {}).items():
        check_known(key, known, at=called(key))
        if value is not None:
            merged[key], origin[key] = value, called(key)

    for key, value in merged.items():  # one by one, so that the error can name the one that is wrong
        merged[key] = converted(value, known[key].type, at=origin[key])
    settings = Settings(**merged)
    check_word(settings.pool, "pool", origin.get("pool"))
    if settings.slot:
        check_word(settings.slot, "slot", origin.get("slot"))
    if "broker_url" in origin:
        check_broker_url(settings.broker_url, origin["broker_url"])
    return settings


@cache
def _check_variable(variable: str) -> None:
    """Warn, and refuse nothing: scripts around kaasq may have variables of their own."""
    known = [*Settings.__struct_fields__, "config"]
    if variable not in {PREFIX + each.upper() for each in known}:
        near = nearest_setting(variable.removeprefix(PREFIX).lower(), known)
        log.warning("setting.unknown", variable=variable, nearest=near and PREFIX + near.upper())


def _find_file(environ: Mapping[str, str]) -> Path | None:
    named = environ.get(PREFIX + "CONFIG")
    if named:
        return Path(named)
    for path in (Path(FILE_NAME), Path(platformdirs.user_config_dir("kaasq")) / FILE_NAME):
        if path.is_file():
            return path
    return None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise BadRequest(f"cannot read it: {error.strerror}", at=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"no valid TOML: {error}", at=str(path)) from None

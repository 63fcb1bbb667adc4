"""Runs a private RabbitMQ node: own ports, cookie and folders, nothing left behind.

Used by the tests and benchmarks; ``python -m kaasq_bench.rabbitmq`` runs one by hand. It needs the installed
``rabbitmq-server`` package, but neither its service nor root.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from kaasq_bench.rabbitmq.api import Management
from kaasq_bench.rabbitmq.installation import NodeError, find_bin
from kaasq_bench.rabbitmq.ports import free_ports, is_free
from kaasq_bench.rabbitmq.probing import probe
from kaasq_bench.rabbitmq.processes import descendants, is_alive
from kaasq_bench.rabbitmq.start import LEADER, Ports, configuration, environment

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
CTL_TIMEOUT_S = 60.0
GONE_TIMEOUT_S = 5.0
POLL_S = 0.05


class RabbitNode:
    """A private RabbitMQ node, used as a context manager.

    ``port``: AMQP port, free one by default. ``folder``: keeps the data after ``close()``; by default they lie in a
    temporary folder that goes with the node. ``root``: a folder with another Debian in it (debootstrap) whose RabbitMQ
    runs in a chroot, for trying other versions; needs root. ``config``: further lines of rabbitmq.conf. Nodes that are
    to form a cluster share an ``epmd_port``, on which the caller runs epmd, and a ``cookie``.

    ``stop`` and ``kill`` keep ports and data, so ``start`` brings the same broker back. (A quorum queue killed within
    half a second of its declaration does not elect a leader again, on RabbitMQ 3.10 and 4.0 alike: wait a second.)
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        folder: Path | None = None,
        root: Path | None = None,
        config: Mapping[str, str] | None = None,
        schedulers: int = 2,
        epmd_port: int | None = None,
        cookie: str | None = None,
    ) -> None:
        self._root = root
        self._bin = find_bin(root)
        self._config = dict(config or {})
        self._schedulers = schedulers
        if port is not None and not is_free(port):
            raise NodeError(f"port {port} is in use")
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if folder is None:
            place = None if root is None else root.absolute() / "tmp"
            self._temporary = tempfile.TemporaryDirectory(
                prefix="kaasq-rabbitmq-", dir=place, ignore_cleanup_errors=True
            )
            folder = Path(self._temporary.name)
        elif root is not None:
            raise ValueError("folder= and root= exclude each other: a chroot sees its own files only")
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(4)
        self.port = port or ports[0]
        self._ports = Ports(self.port, ports[1], epmd_port or ports[2], ports[3])
        if cookie is not None:
            path = self.folder / ".erlang.cookie"
            path.write_text(cookie)
            path.chmod(0o400)
        self._leader: subprocess.Popen[bytes] | None = None
        self.version = ""

    @property
    def url(self) -> str:
        """AMQP URL of the default vhost, with the administrator's credentials."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def urls(self) -> list[str]:
        """As of a cluster of one."""
        return [self.url]

    @property
    def management_url(self) -> str:
        return f"http://guest:guest@127.0.0.1:{self._ports.management}"

    @property
    def management(self) -> Management:
        return Management(self.management_url)

    @property
    def running(self) -> bool:
        return self._leader is not None and self._leader.poll() is None

    def start(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Start the node and return once it serves AMQP and its management API."""
        if self.running:
            return self
        self._write_config()
        command = ["/bin/sh", "-c", LEADER]
        if self._root is not None:
            command = ["chroot", str(self._root), *command]
        with (self.folder / "out.log").open("ab") as log:
            self._leader = subprocess.Popen(
                command,
                env=self._environment(),
                cwd="/",
                stdin=subprocess.PIPE,  # held open: see LEADER
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(time.monotonic() + timeout_s)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the node in good order (1 to 6 s); its data stay."""
        if self._leader is not None and self._leader.poll() is None:
            self._leader.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._leader.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """End every process of the node at once, as a power cut would; its data stay."""
        leader, self._leader = self._leader, None
        if leader is None:
            return
        family = descendants(leader.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
        for pid in family:  # Erlang's helper processes have sessions of their own, and may outlive it by a moment
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        leader.wait()
        if leader.stdin is not None:
            leader.stdin.close()
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while any(map(is_alive, family)) and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def pids(self) -> list[int]:
        """Every process of the node."""
        return [] if self._leader is None else [self._leader.pid, *descendants(self._leader.pid)]

    def restart(self, *, graceful: bool = True) -> None:
        """Stop (or kill) the node and start it again with the same ports and data."""
        if graceful:
            self.stop()
        else:
            self.kill()
        self.start()

    def close(self) -> None:
        """Kill the node; a temporary data folder goes with it."""
        self.kill()
        if self._temporary is not None:
            self._temporary.cleanup()

    def ctl(self, *args: str) -> str:
        """Run ``rabbitmqctl`` on this node and return what it printed. Half a second; see ``management``."""
        command = [f"{self._bin}/rabbitmqctl", *args]
        if self._root is not None:
            command = ["chroot", str(self._root), *command]
        done = subprocess.run(
            command,
            env=self._environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CTL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise NodeError(f"rabbitmqctl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _inside(self, name: str) -> str:
        """The path of a file in the data folder, as the broker's processes see it."""
        path = self.folder / name
        return str(path) if self._root is None else f"/{path.relative_to(self._root.absolute())}"

    def _write_config(self) -> None:
        text = configuration(self._ports, self._config, chroot=self._root is not None)
        (self.folder / "rabbitmq.conf").write_text(text)
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (self.folder / "rabbitmq-env.conf").touch()

    def _environment(self) -> dict[str, str]:
        return environment(self._ports, self._bin, self._inside, schedulers=self._schedulers)

    def _wait_until_ready(self, deadline: float) -> None:
        while True:
            try:
                self.version = probe(self.url)
                break
            except ConnectionError as error:  # not yet: the listener comes last, after the users
                if not self.running:
                    raise NodeError(f"RabbitMQ ended while it started.\n{self.log_tail()}") from error
                if time.monotonic() > deadline:
                    raise NodeError(f"RabbitMQ was not ready in time.\n{self.log_tail()}") from error
                time.sleep(POLL_S)
        self.management.wait(max(1.0, deadline - time.monotonic()))

    def log_tail(self, lines: int = 25) -> str:
        """What it said last, or why it did not start."""
        text = ""
        with contextlib.suppress(OSError):
            text = (self.folder / "out.log").read_text(errors="replace")
        start = text.rfind("BOOT FAILED")
        return "\n".join(text[start:].splitlines()[:lines] if start >= 0 else text.splitlines()[-lines:])

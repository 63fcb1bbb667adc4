"""The commands for the buffer store: ``kaasq put``, ``get``, ``ls``, ``rm``, ``gc``. They need no broker."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from kaasq.cli import settings_options
from kaasq.errors import BadRequest, NameNotFound, StoreUnavailable
from kaasq.log import configure
from kaasq.setting_values import flag_of
from kaasq.settings import Settings, load_settings
from kaasq.units import counted, size
from kaasq_producers.client import Client
from kaasq_producers.commands import display
from kaasq_producers.commands.files import STANDARD, read_value, write_value
from kaasq_storage.protocol import DEFAULT_TTL_S

_SHORT_REF = re.compile(r"[0-9a-f]{8,63}")  # as many as `ls` shows, or fewer

_store = settings_options("broker_url", "store", "pool")  # the broker's URL says whose store it is: its user
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@click.command(short_help="Store a file.")
@click.argument("file", type=click.Path(path_type=Path))
@_store
@click.option("--name", metavar="NAME", help="Name it; a name that exists points to this from now on.")
@click.option("--ttl", type=float, default=DEFAULT_TTL_S, show_default=True, help="Seconds kept if it has no name.")
@click.option("--dtype", metavar="TYPE", help="Element type of a raw file, such as float32.")
@click.option("--shape", metavar="N,M,...", help="Shape of a raw file.")
@_as_json
def put(
    *, file: Path, name: str | None, ttl: float, dtype: str | None, shape: str | None, as_json: bool, **flags: Any
) -> None:
    r"""Store a .npy file with its dtype and shape, or any other file's bytes; "-" is standard input.

    \b
    kaasq put weights.npy --name model/w1
    kaasq put frame.bin --dtype uint8 --shape 1080,1920,3 --name frame
    """
    value = read_value(file)
    if isinstance(value, np.ndarray) and (dtype or shape):
        raise BadRequest("a .npy file says dtype and shape itself", at="--dtype")
    with Client(settings=_settings(flags)) as client:
        ref = client.put(value, name, ttl, dtype=dtype, shape=_shape(shape))
    if as_json:
        click.echo(msgspec.json.encode(ref))
    else:
        click.echo(f"{ref.ref}  {size(ref.nbytes)}" + (f"  {name} version {ref.version}" if name else ""))


@click.command(short_help="Write a stored object to a file.")
@click.argument("key", metavar="NAME|REF")
@click.argument("file", type=click.Path(path_type=Path))
@_store
def get(key: str, file: Path, **flags: Any) -> None:
    r"""Write a stored array to a .npy file, or its bytes to any other; "-" is standard output.

    Of a REF, its first digits will do: 8 or more, as `kaasq ls` shows them.

    \b
    kaasq get y/1 y.npy
    kaasq get 3f8a5c0d1e22 - | xxd | head
    """
    with _existing(flags) as client:
        array = client.get(_full(client, key))
    write_value(file, array)
    click.echo(f"{file}: {array.dtype} {array.shape}, {size(array.nbytes)}", err=file == STANDARD)


@click.command()
@click.argument("prefix", default="")
@_store
@click.option("--objects", is_flag=True, help="List objects, named or not, instead of names.")
@_as_json
def ls(prefix: str, objects: bool, as_json: bool, **flags: Any) -> None:
    r"""List the store's names that start with PREFIX, or its objects.

    \b
    kaasq ls model/
    kaasq ls --objects --json
    """
    with _existing(flags) as client:
        listed: list[Any] = (
            [each for each in client.buffers.objects() if each.ref.startswith(prefix)]
            if objects
            else client.names(prefix)
        )
        usage = client.buffers.usage()
    if as_json:
        click.echo(json.dumps([display.plain(each) for each in listed]))
        return
    if listed:
        display.show(display.objects_table(listed) if objects else display.names_table(listed))
    click.echo(display.usage_line(usage))


@click.command(short_help="Remove names, or unnamed objects.")
@click.argument("keys", metavar="NAME|REF...", nargs=-1, required=True)
@_store
def rm(keys: tuple[str, ...], **flags: Any) -> None:
    r"""Remove names, or unnamed objects by their refs. What nothing points to any more goes with its last name.

    Of a REF, its first digits will do: 8 or more. What cannot be removed is told, and the rest is removed.

    \b
    kaasq rm y/1 y/2
    """
    with _existing(flags) as client:
        failed = False
        for key in keys:
            try:
                client.delete(_full(client, key))
            except (BadRequest, NameNotFound) as error:  # of this one; the others are removed all the same
                click.echo(f"kaasq: {error.code}: {error.message}", err=True)
                failed = True
            else:
                click.echo(f"removed {key}")
    sys.exit(failed)


@click.command()
@_store
@click.option("--verify", is_flag=True, help="Then read all objects of the tenant; exit 1 if bytes have changed.")
@_as_json
def gc(verify: bool, as_json: bool, **flags: Any) -> None:
    """Remove what has expired or was left behind by a crash. Workers do this by themselves, every minute.

    Damaged objects, which --verify finds, are not removed: put their contents again under their names, or remove them
    with `kaasq rm`.
    """
    started = time.monotonic()
    with _existing(flags) as client:
        collected = client.buffers.gc()
        damaged = {each.ref: wrong for each, wrong in client.buffers.damaged()} if verify else {}
        usage = client.buffers.usage()
    if as_json:
        said = {"removed": display.plain(collected), "damaged": damaged, "usage": display.plain(usage)}
        click.echo(json.dumps(said))
        sys.exit(bool(damaged))
    click.echo(
        f"removed {counted(collected.objects, 'object')} ({size(collected.nbytes)}), "
        f"{counted(collected.outcomes, 'outcome')}, {counted(collected.orphans, 'orphan')}, "
        f"{counted(collected.stale_readers, 'stale reader')} in {time.monotonic() - started:.2f} s"
    )
    for ref, wrong in damaged.items():
        click.echo(f"damaged: object {ref}: {wrong}", err=True)
    if verify:
        click.echo(f"verified: {counted(len(damaged), 'object')} damaged")
    click.echo(display.usage_line(usage))
    sys.exit(bool(damaged))


def _settings(flags: dict[str, Any]) -> Settings:
    settings = load_settings(flags, called=flag_of)
    configure("warning", settings.log_format)  # standard output is for what was asked for
    return settings


def _existing(flags: dict[str, Any]) -> Client:
    """A client of a store that exists: looking into a mistyped folder must not make a store there."""
    settings = _settings(flags)
    client = Client(settings=settings)  # which opens no store yet
    if not settings.store_path.is_dir():
        raise StoreUnavailable(
            f"there is no store in {settings.store_path}: a worker or `kaasq put` makes one (--store or KAASQ_STORE "
            f"say where)",
            path=str(settings.store_path),
        )
    return client


def _full(client: Client, key: str) -> str:
    """The key, or the one ref that starts so if it looks like a ref's beginning and is no name."""
    if not _SHORT_REF.fullmatch(key) or any(each.name == key for each in client.names(key)):
        return key
    refs = [each.ref for each in client.buffers.objects() if each.ref.startswith(key)]
    if len(refs) > 1:
        raise BadRequest(f"{len(refs)} objects have refs that start so: give more of the digits", at=key)
    if not refs:
        raise NameNotFound(f"the store has no object whose ref starts with {key!r}, and no name {key!r}", name=key)
    return refs[0]


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    if text in {"", "()"}:  # one number
        return ()
    sizes = [each.strip() for each in re.split("[,x]", text)]
    if len(sizes) == 2 and text.endswith(","):  # as Python writes a shape of one dimension: 25,
        del sizes[-1]
    if not all(each.isdecimal() for each in sizes):
        raise BadRequest(f"{text!r} is no shape: expected N,M,... or NxM...", at="--shape")
    return tuple(map(int, sizes))

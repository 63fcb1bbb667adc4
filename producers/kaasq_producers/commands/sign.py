"""``kaasq sign``: signs a module's file, for workers that run signed modules only."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import click

from kaasq import signing
from kaasq.errors import BadRequest
from kaasq.model import Module


@click.command(short_help="Sign a module's file, or show its hash.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path), help="Private Ed25519 key in PEM; without it only the hash is shown."
)
@click.option("--option", "options", multiple=True, metavar="TEXT", help="A compiler option the module is used with.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def sign(*, file: Path, key: Path | None, options: tuple[str, ...], as_json: bool) -> None:
    r"""Write FILE.sig, which `Module.from_file(FILE)` takes along, and print the module's hash and its signature.

    A signature is of the code and its options: give the ones that the module is used with. A program in another
    language puts the signature into the module's field "signature".

    \b
    openssl genpkey -algorithm ed25519 -out team.key
    openssl pkey -in team.key -pubout -out keys/team.pem      # for the workers: module_keys = "keys"
    kaasq sign saxpy.cu --key team.key --option=-DN=4
    kaasq sign saxpy.cu                                       # the hash, for module_list
    """
    try:
        module = Module.from_file(file, options=options, signature=b"")
    except OSError as error:
        raise BadRequest(f"cannot read it: {error.strerror}", at=str(file)) from None
    signature = base64.b64encode(signing.signature_of(module.hash, key)).decode() if key is not None else None
    if signature is not None:
        beside = file.with_name(file.name + signing.SUFFIX)
        try:
            beside.write_text(signature + "\n")
        except OSError as error:
            raise BadRequest(f"cannot write it: {error.strerror}", at=str(beside)) from None
    if as_json:
        click.echo(json.dumps({"hash": module.hash, "signature": signature}))
    else:
        click.echo("  ".join(filter(None, (module.hash, signature))))

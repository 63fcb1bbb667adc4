"""``kaasq schema``: print the documents, write them into a folder, or check that a folder has them as they are."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kaasq.schema.files import DOCUMENTS, path, text


@click.command(short_help="Describe the messages: JSON Schemas, AsyncAPI.")
@click.argument("documents", metavar="[DOCUMENT]...", nargs=-1, type=click.Choice(DOCUMENTS))
@click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), help="Write them there (all, by default)."
)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a file in --out is not as it would be.")
def schema(*, documents: tuple[str, ...], out: Path | None, check: bool) -> None:
    r"""Describe the messages for other languages: JSON Schemas of each message; an AsyncAPI document.

    \b
    kaasq schema request                 print one
    kaasq schema --out docs              write docs/schema/request.json, ..., docs/asyncapi.json
    kaasq schema --out docs --check
    """
    if out is None:
        if check:
            raise click.UsageError("--check needs --out DIR, the folder to check")
        if len(documents) != 1:
            raise click.UsageError(f"name one of {', '.join(DOCUMENTS)}, or say --out DIR for files")
        click.echo(text(documents[0]), nl=False)
        return
    stale = [each for each in documents or DOCUMENTS if _read(path(out, each)) != text(each)]
    if not check:
        for each in stale:
            path(out, each).parent.mkdir(parents=True, exist_ok=True)
            path(out, each).write_text(text(each), encoding="utf-8")
    for each in stale:
        click.echo(f"{path(out, each)} is {'not current' if check else 'written'}", err=check)
    if check and stale:
        click.echo(f"kaasq schema --out {out} mends that", err=True)
        sys.exit(1)


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None

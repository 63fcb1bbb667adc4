"""Makes RabbitMQ definitions in which tenants, workers and operators can do what they need to, and nothing else.

    python ops/rabbitmq/definitions.py users.toml > definitions.json
    rabbitmqctl import_definitions definitions.json        # or load_definitions in rabbitmq.conf

The users with their passwords come from a TOML file like ``users.toml`` beside this one; the definitions have hashes of
the passwords only. What each kind of user may do, and why: docs/security.md. It needs nothing but Python.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXCHANGES = ("kaasq.requests", "kaasq.replies", "kaasq.events", "kaasq.dead", "kaasq.control")
USER = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)
KINDS = ("tenants", "workers", "operators")
OWN_KEYS = r"^{username}\."  # RabbitMQ puts the user's name there
# What follows a request is published by the worker in the tenant's name, a dead letter's request by an operator.
TAGS = {"tenants": [], "workers": ["impersonator"], "operators": ["monitoring", "impersonator"]}


def definitions(users: Mapping[str, Mapping[str, str]], vhost: str = "/") -> dict[str, Any]:
    """The definitions for users by kind (``tenants``, ``workers``, ``operators``) and name, with their passwords."""
    each_user = [(kind, name, password) for kind in KINDS for name, password in users.get(kind, {}).items()]
    return {
        "vhosts": [{"name": vhost}],
        "users": [
            {
                "name": name,
                "password_hash": password_hash(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": TAGS[kind],
            }
            for kind, name, password in each_user
        ],
        "permissions": [{"user": name, "vhost": vhost, **permissions(kind, name)} for kind, name, _ in each_user],
        "topic_permissions": [
            {"user": name, "vhost": vhost, "exchange": exchange, "write": write, "read": read}
            for kind, name, _ in each_user
            if kind == "tenants"
            for exchange, write, read in (
                ("kaasq.requests", OWN_KEYS, "^$"),
                ("kaasq.control", OWN_KEYS, "^$"),
                ("kaasq.replies", "^$", OWN_KEYS),
                ("kaasq.events", "^$", OWN_KEYS),
            )
        ],
        # Tenants may not declare exchanges, for who may declare one may delete it. So they are here.
        "exchanges": [
            {
                "name": exchange,
                "vhost": vhost,
                "type": "topic",
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for exchange in EXCHANGES
        ],
    }


def permissions(kind: str, name: str) -> dict[str, str]:
    """What a user of that kind may configure, write and read: regular expressions over the names of the vhost."""
    own = rf"kaasq\.(reply|events)\.{re.escape(name)}\.[a-z0-9_.-]+"
    match kind:
        case "tenants":
            return {
                "configure": f"^{own}$",
                "write": rf"^(kaasq\.(requests|control)|{own})$",
                "read": rf"^(kaasq\.(replies|events)|{own})$",
            }
        case "workers":
            return {
                # slot: of workers of earlier versions, which may still run beside newer ones.
                "configure": r"^kaasq\.(requests|replies|events|dead|control|(work|control|slot)\..+)$",
                # amq.default: RabbitMQ's direct reply-to is answered through it.
                "write": r"^(kaasq\.(requests|replies|events|dead|(work|control|slot)\..+)|amq\.default)$",
                "read": r"^kaasq\.(requests|control|dead|(work|control|slot)\..+)$",
            }
        case _:
            return {"configure": ".*", "write": ".*", "read": ".*"}


def password_hash(password: str, salt: bytes | None = None) -> str:
    """As RabbitMQ keeps passwords: SHA-256, with four bytes of salt."""
    salt = os.urandom(4) if salt is None else salt
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def read_users(path: Path) -> tuple[dict[str, dict[str, str]], str]:
    """Users by kind, and the vhost, from a TOML file. Raises ValueError naming what is wrong."""
    given = tomllib.loads(path.read_text())
    vhost = given.pop("vhost", "/")
    if unknown := sorted(given.keys() - set(KINDS)):
        raise ValueError(f"{unknown[0]!r} is no table of users: expected {', '.join(KINDS)}")
    seen: dict[str, str] = {}
    for kind, users in given.items():
        for name, password in users.items():
            at = f"{kind}.{name}"
            if not USER.fullmatch(name):
                raise ValueError(f"{at}: use lower-case letters, digits, '_' and '-', at most 64")
            if not isinstance(password, str) or not password:
                raise ValueError(f"{at}: expected a password")
            if name in seen:
                raise ValueError(f"{at}: {name!r} is one of the {seen[name]} already")
            seen[name] = kind
    return given, vhost


def main() -> None:
    """Print the definitions for a file of users."""
    parser = argparse.ArgumentParser(description="Print RabbitMQ definitions for kaasq's tenants, workers, operators.")
    parser.add_argument("users", type=Path, help="a TOML file like ops/rabbitmq/users.toml")
    path = parser.parse_args().users
    try:
        users, vhost = read_users(path)
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")
    print(json.dumps(definitions(users, vhost), indent=2))


if __name__ == "__main__":
    main()

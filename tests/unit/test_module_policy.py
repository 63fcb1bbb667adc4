"""Which modules a worker runs: the list, the signatures, what is always allowed, and what a refusal says."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from kaasq.checks import GraphLimits, check_graph
from kaasq.cli import main
from kaasq.errors import BadRequest, Forbidden
from kaasq.model import Module
from kaasq.settings import Settings
from kaasq.signing import signature_of
from kaasq_workers.executor.module_policy import ModulePolicy
from tests.support import graphs

MODULE = Module.from_source("__global__ void k() {}")
OTHER = Module.from_source("__global__ void k() { }")


class Keys:
    """A folder with keys that are trusted; ``make`` adds one and gives the file of its private half."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trusted = folder / "keys"
        self.trusted.mkdir()

    def make(self, name: str, *, trusted: bool = True) -> Path:
        key = Ed25519PrivateKey.generate()
        private = self.folder / f"{name}.key"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        if trusted:
            public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            (self.trusted / f"{name}.pem").write_bytes(public)
        return private

    def policy(self, clock=lambda: 0.0) -> ModulePolicy:
        return ModulePolicy(Settings(module_policy="signed", module_keys=str(self.trusted)), clock)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def signed(module: Module, key: Path) -> Module:
    return Module(source=module.source, options=module.options, signature=signature_of(module.hash, key))


def listed(tmp_path: Path, text: str, clock=lambda: 0.0) -> ModulePolicy:
    (tmp_path / "list").write_text(text)
    return ModulePolicy(Settings(module_policy="listed", module_list=str(tmp_path / "list")), clock)


def test_by_default_any_module_runs():
    ModulePolicy(Settings()).check(MODULE, MODULE)


def test_a_listed_module_runs_and_another_is_refused_by_its_hash(tmp_path):
    policy = listed(tmp_path, f"# ours\n\n{MODULE.hash}  # k\n")
    policy.check(MODULE, MODULE)
    with pytest.raises(Forbidden) as caught:
        policy.check(OTHER, OTHER)
    assert caught.value.detail == {"module": OTHER.hash, "policy": "listed"}
    assert f"module {OTHER.hash} is not on the list" in caught.value.message
    assert "add the hash as a line of module_list" in caught.value.message


def test_options_make_another_module(tmp_path):
    other = Module(source=MODULE.source, options=("-DN=4",))
    with pytest.raises(Forbidden):
        listed(tmp_path, MODULE.hash).check(other, other)


def test_what_is_added_to_the_list_counts_without_a_restart(tmp_path):
    now = [0.0]
    policy = listed(tmp_path, "", lambda: now[0])
    (tmp_path / "list").write_text(MODULE.hash)
    now[0] = 2.0
    policy.check(MODULE, MODULE)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"module_policy": "listed"}, "module_list: is needed with this module_policy"),
        ({"module_policy": "listed", "module_list": "/nowhere"}, "module_list: /nowhere: cannot read it: No such file"),
        ({"module_policy": "signed"}, "module_keys: is needed with this module_policy"),
        ({"module_policy": "signed", "module_keys": "/nowhere"}, "module_keys: '/nowhere' is no folder"),
    ],
)
def test_a_policy_that_cannot_be_kept_keeps_the_worker_from_starting(settings, says):
    with pytest.raises(BadRequest) as caught:
        ModulePolicy(Settings(**settings))
    assert says in caught.value.message


def test_a_line_that_is_no_hash_is_named(tmp_path):
    with pytest.raises(BadRequest, match=r"list:2: 'abc' is no module's hash: 64 hexadecimal digits"):
        listed(tmp_path, f"{MODULE.hash}\nabc\n")


def test_a_module_signed_by_a_trusted_key_runs(keys):
    key = keys.make("team")
    keys.make("other-team")
    keys.policy().check(MODULE, signed(MODULE, key))


def test_unsigned_and_wrongly_signed_modules_are_refused_and_told_what_to_do(keys):
    key, stranger = keys.make("team"), keys.make("stranger", trusted=False)
    policy = keys.policy()
    with pytest.raises(Forbidden, match="is not signed, and this worker runs signed modules only: kaasq sign"):
        policy.check(MODULE, MODULE)
    for wrong in (
        signed(MODULE, stranger),
        Module(source=MODULE.source, signature=signature_of(OTHER.hash, key)),
        Module(source=MODULE.source, signature=bytes(64)),
    ):
        with pytest.raises(Forbidden, match="has a signature by none of the keys that this worker trusts"):
            policy.check(MODULE, wrong)


def test_code_once_approved_runs_for_whoever_sends_it(keys):
    policy = keys.policy()
    key = keys.make("team")
    later = keys.policy(clock=iter((0.0, 5.0, 6.0)).__next__)
    later.check(MODULE, signed(MODULE, key))
    later.check(MODULE, MODULE)
    with pytest.raises(Forbidden):
        policy.check(MODULE, MODULE)


def test_a_key_added_later_counts_without_a_restart(keys):
    now = [0.0]
    policy = keys.policy(lambda: now[0])
    key = keys.make("team")
    now[0] = 2.0
    policy.check(MODULE, signed(MODULE, key))


def test_files_of_the_workers_folders_are_allowed_and_libraries_in_the_store_are_not(keys):
    keys.make("team")
    policy = keys.policy()
    policy.check(MODULE, Module.from_library("kernels.cu"))
    with pytest.raises(Forbidden, match=r"\(library '@kernels'\) is not signed"):
        policy.check(MODULE, Module.from_library("@kernels"))


def test_a_file_of_the_operators_with_options_of_the_tenants_is_a_module_like_others(tmp_path):
    sent = Module.from_library("kernels.cu", options=("-Dif=while",))
    made = Module.from_source("__global__ void k() {}", options=sent.options)
    with pytest.raises(Forbidden, match=made.hash):
        listed(tmp_path, MODULE.hash).check(made, sent)
    listed(tmp_path, made.hash).check(made, sent)


def test_a_signature_is_no_part_of_a_modules_or_graphs_identity(keys):
    graph = graphs.saxpy().freeze()
    (module,) = graph.modules.values()
    other = signed(module, keys.make("team"))
    assert other.hash == module.hash
    with_signature = msgspec.structs.replace(graph, modules={module.hash: other})
    assert with_signature.hash == graph.hash


def test_a_signature_of_another_length_is_a_bad_request():
    module = Module(source=graphs.SOURCE, signature=b"x")
    with pytest.raises(BadRequest, match=r"modules\['m'\].signature: has 1 bytes, expected 64"):
        check_graph(graphs.spec(modules={"m": module}), GraphLimits())


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (b"junk", "is no key in PEM"),
        (
            generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "expected a private Ed25519 key in PEM",
        ),
        (
            Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
            ),
            "the key is encrypted",
        ),
        (None, "cannot read it: No such file"),
    ],
    ids=["junk", "other curve", "encrypted", "missing"],
)
def test_a_key_that_cannot_sign_is_named(tmp_path, key, says):
    if key is not None:
        (tmp_path / "key").write_bytes(key)
    with pytest.raises(BadRequest) as caught:
        signature_of(MODULE.hash, tmp_path / "key")
    assert says in caught.value.message
    assert str(tmp_path / "key") in caught.value.message


def test_sign_writes_what_from_file_takes_along(keys, tmp_path, capsys):
    source = tmp_path / "k.cu"
    source.write_text(MODULE.source)
    assert Module.from_file(source).signature == b""
    main(["sign", str(source), "--key", str(keys.make("team")), "--option=-DN=4", "--json"])
    said = json.loads(capsys.readouterr().out)
    module = Module.from_file(source, options=("-DN=4",))
    assert (said["hash"], base64.b64decode(said["signature"])) == (module.hash, module.signature)
    keys.policy().check(module, module)
    plain = Module.from_file(source)
    with pytest.raises(Forbidden):
        keys.policy().check(plain, plain)  # signed with other options
    main(["sign", str(source)])
    assert capsys.readouterr().out == f"{plain.hash}\n"
    (tmp_path / "k.cu.sig").write_text("no base64!")
    with pytest.raises(BadRequest, match="is no signature"):
        Module.from_file(source)


def test_keys_made_by_openssl_are_understood(keys, tmp_path):
    key = tmp_path / "team.key"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", keys.trusted / "team.pem"], check=True)
    keys.policy().check(MODULE, signed(MODULE, key))

"""Modules that lie with the worker: what may be named, what it is taken for, and that a change is noticed."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kaasq.errors import BadRequest, Forbidden, KaasqError, ModuleRejected
from kaasq.model import Module
from kaasq_storage import BufferStore, open_store
from kaasq_workers.executor import libraries as libraries_module
from kaasq_workers.executor import module_folders
from kaasq_workers.executor.libraries import Libraries
from kaasq_workers.executor.library_code import module_of

CUBINS = Path(__file__).parents[1] / "data" / "cubins"
SOURCE = 'extern "C" __global__ void k(int* x) { *x = 1; }\n'
OTHER = SOURCE.replace("1", "2")
LIMIT = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BufferStore]:
    opened = open_store(tmp_path / "store", capacity=1 << 26, sync=False)
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A module folder with a few files, one of them below, and beside it what nobody may read."""
    made = tmp_path / "modules"
    (made / "sub").mkdir(parents=True)
    (made / "k.cu").write_text(SOURCE)
    (made / "sub" / "deep.cu").write_text(OTHER)
    (tmp_path / "secret.cu").write_text(SOURCE)
    (tmp_path / "modules-not").mkdir()
    (tmp_path / "modules-not" / "k.cu").write_text(SOURCE)
    return made


@pytest.fixture
def libraries(folder: Path, store: BufferStore) -> Libraries:
    return Libraries(str(folder), store, limit=LIMIT)


def resolve(libraries: Libraries, path: str, tenant: str = "guest") -> Module:
    return libraries.resolve(tenant, Module.from_library(path))


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every file had been written long ago."""
    monkeypatch.setattr(module_folders, "SETTLED_NS", -(10**18))


# ------------------------------------------------------------------------------------------------ what may be named


@pytest.mark.parametrize("path", ["k.cu", "./k.cu", "sub/../k.cu", "sub//../k.cu"])
def test_file_in_the_folder(libraries: Libraries, path: str) -> None:
    assert resolve(libraries, path) == Module.from_source(SOURCE)


def test_file_below_the_folder_and_by_its_absolute_path(libraries: Libraries, folder: Path) -> None:
    assert resolve(libraries, "sub/deep.cu") == Module.from_source(OTHER)
    assert resolve(libraries, str(folder / "sub" / "deep.cu")) == Module.from_source(OTHER)
    assert resolve(libraries, f"{folder}/../modules/k.cu") == Module.from_source(SOURCE)


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(
    "path",
    [
        "../secret.cu",
        "sub/../../secret.cu",
        "../modules-not/k.cu",
        "{parent}/secret.cu",
        "{parent}/modules-not/k.cu",
        "link.cu",
        "linked/secret.cu",
        "/etc/passwd",
        "..",
        "/",
    ],
)
def test_what_lies_outside_is_forbidden_whether_it_exists_or_not(
    libraries: Libraries, folder: Path, path: str, exists: bool
) -> None:
    (folder / "link.cu").symlink_to("../secret.cu")
    (folder / "linked").symlink_to(folder.parent)
    if not exists:
        (folder.parent / "secret.cu").unlink()
        (folder.parent / "modules-not" / "k.cu").unlink()
    with pytest.raises(Forbidden) as caught:
        resolve(libraries, path.format(parent=folder.parent))
    assert (
        str(caught.value) == f"library {path.format(parent=folder.parent)!r} is not below the worker's module folders"
    )


def test_without_a_folder_files_are_forbidden_and_it_is_said_why(store: BufferStore, folder: Path) -> None:
    for path in ("k.cu", str(folder / "k.cu")):
        with pytest.raises(Forbidden, match=r"no module folder .*--modules DIR"):
            resolve(Libraries("", store, limit=LIMIT), path)


def test_links_inside_the_folder_are_followed_and_the_folder_may_be_one(
    store: BufferStore, folder: Path, tmp_path: Path
) -> None:
    (folder / "alias.cu").symlink_to("sub/deep.cu")
    (tmp_path / "elsewhere").symlink_to("modules")
    libraries = Libraries(str(tmp_path / "elsewhere"), store, limit=LIMIT)
    assert resolve(libraries, "alias.cu") == Module.from_source(OTHER)
    assert resolve(libraries, str(tmp_path / "elsewhere" / "k.cu")) == Module.from_source(SOURCE)


def test_first_of_several_folders_counts(store: BufferStore, folder: Path, tmp_path: Path) -> None:
    second = tmp_path / "modules-not"
    (second / "k.cu").write_text(OTHER)
    (second / "only.cu").write_text(OTHER)
    libraries = Libraries(os.pathsep.join((str(folder), str(second))), store, limit=LIMIT)
    assert resolve(libraries, "k.cu") == Module.from_source(SOURCE)
    assert resolve(libraries, "only.cu") == Module.from_source(OTHER)
    assert resolve(libraries, "../modules-not/k.cu") == Module.from_source(OTHER)


def test_missing_file_is_told_with_what_is_there(libraries: Libraries) -> None:
    with pytest.raises(ModuleRejected, match=r"no 'none.cu'; they hold k.cu, sub/deep.cu$") as caught:
        resolve(libraries, "none.cu")
    assert caught.value.files == ["k.cu", "sub/deep.cu"]


def test_list_of_what_is_there_is_bounded(libraries: Libraries, folder: Path) -> None:
    for index in range(3 * module_folders.LISTED):
        (folder / f"{index}.cu").touch()
    with pytest.raises(ModuleRejected) as caught:
        resolve(libraries, "none.cu")
    assert len(caught.value.files) == module_folders.LISTED


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_rejected_at_once(libraries: Libraries, folder: Path, make: Callable[[Path], None]) -> None:
    make(folder / "odd.cu")
    with pytest.raises(ModuleRejected, match=r"'odd\.cu'"):
        resolve(libraries, "odd.cu")


@pytest.mark.parametrize("path", ["x" * 200, "a/" * 90 + "k.cu", "k.cu/deeper"])
def test_names_that_no_file_can_have_are_missing_files(libraries: Libraries, path: str) -> None:
    with pytest.raises(ModuleRejected):
        resolve(libraries, path)


def test_size_limit_applies(folder: Path, store: BufferStore) -> None:
    store.put("guest", SOURCE.encode(), name="m")
    libraries = Libraries(str(folder), store, limit=len(SOURCE) - 1)
    for path in ("k.cu", "@m"):
        with pytest.raises(ModuleRejected, match=f"has {len(SOURCE)} bytes, the limit is {len(SOURCE) - 1}"):
            resolve(libraries, path)


@pytest.mark.parametrize("setting", ["/nowhere/at/all", "{folder}/k.cu"])
def test_setting_that_names_no_folder_is_refused(store: BufferStore, folder: Path, setting: str) -> None:
    with pytest.raises(BadRequest, match=r"modules: .* is no folder"):
        Libraries(setting.format(folder=folder), store, limit=LIMIT)


# ------------------------------------------------------------------------------------------------ what it is taken for


@pytest.mark.parametrize(
    ("file", "kind"),
    [("add.cu", "source"), ("add.ptx", "ptx"), ("sm_90.cubin", "cubin"), ("add.fatbin", "fatbin")],
)
@pytest.mark.parametrize("named", [True, False])
def test_kind_is_known_by_suffix_and_without_one_by_content(file: str, kind: str, named: bool) -> None:
    code = (CUBINS / file).read_bytes()
    module = module_of(code, Module.from_library(file), suffix=Path(file).suffix if named else "")
    assert module.kind == kind
    assert (module.source.encode() if kind == "source" else module.code) == code


@pytest.mark.parametrize("start", [b"// made by hand\n", b"/* a\n .version * */\n\n", b"\n\t// x\n/**/ "])
def test_ptx_may_begin_with_comments(start: bytes) -> None:
    assert module_of(start + b".version 8.0\n.target sm_80\n", Module.from_library("x"), suffix="").kind == "ptx"


def test_many_comments_take_no_time() -> None:
    started = time.process_time()
    for text in (b"/*" * 10**6, b"//\n" * 10**6, b"/* */ " * 10**5, b" " * 10**6):
        module_of(text + b"x", Module.from_library("x"), suffix="")
    assert time.process_time() - started < 2


def test_options_are_for_source(libraries: Libraries) -> None:
    library = Module.from_library("k.cu", options=("-DN=4",))
    assert libraries.resolve("guest", library) == Module.from_source(SOURCE, options=("-DN=4",))
    assert resolve(libraries, "k.cu").options == ()


def elf(machine: int) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine) + bytes(44)


@pytest.mark.parametrize("suffix", [".so", "", ".cubin"])
@pytest.mark.parametrize("code", [elf(62), elf(183), b"\x7fELF"])
def test_host_library_is_rejected_with_what_to_do(code: bytes, suffix: str) -> None:
    with pytest.raises(ModuleRejected, match=r"library 'x' is a program or library for the host.*device code.*nvcc"):
        module_of(code, Module.from_library("x"), suffix=suffix)


@pytest.mark.parametrize("code", [b"", b" \n", b"\xff\xfe\x00", b"a\0b"])
def test_what_is_no_code_is_rejected(code: bytes) -> None:
    with pytest.raises(ModuleRejected, match="library 'x' is"):
        module_of(code, Module.from_library("x"), suffix=".cu")


# ------------------------------------------------------------------------------------------------ changes


def test_same_module_while_nothing_changes(libraries: Libraries, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    first = resolve(libraries, "k.cu")
    monkeypatch.setattr(module_folders.ModuleFolders, "read", lambda *_: pytest.fail("read again"))
    assert resolve(libraries, "k.cu") is first
    assert resolve(libraries, "k.cu", "other") is first


def rewrite(path: Path) -> None:
    path.write_text(OTHER)


def replace(path: Path) -> None:
    new = path.with_name("new")
    new.write_text(OTHER)
    new.replace(path)


def relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("sub/deep.cu")


def rewrite_and_hide(path: Path) -> None:
    before = path.stat()
    path.write_text(OTHER)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [rewrite, replace, relink, rewrite_and_hide])
def test_changed_file_is_another_module_at_once(
    libraries: Libraries, folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    settle(monkeypatch)
    assert resolve(libraries, "k.cu") == Module.from_source(SOURCE)
    time.sleep(0.02)  # beyond a tick of the file system's clock, for which "settled" stands
    change(folder / "k.cu")
    assert resolve(libraries, "k.cu") == Module.from_source(OTHER)


def test_file_that_changes_within_a_tick_is_noticed(
    libraries: Libraries, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_folders, "_signature", lambda found: (found.st_ino, found.st_size))  # a stopped clock
    for index in range(3):
        (folder / "k.cu").write_text(SOURCE + f"// {index}")
        assert resolve(libraries, "k.cu").source.endswith(f"// {index}")


def test_link_that_comes_to_lead_outside_is_forbidden(
    libraries: Libraries, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    resolve(libraries, "k.cu")
    (folder / "k.cu").unlink()
    (folder / "k.cu").symlink_to("../secret.cu")
    with pytest.raises(Forbidden):
        resolve(libraries, "k.cu")


def test_file_in_an_earlier_folder_takes_over_and_a_deleted_one_is_gone(
    store: BufferStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    first = tmp_path / "first"
    first.mkdir()
    libraries = Libraries(os.pathsep.join((str(first), str(folder))), store, limit=LIMIT)
    assert resolve(libraries, "k.cu") == Module.from_source(SOURCE)
    (first / "k.cu").write_text(OTHER)
    assert resolve(libraries, "k.cu") == Module.from_source(OTHER)
    (first / "k.cu").unlink()
    assert resolve(libraries, "k.cu") == Module.from_source(SOURCE)
    (folder / "k.cu").unlink()
    with pytest.raises(ModuleRejected, match=r"have no 'k\.cu'"):
        resolve(libraries, "k.cu")


# ------------------------------------------------------------------------------------------------ in the store


def test_object_by_name_follows_the_name(store: BufferStore) -> None:
    libraries = Libraries("", store, limit=LIMIT)
    store.put("guest", SOURCE.encode(), name="modules/k")
    first = resolve(libraries, "@modules/k")
    assert first == Module.from_source(SOURCE)
    assert resolve(libraries, "@modules/k") is first
    store.put("guest", OTHER.encode(), name="modules/k")
    assert resolve(libraries, "@modules/k") == Module.from_source(OTHER)
    store.delete("guest", name="modules/k")
    with pytest.raises(ModuleRejected, match="'@modules/k': the worker's store has no object of that name"):
        resolve(libraries, "@modules/k")


def test_object_of_another_tenant_is_not_seen(store: BufferStore) -> None:
    libraries = Libraries("", store, limit=LIMIT)
    store.put("one", SOURCE.encode(), name="k")
    resolve(libraries, "@k", "one")
    with pytest.raises(ModuleRejected, match="no object of that name"):
        resolve(libraries, "@k", "other")


def test_object_kinds_are_known_by_content(store: BufferStore) -> None:
    store.put("guest", (CUBINS / "sm_90.cubin").read_bytes(), name="c.cu")
    assert resolve(Libraries("", store, limit=LIMIT), "@c.cu").kind == "cubin"


@pytest.mark.parametrize("path", ["@", "@" + "x" * 401])
def test_names_that_no_object_can_have(store: BufferStore, path: str) -> None:
    with pytest.raises(KaasqError):
        resolve(Libraries("", store, limit=LIMIT), path)


def test_what_is_remembered_is_bounded(libraries: Libraries, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    monkeypatch.setattr(libraries_module, "REMEMBERED_BYTES", 3 * len(SOURCE))
    paths = ["./" * count + "k.cu" for count in range(6)]
    first = resolve(libraries, paths[0])
    for path in paths[1:]:
        resolve(libraries, path)
    assert resolve(libraries, paths[0]) is not first
    assert resolve(libraries, paths[-1]) is resolve(libraries, paths[-1])


def test_a_link_that_takes_a_file_s_place_before_it_is_opened_leads_nowhere(
    libraries: Libraries, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(path: str, flags: int) -> int:
        Path(path).unlink()
        Path(path).symlink_to(folder.parent / "secret.cu")
        return os.open(path, flags)

    monkeypatch.setattr(module_folders, "_unwaiting", late)
    with pytest.raises(Forbidden, match="not below"):
        resolve(libraries, "k.cu")


def test_a_file_that_changes_while_links_are_followed_is_told_as_such(
    libraries: Libraries, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(path: Path) -> str:
        raise OSError(errno.EINVAL, "Invalid argument")  # as readlink says of what was a link a moment ago

    monkeypatch.setattr(os.path, "realpath", changing)
    with pytest.raises(ModuleRejected, match=r"'k.cu' cannot be read: Invalid argument"):
        resolve(libraries, "k.cu")


def test_names_that_are_not_utf_8_are_told_in_a_message_that_is(libraries: Libraries, folder: Path) -> None:
    (folder / os.fsdecode(b"\xff.cu")).write_text(SOURCE)
    with pytest.raises(ModuleRejected, match=r"they hold .*\\xff\.cu") as caught:
        resolve(libraries, "none.cu")
    assert caught.value.message.encode()
    assert r"\xff.cu" in caught.value.detail["files"]

"""Files are whole or absent, whatever happens while they are written."""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from isthmus._check import InputError
from isthmus.files import atomic, digest, new_folder, read_json, sha256, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_block_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_text("old")
    with atomic(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".bin"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["weights.bin"]


def half_write(path: Path, fail: Callable[[Path], None]) -> None:
    with atomic(path) as temporary:
        temporary.write_text("half")
        fail(temporary)


def full(path: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def quota(path: Path) -> None:
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def as_text(path: Path) -> None:
    # The form in which safetensors reports it.
    raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")


def chained(path: Path) -> None:
    try:
        full(path)
    except OSError as error:
        raise RuntimeError("could not write") from error


@pytest.mark.parametrize("fail", [full, quota, as_text, chained])
def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path, fail: Callable[[Path], None]) -> None:
    path = tmp_path / "weights.bin"
    path.write_text("old")
    message = r"the disk is full\. Found: .*; the earlier file is unchanged\. Free some space"
    with pytest.raises(InputError, match=message):
        half_write(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["weights.bin"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full")
def test_the_kernels_own_error_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    with (
        pytest.raises(InputError, match=r"disk is full.*no file was written"),
        atomic(path),
        open("/dev/full", "w") as stream,
    ):
        stream.write("x")
    assert names(tmp_path) == []


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(("free", "expected"), [(0, InputError), (2**40, RuntimeError)])
def test_a_writer_that_hides_the_reason_is_seen_through_by_the_space_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, expected: type[Exception]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - free, free))
    with pytest.raises(expected, match="unexpected pos 704 vs 598"), atomic(tmp_path / "weights.pt"):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_anything_else_passes_through_after_cleaning(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "weights.bin"
    path.write_text("old")

    def fail(_: Path) -> None:
        raise error

    with pytest.raises(error):
        half_write(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["weights.bin"]


def test_a_failed_rename_is_reported_and_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(InputError, match="disk is full"):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == []


def test_the_content_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), real_sync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), real_replace(a, b)))
    write_text(tmp_path / "a.txt", "new")
    assert order[:2] == ["sync", "replace"]


def test_the_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_a_link_keeps_pointing_at_the_new_content(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_impossible_places_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"`path` should be in an existing folder\. Found no folder '.*missing'"):
        write_text(tmp_path / "missing" / "a.txt", "")
    with pytest.raises(InputError, match=r"`path` should be a file\. Found a folder"):
        write_text(tmp_path, "")

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        InputError, match=r"should be a file that can be written\. Found: Permission denied; no file was written"
    ):
        write_text(tmp_path / "a.txt", "")


def test_json_comes_back_and_stays_standard(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    document = {"third": 1 / 3, "text": "nüll", "list": [1, None, True]}
    write_json(path, document)
    assert read_json(path) == document
    before = path.read_bytes()
    for bad in ({"a": float("nan")}, {"a": float("inf")}, {"a": object()}):
        with pytest.raises(InputError, match=r"`document` should hold only JSON values, no NaN or infinity\. Found: "):
            write_json(path, bad)
    assert path.read_bytes() == before


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"should be a file that can be read\. Found No such file or directory: '.*none"
    ):
        read_json(tmp_path / "none")
    with pytest.raises(
        InputError, match=r"should be a file that can be read\. Found No such file or directory: '.*none"
    ):
        sha256(tmp_path / "none")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad\.json` should be a JSON file\. Found: "):
        read_json(tmp_path / "bad.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.json` should be a JSON file\. Found: "):
        read_json(tmp_path / "binary.json")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"isthmus" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"isthmus" * 100_000).hexdigest()


def test_digest_sees_names_dtypes_shapes_and_values_only() -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(True), "c": torch.ones(3, dtype=torch.bfloat16)}
    same = {key: base[key] for key in reversed(base)}
    same["a"] = base["a"].t().contiguous().t()
    assert digest(same) == digest(base)
    others = [
        {**base, "a": base["a"].reshape(3, 2)},
        {**base, "a": base["a"].double()},
        {**base, "a": base["a"] + torch.eye(2, 3) * 1e-7},
        {"x" if key == "a" else key: value for key, value in base.items()},
        {"a": base["a"], "b": base["b"]},
    ]
    found = [digest(other) for other in others]
    assert len({digest(base), *found}) == 6
    # Pinned: a digest written today must be found again tomorrow.
    assert digest({"a": torch.zeros(2)}) == hashlib.sha256(b"a\0torch.float32\0(2,)\0" + bytes(8)).hexdigest()


def test_new_folder_never_takes_over_results(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "runs" / "first")
    assert folder.is_dir()
    assert new_folder(folder) == folder
    (folder / "report.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"`out` should be a new or empty folder\. Found 1 entries in '.*first'.*--resume"
    ):
        new_folder(folder)
    assert new_folder(folder, resume=True) == folder
    assert names(folder) == ["report.json"]
    with pytest.raises(InputError, match=r"`out` should be a folder\. Found a file '.*report\.json'"):
        new_folder(folder / "report.json", resume=True)
    with pytest.raises(InputError, match=r"`out` should be a folder that can be made\. Found Not a directory"):
        new_folder(folder / "report.json" / "below")

"""Files that are either whole or absent: atomic writing, digests, and output folders that never swallow earlier results."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from isthmus._check import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = ("No space left on device", "os error 28", "Disk quota exceeded", "File too large")
_NO_SPACE = 2**16


@contextmanager
def atomic(path: str | Path) -> Generator[Path]:
    """Return a context whose value is a temporary file beside `path`; it becomes `path` when the block ends without an error.

    The temporary keeps the suffix, because some writers choose a format by it. Whatever is raised, Ctrl-C included, removes the
    temporary and leaves an earlier file as it was. Raises InputError where the folder is missing or not writable and where the disk
    is full.
    """
    target = Path(path).resolve()
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(6)}{target.suffix}")
    _require_place(target)
    try:
        # Not tempfile: its files are readable by their owner only, whatever the umask says.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise _refused(target, error) from error
    try:
        yield temporary
        _publish(temporary, target)
    except BaseException as error:
        full = _disk_full(error) or _hides_full_disk(error, target.parent)
        temporary.unlink(missing_ok=True)
        if full:
            raise _refused(target, error, full=True) from error
        raise


def _require_place(target: Path) -> None:
    if not target.parent.is_dir():
        raise InputError(f"`path` should be in an existing folder. Found no folder {str(target.parent)!r}.")
    if target.is_dir():
        raise InputError(f"`path` should be a file. Found a folder {str(target)!r}.")


def _publish(temporary: Path, target: Path) -> None:
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, target)
    if hasattr(os, "O_DIRECTORY"):  # the new name itself survives a power cut only once its folder is written
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        except OSError:  # some network file systems cannot; the file is complete all the same
            pass
        finally:
            os.close(folder)


def _disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one it came from, says that the disk is full; safetensors reports it as text only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if not isinstance(error, OSError) and any(text in str(error) for text in _FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _hides_full_disk(error: BaseException, folder: Path) -> bool:
    """Return whether no space is left beside a writer's error: `torch.save` and NumPy report a full disk as something else."""
    writer = isinstance(error, OSError | RuntimeError) and getattr(error, "errno", None) is None
    return writer and shutil.disk_usage(folder).free < _NO_SPACE


def _refused(target: Path, error: BaseException, *, full: bool = False) -> InputError:
    kept = "the earlier file is unchanged" if target.exists() else "no file was written"
    reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
    if full or _disk_full(error):
        return InputError(
            f"`{target}` should fit on its disk, but the disk is full. Found: {reason}; {kept}. Free some space and run again."
        )
    return InputError(f"`{target}` should be a file that can be written. Found: {reason}; {kept}.")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, document: object) -> None:
    """Write `document` as standard JSON, atomically. Raises InputError for NaN, infinity and what JSON does not know."""
    try:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"`document` should hold only JSON values, no NaN or infinity. Found: {error}.") from error
    write_text(path, text + "\n")


def read_json(path: str | Path) -> object:
    """Return what a JSON file holds. Raises InputError where it is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"`path` should be a file that can be read. Found {error.strerror}: {str(path)!r}.") from error
    except ValueError as error:
        raise InputError(f"`{path}` should be a JSON file. Found: {error}.") from error


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    try:
        with Path(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"`path` should be a file that can be read. Found {error.strerror}: {str(path)!r}.") from error


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names, dtypes, shapes and bytes; order of names, strides and device do not matter."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def new_folder(path: str | Path, *, resume: bool = False) -> Path:
    """Return `path` as an existing folder, made where it is missing.

    Raises InputError where it holds anything and `resume` is not set: results are never overwritten.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`out` should be a folder. Found a file {str(folder)!r}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = sum(1 for _ in folder.iterdir())
    except OSError as error:
        raise InputError(
            f"`out` should be a folder that can be made. Found {error.strerror}: {str(folder)!r}."
        ) from error
    if entries and not resume:
        raise InputError(
            f"`out` should be a new or empty folder. Found {entries} entries in {str(folder)!r}. "
            "Choose another folder, or resume the run that is there (--resume)."
        )
    return folder

"""The user's own Python: `path/to/file.py:name` and `package.module:name`, imported and then forgotten."""

import importlib
import sys
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

import torch

from isthmus._check import InputError, nearest

_NOT_THEIRS = (Path(__file__).parent, Path(torch.__file__).parent)


def names_object(spec: str) -> bool:
    """Return whether `spec` has the form `file.py:name` or `package.module:name`."""
    place, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier():
        return False
    return place.endswith(".py") or all(part.isidentifier() for part in place.split("."))


def import_object(spec: str, *, name: str) -> object:
    """Return the object that `path/to/file.py:name` or `package.module:name` names; errors speak of it as `name`.

    The code runs, so name only code that you trust. A file is run anew at each call and may import its neighbours; a package is
    found in the current folder or among the installed ones. Afterwards `sys.path` is as it was, and so is `sys.modules` but for
    installed packages that the code imported; no byte code is written.
    """
    place, _, attribute = spec.rpartition(":")
    module = _run_file(Path(place), name) if place.endswith(".py") else _import_package(place, name)
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(
            f"`{name}` should name something that {place} defines. Found no {attribute!r} there.{nearest(attribute, known)}"
        )
    return getattr(module, attribute)


def where(error: BaseException) -> str:
    """Return an error's type, text (first line) and innermost place, for a message of one line."""
    text = str(error).strip().split("\n")[0]
    # The innermost line that the reader can do something about: not in the import machinery, torch or here.
    place = ""
    for frame in extract_tb(error.__traceback__):
        file = Path(frame.filename)
        if file.is_file() and not any(folder in file.parents for folder in _NOT_THEIRS):
            place = f" ({file.name}, line {frame.lineno})"
    return f"{type(error).__name__}{': ' + text if text else ''}{place}"


def _run_file(path: Path, name: str) -> ModuleType:
    if not path.is_file():
        beside = [entry.name for entry in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise InputError(
            f"`{name}` should name a Python file that exists. Found no file {str(path)!r}.{nearest(path.name, beside)}"
        )
    path = path.resolve()
    # The private name keeps a user's `types.py` from replacing a module of that name.
    title = f"_isthmus_own_{sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    spec = spec_from_loader(title, SourceFileLoader(title, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with _visible(path.parent):
        # Dataclasses and pickling look their module up by name while the file runs.
        sys.modules[title] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise InputError(f"`{name}` should name a file that imports. Found {where(error)} in {path}.") from error
        finally:
            sys.modules.pop(title, None)
    return module


def _import_package(place: str, name: str) -> ModuleType:
    with _visible(Path.cwd()):
        try:
            return importlib.import_module(place)
        except (Exception, SystemExit) as error:
            hint = (
                " A file is named with its suffix: file.py:function." if isinstance(error, ModuleNotFoundError) else ""
            )
            raise InputError(
                f"`{name}` should name a module that imports. Found {where(error)} for {place!r}.{hint}"
            ) from error


@contextmanager
def _visible(folder: Path) -> Generator[None]:
    """Return a context in which modules of `folder` can be imported; at its end the newly imported ones of them are forgotten."""
    path, before, writes = list(sys.path), set(sys.modules), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, writes
        # Only modules lying directly in the folder: an environment inside it holds compiled packages that cannot be imported twice.
        new = [key for key in sys.modules if key not in before]
        roots = {key for key in new if "." not in key and _lies_in(sys.modules[key], folder)}
        for key in new:
            if key.split(".")[0] in roots:
                del sys.modules[key]


def _lies_in(module: ModuleType, folder: Path) -> bool:
    origin = getattr(module, "__file__", None)
    if origin is None:  # a package without __init__.py
        return any(Path(part).parent == folder for part in getattr(module, "__path__", ()))
    place = Path(origin)
    return folder in (place.parent, place.parent.parent if place.name == "__init__.py" else None)

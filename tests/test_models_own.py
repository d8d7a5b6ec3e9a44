"""The user's own Python: found, run, and forgotten again."""

import sys

import pytest
from torch import nn

from isthmus._check import InputError
from isthmus.models import build_model, import_object, names_object

DIGITS = (1, 8, 8)


def test_two_files_with_neighbours_of_one_name_do_not_meet(tmp_path):
    for place, value in (("one", 1), ("two", 2)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "arch.py").write_text("from parts import value\n")
        (tmp_path / place / "parts.py").write_text(f"value = {value}\n")
    found = [import_object(f"{tmp_path / place / 'arch.py'}:value", name="model") for place in ("one", "two")]
    assert found == [1, 2]


def test_a_file_named_like_a_library_replaces_nothing(tmp_path):
    (tmp_path / "json.py").write_text("net = 5\n")
    library = sys.modules["json"]
    assert import_object(f"{tmp_path / 'json.py'}:net", name="model") == 5
    assert sys.modules["json"] is library


def test_packages_of_the_current_folder(tmp_path, monkeypatch):
    package = tmp_path / "garage" / "small"
    package.mkdir(parents=True)
    (tmp_path / "garage" / "__init__.py").write_text("")
    (package / "cars.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert build_model("garage.small.cars:net", num_classes=4, input_shape=DIGITS)[1].out_features == 4
    assert not [name for name in sys.modules if name.startswith("garage")]
    assert isinstance(build_model("torch.nn:Flatten", num_classes=64, input_shape=DIGITS), nn.Flatten)
    assert "torch.nn" in sys.modules


def test_forms_of_own_names():
    assert all(map(names_object, ("a/b.py:net", "net.py:Net", "package.module:net", "module:net")))
    assert not any(map(names_object, ("net", "net.py", "net.py:", "resnet18:width=16", "a/b:net", ":net")))


def test_files_and_packages_that_do_not_import(tmp_path):
    (tmp_path / "own_architecture.py").touch()
    with pytest.raises(
        InputError, match=r"should name a Python file that exists.*Did you mean 'own_architecture.py'\?"
    ):
        import_object(str(tmp_path / "own_architectur.py") + ":net", name="model")
    for text, found in (
        ("def (", "SyntaxError"),
        ("import nowhere_at_all", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ):
        (tmp_path / "bad.py").write_text(text + "\n")
        with pytest.raises(InputError, match=f"`trigger` should name a file that imports. Found {found}"):
            import_object(str(tmp_path / "bad.py") + ":net", name="trigger")
    with pytest.raises(
        InputError, match=r"`model` should name a module that imports. Found ModuleNotFoundError.*file.py:function"
    ):
        import_object("nowhere_at_all.models:net", name="model")

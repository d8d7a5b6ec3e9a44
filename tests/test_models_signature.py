"""Files that are refused: other formats, damaged ones, pickled objects, anything but named tensors."""

import gzip
import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from isthmus._check import InputError
from isthmus.models import build_model, read_state

SIZES = {"num_classes": 3, "input_shape": (1, 8, 8)}


class Payload:
    """Would write a file if it were ever unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def small(seed: int = 0) -> nn.Module:
    return build_model("cnn", **SIZES, width=2, seed=seed)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in small(1).state_dict().items()}


def test_pickled_objects_are_refused_and_never_run(tmp_path, state):
    for number, content in enumerate(
        (Payload(tmp_path / "harm"), {"state_dict": state, "x": Payload(tmp_path / "harm")})
    ):
        torch.save(content, tmp_path / f"{number}.pt")
        torch.save(content, tmp_path / f"{number}.th", _use_new_zipfile_serialization=False)
        for suffix in ("pt", "th"):
            with pytest.raises(
                InputError, match=r"`A` should hold tensors only.*mkdir.*isolated machine.*state_dict\(\)"
            ):
                read_state(tmp_path / f"{number}.{suffix}", name="A")
    assert not (tmp_path / "harm").exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(small(), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"Found the pickled object isthmus.models.convolutional.SmallCNN"):
        read_state(tmp_path / "a.pt")


def test_a_plain_pickle_is_refused(tmp_path, state):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({key: value.numpy() for key, value in state.items()}))
    with pytest.raises(InputError, match=r"`weights` should (hold tensors only|be a whole PyTorch file)"):
        read_state(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "an empty dict"),
        ([torch.zeros(2)], "list"),
        (torch.zeros(2), "Tensor"),
        ({"model": {}}, "an empty dict"),
        ({"epoch": 3}, "int under 'epoch'"),
    ],
)
def test_anything_but_named_tensors_is_refused(tmp_path, content, found):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=f"`weights` should hold a mapping of names to tensors. Found {found} in a.pt"):
        read_state(tmp_path / "a.pt")


def test_a_file_that_holds_itself_is_refused(tmp_path):
    loop: dict[str, object] = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "a.pt")
    with pytest.raises(InputError, match="hold a mapping of names to tensors"):
        read_state(tmp_path / "a.pt")


def test_missing_folder_and_empty_file(tmp_path, state):
    torch.save(state, tmp_path / "suspect.pt")
    with pytest.raises(InputError, match=r"`A` should be a file that exists.*Did you mean 'suspect.pt'\?"):
        read_state(tmp_path / "suspct.pt", name="A")
    with pytest.raises(InputError, match=r"`A` should be a file of weights. Found a folder"):
        read_state(tmp_path, name="A")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(InputError, match=r"`A` should be a file of weights. Found an empty file"):
        read_state(tmp_path / "empty.pt", name="A")
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(InputError, match=r"`A` should be a file that can be read. Found .*pipe.pt"):
        read_state(tmp_path / "pipe.pt", name="A")


def archive(path: Path, names: tuple[str, ...]) -> None:
    with zipfile.ZipFile(path, "w") as target:
        for name in names:
            target.writestr(name, b"0")


@pytest.mark.parametrize(
    ("write", "looks"),
    [
        (lambda path: archive(path, ("a.npy", "b.npy")), "NumPy arrays (.npz)"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00" + bytes(40)), "a NumPy array (.npy)"),
        (lambda path: path.write_bytes(gzip.compress(b"weights")), "a gzip archive"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40)), "a PNG image"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40)), "an HDF5 file"),
        (lambda path: path.write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(40)), "a 7-Zip archive"),
        (lambda path: path.write_bytes(b"name" + bytes(253) + b"ustar" + bytes(100)), "a tar archive"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
        (lambda path: path.write_text("<!doctype html><html></html>"), "an HTML or XML page"),
        (lambda path: path.write_text('{"epoch": 3, "state_dict": {}}'), "a JSON text"),
        (lambda path: path.write_text("x"), "a text file"),
        (lambda path: path.write_bytes(b"\xf0\xf1\xf2\xf3\xf4"), "an unknown format (first bytes f0 f1 f2 f3)"),
        (lambda path: archive(path, ("net/data.pkl", "net/constants.pkl")), "a TorchScript program"),
        (lambda path: archive(path, ("word/document.xml",)), "a zip archive without PyTorch tensors"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "a zip archive that is cut short or damaged"),
    ],
)
def test_other_files_are_told_by_their_content(tmp_path, write, looks):
    write(tmp_path / "a.pt")
    message = f"`A` should be a safetensors file or a PyTorch file of tensors (.pt, .pth). Found {looks}"
    with pytest.raises(InputError, match=re.escape(message)):
        read_state(tmp_path / "a.pt", name="A")


def test_damaged_files(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-8])
    with pytest.raises(InputError, match=r"`weights` should be a whole safetensors file"):
        read_state(tmp_path / "cut.safetensors")
    torch.save(state, tmp_path / "a.th", _use_new_zipfile_serialization=False)
    (tmp_path / "cut.th").write_bytes((tmp_path / "a.th").read_bytes()[:-200])
    with pytest.raises(InputError, match=r"`weights` should be a whole PyTorch file") as caught:
        read_state(tmp_path / "cut.th")
    assert "\n" not in str(caught.value)
    torch.save(state, tmp_path / "a.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:-200])
    with pytest.raises(InputError, match="a zip archive that is cut short or damaged"):
        read_state(tmp_path / "cut.pt")

"""Folders of class folders."""

import numpy as np
import pytest
import torch
from PIL import Image

from isthmus._check import InputError
from isthmus.data import load_data


def write(path, shape=(6, 5, 3), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return torch.tensor(pixels)


def test_class_folders_in_alphabetical_order_with_a_third_held_out(tmp_path):
    expected = {}
    for label, kind in enumerate(("ant", "bee", "cat")):
        for number in range(6):
            suffix = ("png", "PNG", "bmp")[number % 3]
            expected[6 * label + number] = write(
                tmp_path / "set" / kind / f"{number}.{suffix}", seed=10 * label + number
            )
    (tmp_path / "set" / "bee" / "notes.txt").write_text("no image")
    (tmp_path / "set" / "bee" / "._0.png").write_text("no image either")
    (tmp_path / "set" / ".hidden").mkdir()
    splits = load_data(str(tmp_path / "set"))
    assert (len(splits.train), len(splits.test), splits.num_classes, splits.input_shape) == (12, 6, 3, (3, 6, 5))
    assert splits.name == "set (no test split: a third of the samples held out as test)"
    for part in (splits.train, splits.test):
        for x, y, index in zip(part.x, part.y, part.index, strict=True):
            assert torch.equal(x.permute(1, 2, 0), expected[int(index)])
            assert int(y) == int(index) // 6


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_train_and_test_folders_nested_images_included(tmp_path, test):
    for kind in ("a", "b"):
        write(tmp_path / "train" / kind / "images" / "0.png")
    only = write(tmp_path / test / "b" / "0.png", seed=5)
    splits = load_data(str(tmp_path))
    assert splits.name == tmp_path.name
    assert (splits.train.y.tolist(), splits.test.y.tolist()) == ([0, 1], [1])
    assert torch.equal(splits.test.x[0].permute(1, 2, 0), only)


def test_a_train_folder_alone_gives_the_classes(tmp_path):
    for number in range(4):
        write(tmp_path / "train" / "ab"[number % 2] / f"{number}.png")
    splits = load_data(str(tmp_path))
    assert splits.num_classes == 2
    assert "held out" in splits.name


def test_grayscale_stays_so_but_among_colour_it_gets_three_channels(tmp_path):
    gray = [write(tmp_path / "gray" / kind / f"{i}.png", (4, 4), seed=i) for kind in "ab" for i in range(2)]
    assert load_data(str(tmp_path / "gray")).train.input_shape == (1, 4, 4)
    write(tmp_path / "gray" / "b" / "9.png", (4, 4, 3))
    mixed = load_data(str(tmp_path / "gray")).train
    assert mixed.index[0] == 0
    assert torch.equal(mixed.x[0], gray[0].expand(3, 4, 4))


def test_different_sizes_need_a_size(tmp_path):
    for kind in "ab":
        write(tmp_path / kind / "0.png")
        write(tmp_path / kind / "1.png", (7, 9, 3))
    with pytest.raises(
        InputError, match=r"images of one size: 6x5, as .*a/0\.png\. Found 7x9 in .*a/1\.png\. Give a size"
    ):
        load_data(str(tmp_path))
    assert load_data(str(tmp_path), size=12).input_shape == (3, 12, 12)


def test_refusals(tmp_path):
    (tmp_path / "one" / "a").mkdir(parents=True)
    with pytest.raises(InputError, match=r"one folder of images for each of two or more classes\. Found \['a'\]"):
        load_data(str(tmp_path / "one"))
    (tmp_path / "one" / "b").mkdir()
    with pytest.raises(InputError, match=r"one` should hold images \(\.png, .*\) in its class folders\. Found none"):
        load_data(str(tmp_path / "one"))
    (tmp_path / "one" / "a" / "broken.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(
        InputError, match=r"should hold readable images\. Found .*broken\.png', which cannot be decoded"
    ):
        load_data(str(tmp_path / "one"))
    for kind in "ab":
        write(tmp_path / "two" / "train" / kind / "0.png")
    write(tmp_path / "two" / "test" / "c" / "0.png")
    with pytest.raises(InputError, match=r"test` should hold class folders that .*train' has\. Found 'c'"):
        load_data(str(tmp_path / "two"))
    deep = Image.fromarray(np.zeros((2, 2), np.uint16))
    (tmp_path / "deep" / "a").mkdir(parents=True)
    (tmp_path / "deep" / "b").mkdir()
    deep.save(tmp_path / "deep" / "a" / "0.png")
    with pytest.raises(InputError, match=r"8-bit grayscale or colour images\. Found mode 'I;16' in .*0\.png"):
        load_data(str(tmp_path / "deep"))


def test_missing_pillow_is_named(tmp_path, monkeypatch):
    for kind in "ab":
        write(tmp_path / kind / "0.png")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(InputError, match=r"read with Pillow\. Found no such package\. Run `pip install pillow`"):
        load_data(str(tmp_path))

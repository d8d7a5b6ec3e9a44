"""`load_data` by name and by `.npz`: what is read, and what is refused with which words."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from isthmus._check import InputError
from isthmus.data import DATASETS, data_folders, describe, get_data, load_data, require_disjoint, split_roles
from isthmus.data.images import resized

real = pytest.mark.skipif("ISTHMUS_DATA" not in os.environ, reason="needs $ISTHMUS_DATA")


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def complete(side=32, classes=10, channels=3):
    axes = (side, side, channels) if channels > 1 else (side, side)
    return {
        "x_train": pixels(2 * classes, *axes),
        "y_train": np.arange(2 * classes) % classes,
        "x_test": pixels(classes, *axes, seed=1),
        "y_test": np.arange(classes),
    }


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Return the two look-up folders, both empty and both inside `tmp_path`."""
    own, cache = tmp_path / "own", tmp_path / "cache" / "isthmus"
    own.mkdir()
    cache.mkdir(parents=True)
    monkeypatch.setenv("ISTHMUS_DATA", str(own))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return own, cache


def saved(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_digits_are_the_real_ones_scaled_and_split_once_and_for_all():
    from sklearn.datasets import load_digits

    splits = load_data("digits")
    stored = load_digits()
    assert (len(splits.train), len(splits.test), splits.num_classes) == (1200, 597, 10)
    assert splits.input_shape == (1, 8, 8)
    assert sorted(torch.cat([splits.train.index, splits.test.index]).tolist()) == list(range(1797))
    for part in (splits.train, splits.test):
        scale = torch.tensor([round(value * 255 / 16) for value in range(17)], dtype=torch.uint8)
        assert torch.equal(part.x[:, 0], scale[torch.tensor(stored.images).long()[part.index]])
        assert torch.equal(part.y, torch.tensor(stored.target)[part.index])
    share = torch.bincount(splits.test.y) / torch.bincount(torch.tensor(stored.target))
    assert (share - 597 / 1797).abs().max() < 0.006
    # the split itself is part of every published number on digits
    assert splits.test.index[::60].tolist() == [10, 179, 361, 539, 722, 903, 1086, 1263, 1448, 1629]
    require_disjoint(splits.train, splits.test)


@pytest.mark.parametrize("name", ["cifar10", "CIFAR10"])
def test_a_name_is_found_in_the_first_folder_and_then_in_the_cache(folders, name):
    own, cache = folders
    arrays = complete()
    saved(cache / "cifar10.npz", **arrays)
    assert torch.equal(load_data(name).train.x, torch.tensor(arrays["x_train"]).permute(0, 3, 1, 2))
    other = complete() | {"x_train": pixels(20, 32, 32, 3, seed=7)}
    saved(own / "cifar10.npz", **other)
    splits = load_data(name)
    assert torch.equal(splits.train.x, torch.tensor(other["x_train"]).permute(0, 3, 1, 2))
    assert (splits.name, splits.train.name, splits.test.name) == ("cifar10", "cifar10/train", "cifar10/test")


@pytest.mark.parametrize("file", ["fashion-mnist.npz", "fashion_mnist.npz"])
@pytest.mark.parametrize("name", ["fashion-mnist", "fashion_mnist"])
def test_both_spellings_of_a_name_and_of_its_file(folders, file, name):
    saved(folders[0] / file, **complete(28, channels=1))
    assert load_data(name).input_shape == (1, 28, 28)


def test_cache_alone_where_the_variable_is_not_set(folders, monkeypatch):
    monkeypatch.delenv("ISTHMUS_DATA")
    assert data_folders() == (folders[1],)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_folders() == (Path.home() / ".cache" / "isthmus",)


def test_a_missing_named_set_says_which_file_where_and_how(folders, monkeypatch):
    own, cache = folders
    with pytest.raises(InputError) as caught:
        load_data("cifar10")
    text = str(caught.value)
    assert f"should find cifar10.npz in {own} or {cache}. Found no such file." in text
    assert "x_train (50000, 32, 32, 3), x_test (10000, 32, 32, 3)" in text
    assert "0..9 in y_train (50000,), y_test (10000,)" in text
    assert "isthmus data get cifar10" in text
    assert "isthmus[hub]" in text
    assert "\n" not in text
    monkeypatch.delenv("ISTHMUS_DATA")
    with pytest.raises(InputError, match=r"\(\$ISTHMUS_DATA is not set\)"):
        load_data("mnist")


def test_a_named_set_must_be_what_its_name_says(folders):
    own, _ = folders
    saved(own / "cifar10.npz", **complete(28, channels=1))
    with pytest.raises(InputError, match=r"3x32x32 images, as the name 'cifar10' takes\. Found 1x28x28"):
        load_data("cifar10")
    saved(own / "svhn.npz", **(complete() | {"y_test": np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])}))
    with pytest.raises(InputError, match=r"`svhn/test` should have labels from 0 to 9\. Found 10 at position 9"):
        load_data("svhn")


def test_a_named_set_keeps_classes_that_do_not_occur(folders):
    saved(folders[0] / "cifar100.npz", **complete(classes=10))
    assert load_data("cifar100").num_classes == 100


def test_without_a_test_split_a_third_is_held_out_and_the_name_says_so(folders):
    arrays = complete()
    saved(folders[0] / "svhn.npz", x_train=arrays["x_train"], y_train=arrays["y_train"])
    splits, again = load_data("svhn"), load_data("svhn")
    assert splits.name == "svhn (no test split: a third of the samples held out as test)"
    assert torch.bincount(splits.test.y).tolist() == [1] * 10
    assert sorted(torch.cat([splits.train.index, splits.test.index]).tolist()) == list(range(20))
    assert torch.equal(splits.test.index, again.test.index)


def test_npz_with_one_pair_is_split_two_to_one(tmp_path):
    path = saved(tmp_path / "mine.npz", x=pixels(90, 5, 4), y=np.repeat([0, 1, 2], 30).astype(np.uint8)[:, None])
    splits = load_data(path)
    assert (len(splits.train), len(splits.test), splits.input_shape, splits.num_classes) == (60, 30, (1, 5, 4), 3)
    assert torch.bincount(splits.test.y).tolist() == [10, 10, 10]
    assert splits.name.startswith("mine.npz (no test split")


def test_npz_channels_first_float_images_and_features(tmp_path):
    y = np.array([0, 1, 0, 1])
    first = pixels(4, 3, 8, 8)
    part = load_data(saved(tmp_path / "a.npz", x_train=first, y_train=y, x_test=first, y_test=y)).train
    assert torch.equal(part.x, torch.tensor(first))
    floats = (pixels(4, 8, 8, 3) / 255).astype(">f4")
    part = load_data(saved(tmp_path / "b.npz", x_train=floats, y_train=y, x_test=floats, y_test=y)).train
    assert torch.equal(part.x, torch.tensor(floats.astype("<f4")).permute(0, 3, 1, 2))
    features = np.linspace(-4, 4, 12).reshape(4, 3)
    part = load_data(saved(tmp_path / "c.npz", x_train=features, y_train=y, x_test=features, y_test=y)).train
    assert torch.equal(part.x, torch.tensor(features))


def test_npz_may_state_its_number_of_classes(tmp_path):
    arrays = complete(4, classes=3)
    assert load_data(saved(tmp_path / "a.npz", **arrays)).num_classes == 3
    assert load_data(saved(tmp_path / "b.npz", **arrays, num_classes=5)).num_classes == 5
    with pytest.raises(
        InputError, match=r"`num_classes` should be one whole number in .*\. Found float64 of shape \(\)"
    ):
        load_data(saved(tmp_path / "c.npz", **arrays, num_classes=5.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": None}, r"should hold the arrays x_train, y_train, x_test, y_test, or x and y\. Found x_test, x_train, y_test\."),
        ({"y_test": None}, r"Found x_test, x_train, y_train\."),
        ({"x_train": None, "y_train": None}, r"Found x_test, y_test\."),
        ({"x_train": np.zeros((0, 4, 4), np.uint8)}, r"`bad\.npz/train` should hold at least one sample\. Found shape \(0, 4, 4\)"),
        ({"x_train": np.zeros(6, np.uint8)}, r"have shape \(N, H, W\), \(N, H, W, C\) or \(N, F\)\. Found shape \(6,\)"),
        ({"x_train": np.zeros((6, 1, 4, 4, 3), np.uint8)}, r"or \(N, F\)\. Found shape \(6, 1, 4, 4, 3\)"),
        ({"x_train": np.zeros((6, 5, 5, 2), np.uint8)}, r"1, 3 or 4 channels in its last axis\. Found shape \(6, 5, 5, 2\)"),
        ({"x_train": np.zeros((6, 4, 4), np.int64)}, r"hold uint8 values 0\.\.255 or floating-point numbers\. Found dtype int64"),
        ({"x_train": np.full((6, 4, 4), np.nan)}, r"`bad\.npz/train` should hold finite numbers\. Found 96 NaN"),
        ({"x_train": np.full((6, 4, 4), 255.0)}, r"should hold float images in \[0, 1\]\. Found values from 255 to 255"),
        ({"y_train": np.arange(5) % 3}, r"one label for each of its 6 samples\. Found labels of shape \(5,\)"),
        ({"y_train": np.zeros((6, 3), np.int64)}, r"one label for each of its 6 samples\. Found labels of shape \(6, 3\)"),
        ({"y_train": np.arange(6) / 2}, r"`bad\.npz/train` should have integer labels\. Found dtype float64"),
        ({"y_train": np.array([0, 1, 2, 0, 1, -2])}, r"labels from 0 to 2\. Found -2 at position 5"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 255])}, r"labels below the number of its samples, 6\. Found 255"),
        ({"y_test": np.array([0, 1, 7])}, r"`bad\.npz/test` should have labels from 0 to 2\. Found 7 at position 2"),
        ({"x_test": np.zeros((3, 5, 5), np.uint8)}, r"1x4x4 images, as bad\.npz/train takes\. Found 1x5x5"),
        ({"x_train": np.array([None] * 6)}, r"`x_train` should be an array of numbers\. Found an object array .* never loaded"),
    ],
)  # fmt: skip
def test_npz_refusals(tmp_path, change, message):
    arrays = complete(4, classes=3, channels=1) | change
    path = saved(tmp_path / "bad.npz", **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(InputError, match=message) as caught:
        load_data(path)
    assert "\n" not in str(caught.value)


def test_npz_without_any_known_array_and_too_small_to_split(tmp_path):
    with pytest.raises(InputError, match=r"Found none of these\."):
        load_data(saved(tmp_path / "a.npz", images=pixels(2, 2, 2)))
    with pytest.raises(
        InputError, match=r"`b\.npz` should hold at least two samples of some class, .*\. Found 1 samples"
    ):
        load_data(saved(tmp_path / "b.npz", x=pixels(1, 2, 2), y=np.array([0])))


def test_files_that_are_not_whole_npz_files(tmp_path):
    with pytest.raises(InputError, match=r"`data` should be an existing \.npz file\. Found no file .*gone\.npz"):
        load_data(str(tmp_path / "gone.npz"))
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(
        InputError, match=r"should be an \.npz file \(numpy\.savez\)\. Found another kind of file in .*text\.npz"
    ):
        load_data(str(tmp_path / "text.npz"))
    torch.save({"a": 1}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"should hold the arrays .*\. Found none of these"):
        load_data(str(tmp_path / "model.pt"))
    whole = Path(saved(tmp_path / "whole.npz", **complete(4, 3)))
    damaged = bytearray(whole.read_bytes())
    damaged[300] ^= 255
    (tmp_path / "damaged.npz").write_bytes(damaged)
    with pytest.raises(
        InputError, match=r"should be a whole \.npz file\. Found .*damaged\.npz.*, which is damaged at 'x_"
    ):
        load_data(str(tmp_path / "damaged.npz"))
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"Found another kind of file in .*cut\.npz"):
        load_data(str(tmp_path / "cut.npz"))


def test_unknown_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"one of cifar10, .* or hf:NAME\. Found 'cifra10'\. Did you mean 'cifar10'\?"):
        load_data("cifra10")
    with pytest.raises(InputError, match=r"existing \.npz file or folder of class folders\. Found no 'some/where'"):
        load_data("some/where")
    with pytest.raises(InputError, match=r"`name` should be one of .*Found 'minst'\. Did you mean 'mnist'\?"):
        get_data("minst")


def test_size_scales_every_kind_of_image(tmp_path):
    splits = load_data("digits", size=16)
    assert splits.input_shape == (1, 16, 16)
    assert splits.train.x.dtype == torch.uint8
    assert torch.equal(splits.test.index, load_data("digits").test.index)
    with pytest.raises(InputError, match=r"`size` should be positive\. Found 0"):
        load_data("digits", size=0)
    path = saved(tmp_path / "flat.npz", x=np.random.default_rng(0).random((6, 3)), y=np.arange(6) % 2)
    with pytest.raises(InputError, match=r"`size` should be given for images only; 'flat\.npz/train' holds none"):
        load_data(path, size=8)


def test_resizing_a_picture_to_half_averages_and_keeps_constants():
    flat = torch.full((1001, 1, 8, 8), 77, dtype=torch.uint8)
    assert (resized(flat, 5, "x") == 77).all()
    ramp = torch.arange(8.0).expand(1, 1, 8, 8) / 8
    middle = resized(ramp, 4, "x")[0, 0, 1]
    assert middle[1:3].tolist() == pytest.approx([2.5 / 8, 4.5 / 8])
    assert resized(ramp, 8, "x") is ramp


def test_every_source_can_be_described_and_all_but_digits_fetched():
    for source in DATASETS.values():
        assert (source.hub is None) == (source.name == "digits")
        assert source.licence in describe(source)
    assert describe(DATASETS["cifar10"]).startswith("50,000 + 10,000 images of 3x32x32, 10 classes; Krizhevsky 2009")
    assert replace(DATASETS["tiny-imagenet"]).files == ("tiny-imagenet.npz", "tiny_imagenet.npz")


@real
@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("cifar10", [0.49140, 0.48216, 0.44653], [0.24703, 0.24348, 0.26159]),
        ("mnist", [0.13066], [0.30811]),
        ("fashion-mnist", [0.28604], [0.35302]),
    ],
)
def test_real_sets_have_their_published_moments(name, mean, std):
    try:
        splits = load_data(name)
    except InputError as error:
        pytest.skip(str(error))
    values = splits.train.inputs()
    first, second = (power.mean((2, 3)).double().mean(0) for power in (values, values**2))
    assert first.tolist() == pytest.approx(mean, abs=2e-5)
    assert (second - first**2).sqrt().tolist() == pytest.approx(std, abs=2e-5)
    roles = split_roles(splits.train, {"clean": 100, "validation": 50}, seed=0, avoid=splits.test)
    assert torch.bincount(roles["clean"].y, minlength=10).sum() == 100
    require_disjoint(roles["clean"], splits.test)

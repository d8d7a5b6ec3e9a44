"""The hub's data sets, with a stand-in for the `datasets` library: no test needs the network."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from isthmus._check import InputError
from isthmus.data import get_data, load_data


class Image:
    """Stands for `datasets.Image`."""


class ClassLabel:
    """Stands for `datasets.ClassLabel`."""

    def __init__(self, num_classes):
        self.num_classes = num_classes


class Value:
    """Stands for `datasets.Value`."""


class Split(list):
    def __init__(self, rows, features):
        super().__init__(rows)
        self.features = features


def pictures(count, side=4, channels=3, seed=0):
    axes = (side, side, channels) if channels > 1 else (side, side)
    return np.random.default_rng(seed).integers(0, 256, (count, *axes), dtype=np.uint8)


def split(pixels, labels, image="image", label="label", feature=None):
    rows = [{image: PILImage.fromarray(x), label: y} for x, y in zip(pixels, labels, strict=True)]
    return Split(rows, {image: Image(), label: feature or ClassLabel(max(labels) + 1)})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Return a dict (name, configuration) -> splits that the stand-in library serves."""
    offered = {}

    def load_dataset(name, config=None):
        if (name, config) not in offered:
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist\non the Hub")
        return offered[name, config]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setenv("ISTHMUS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return offered


@pytest.mark.parametrize("test", ["test", "validation", "valid", "val"])
def test_columns_are_found_by_type_and_splits_by_name(hub, test):
    x = pictures(4)
    parts = {"train": split(x, [0, 1, 2, 0], "img", "fine"), test: split(x[:2], [2, 1], "img", "fine", ClassLabel(3))}
    hub["me/pets", None] = parts
    splits = load_data("hf:me/pets")
    assert torch.equal(splits.train.x, torch.tensor(x).permute(0, 3, 1, 2))
    assert splits.test.y.tolist() == [2, 1]
    assert (splits.name, splits.test.name, splits.num_classes) == ("hf:me/pets", "hf:me/pets/test", 3)


def test_configuration_size_and_held_out_third(hub):
    hub["me/pets", "small"] = {"train": split(pictures(9), [0, 1, 2] * 3)}
    splits = load_data("hf:me/pets:small", size=6)
    assert splits.input_shape == (3, 6, 6)
    assert splits.test.y.sort().values.tolist() == [0, 1, 2]
    assert splits.name == "hf:me/pets:small (no test split: a third of the samples held out as test)"


def test_plain_integer_labels_named_label_will_do(hub):
    hub["a", None] = {"train": split(pictures(6), [0, 1] * 3, feature=Value())}
    assert load_data("hf:a").num_classes == 2


def test_of_several_class_labels_the_one_named_label_is_taken(hub):
    part = split(pictures(6), [0, 1] * 3)
    part.features["coarse"] = ClassLabel(2)
    hub["a", None] = {"train": part}
    assert load_data("hf:a").num_classes == 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"test": split(pictures(2), [0, 1])}, r"`hf:a` should have a split 'train'\. Found test"),
        ({"train": Split([], {"text": Value(), "label": ClassLabel(2)})}, r"exactly one image column\. Found text \(Value\), label"),
        ({"train": Split([], {"image": Image(), "fine": ClassLabel(2), "coarse": ClassLabel(2)})}, r"exactly one label column .* coarse"),
        ({"train": Split([], {"image": Image(), "label": ClassLabel(2)})}, r"`hf:a/train` should hold at least one sample\. Found none"),
        ({"train": split(pictures(2), [0, 0.5], feature=Value())}, r"should have integer labels\. Found 0\.5 in row 1"),
        ({"train": split(pictures(2), [0, -1], feature=ClassLabel(2))}, r"labels from 0 to 1\. Found -1 at position 1"),
    ],
)  # fmt: skip
def test_refusals(hub, parts, message):
    hub["a", None] = parts
    with pytest.raises(InputError, match=message):
        load_data("hf:a")


def test_different_sizes_name_the_row(hub):
    part = split(pictures(2), [0, 1])
    part[1]["image"] = PILImage.new("RGB", (5, 7))
    hub["a", None] = {"train": part}
    with pytest.raises(InputError, match=r"one size: 4x4, as row 0 of hf:a/train\. Found 7x5 in row 1 of hf:a/train"):
        load_data("hf:a")


def test_what_the_hub_does_not_have_is_one_line(hub):
    with pytest.raises(InputError, match=r"Found no usable 'me/gone': Dataset 'me/gone' doesn't exist on the Hub$"):
        load_data("hf:me/gone")


def test_without_the_extra_the_error_names_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setenv("ISTHMUS_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for ask in (lambda: load_data("hf:me/pets"), lambda: get_data("mnist")):
        with pytest.raises(InputError, match=r"fetched with the extra 'hub'\..*Run pip install 'isthmus\[hub\]'"):
            ask()


def test_get_data_writes_once_what_load_data_reads(hub, tmp_path):
    x = pictures(20, 28, 1)
    hub["zalando-datasets/fashion_mnist", None] = {
        "train": split(x, list(range(10)) * 2),
        "test": split(x[:10], list(range(10))),
    }
    path = get_data("fashion_mnist")
    assert path == tmp_path / "data" / "fashion-mnist.npz"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    with np.load(path, allow_pickle=False) as stored:
        assert stored["x_train"].shape == (20, 28, 28)
    assert torch.equal(load_data("fashion-mnist").train.x[:, 0], torch.tensor(x))
    hub.clear()
    assert get_data("fashion-mnist") == path


def test_get_data_in_colour_with_its_own_test_split(hub):
    x = pictures(200, 64)
    parts = {"train": split(x, list(range(200))), "valid": split(x, list(range(200)))}
    hub["zh-plus/tiny-imagenet", None] = parts
    get_data("tiny-imagenet")
    assert torch.equal(load_data("tiny-imagenet").test.x, torch.tensor(x).permute(0, 3, 1, 2))


def test_get_data_leaves_nothing_behind_when_it_fails(hub, tmp_path):
    hub["ylecun/mnist", None] = {"train": split(pictures(10, 28, 1), list(range(10)))}
    with pytest.raises(InputError, match=r"`ylecun/mnist` should have a split 'test'\. Found train"):
        get_data("mnist")
    assert not list(tmp_path.glob("data/*"))


def test_get_data_refuses_the_embedded_set_and_a_folder_that_cannot_be_made(hub, tmp_path):
    with pytest.raises(
        InputError, match=r"should be a data set to download\. Found 'digits', which comes with scikit-learn"
    ):
        get_data("digits")
    (tmp_path / "data").write_text("a file in the way")
    x = pictures(10, 28, 1)
    hub["ylecun/mnist", None] = {"train": split(x, list(range(10))), "test": split(x, list(range(10)))}
    with pytest.raises(InputError, match=r"`path` should be in a folder that can be made\. Found .*data'"):
        get_data("mnist")

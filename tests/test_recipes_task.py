"""What is taken from the user, what from the files, and what is refused."""

import pytest

from cli_example import model_file
from isthmus._check import InputError
from isthmus.data import Augment, load_data
from isthmus.recipes.task import augment_for, data_for, plan_for, task_for
from isthmus.store import Card
from isthmus.training.plan import Plan


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def test_what_the_user_says_wins(digits, tmp_path):
    path = model_file(tmp_path / "a.safetensors")
    task = task_for(digits, arch="lenet", width=2, files=[path])
    assert (task.arch, task.width) == ("lenet", 2)
    task = task_for(digits, arch=None, width=None, files=[path])
    assert (task.arch, task.width, task.num_classes, task.input_shape) == ("mlp:depth=1", 8, 10, (1, 8, 8))
    assert task.build(3).state_dict()["1.weight"].shape == (8, 64)


def test_files_that_disagree(digits, tmp_path):
    one, two = model_file(tmp_path / "a.safetensors"), model_file(tmp_path / "b.safetensors", width=9)
    with pytest.raises(
        InputError,
        match=r"b.safetensors` should be a model of one architecture with the others, mlp:depth=1 \(width 8\). Found",
    ):
        task_for(digits, arch=None, width=None, files=[one, two])


def test_data_that_does_not_fit_the_files(digits, tmp_path):
    path = model_file(tmp_path / "a.safetensors", shape=(3, 8, 8))
    with pytest.raises(
        InputError, match=r"should hold 3x8x8 images.*Found 1x8x8.*Grayscale images do not fit colour inputs"
    ):
        task_for(digits, arch=None, width=None, files=[path])
    with pytest.raises(InputError, match=r"`data` should have at most the 4 classes of the models. Found 10"):
        task_for(digits, arch=None, width=None, files=["x"], card=Card(arch="mlp", num_classes=4))


def test_where_nothing_is_said(digits, tmp_path):
    path = model_file(tmp_path / "a.safetensors", card=False)
    with pytest.raises(
        InputError, match=r"`arch` should name the architecture of these files, which do not say it themselves"
    ):
        task_for(digits, arch=None, width=None, files=[path])
    with pytest.raises(InputError, match=r"nowhere.pt` should be a file that exists"):
        task_for(digits, arch=None, width=None, files=["nowhere.pt"])
    with pytest.raises(
        InputError,
        match=r"`arch` should be given, because what the file names is not one of the library's models. Found 'os:getcwd'",
    ):
        task_for(digits, arch=None, width=None, files=["x"], card=Card(arch="os:getcwd"))
    with pytest.raises(
        InputError, match=r"`data` should name the images. Found none, and none in the files. Give --data NAME"
    ):
        data_for(None, [path])
    assert data_for(None, [path, model_file(tmp_path / "b.safetensors")]) == "digits"
    assert data_for("mnist", [path]) == "mnist"


def test_augmentation_by_name(digits):
    assert augment_for("auto", digits) == Augment(1)
    assert augment_for("none", digits) == Augment()
    assert augment_for("shift=2,flip", digits) == Augment(2, flip=True)
    for text in ("shift", "flip=1", "turn", "shift=x"):
        with pytest.raises(InputError, match=r"`augment` should be auto, none, or like shift=4,flip. Found"):
            augment_for(text, digits)
    assert plan_for(Plan(), "auto", digits).augment == Augment(1)
    assert plan_for(Plan(augment=Augment(3)), "auto", digits).augment == Augment(3)

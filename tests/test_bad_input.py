"""Bad input, each case through the command line: exit code 2, one clear line, nothing written, nothing lost."""

import errno
import json
import os
import re
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cli_example import call, model_file, tree
from isthmus.data import load_data
from isthmus.models import build_model

ARCH = ("--arch", "mlp:depth=1", "--width", "8", "--data", "digits")


def net(seed=0):
    return build_model("mlp:depth=1", num_classes=10, input_shape=(1, 8, 8), width=8, seed=seed)


def images(folder, name, **arrays):
    """Write an .npz of 8x8 images, 4 of each of 10 classes in either split, with what is given in their place."""
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 10
    whole = {"x_train": pixels[:40], "y_train": labels, "x_test": pixels[40:], "y_test": labels}
    np.savez(folder / name, **(whole | arrays))
    return folder / name


def weights_with(folder, name, value):
    """Write weights with one number in them that is not finite."""
    state = net().state_dict()
    state["1.weight"][2, 3] = value
    torch.save(state, folder / name)
    return folder / name


def connect(folder, *second, more=ARCH):
    return ["connect", folder / "a.safetensors", *second, *more, "--steps", "2"]


def architectures_that_differ(folder):
    return connect(folder, model_file(folder / "w.safetensors", width=12))


def architectures_that_differ_by_their_own_word(folder):
    return connect(folder, model_file(folder / "w.safetensors", width=12), more=("--data", "digits"))


def a_tensor_too_few(folder):
    state = net().state_dict()
    del state["3.bias"]
    torch.save(state, folder / "w.pt")
    return connect(folder, folder / "w.pt")


def weights_with_nan(folder):
    return connect(folder, weights_with(folder, "w.pt", torch.nan))


def suspects_with_infinity(folder):
    return ["repair", folder / "a.safetensors", weights_with(folder, "w.pt", -torch.inf), *ARCH]


def a_text_for_weights(folder):
    (folder / "w.pt").write_text("weights, honestly")
    return connect(folder, folder / "w.pt")


def arrays_for_weights(folder):
    return connect(folder, images(folder, "w.npz"))


def a_zip_for_weights(folder):
    with zipfile.ZipFile(folder / "w.pt", "w") as archive:
        archive.writestr("readme", "hello")
    return connect(folder, folder / "w.pt")


def a_folder_for_weights(folder):
    (folder / "w").mkdir()
    return connect(folder, folder / "w")


def no_such_weights(folder):
    return connect(folder, folder / "b.safetensor")


def a_pickled_module(folder):
    torch.save(net(), folder / "w.pt")
    return connect(folder, folder / "w.pt")


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def pickled_code(folder):
    torch.save({"1.weight": Bomb(folder / "exploded")}, folder / "w.pt")
    return connect(folder, folder / "w.pt")


def the_same_file_twice(folder):
    return connect(folder, folder / "a.safetensors")


def one_model_too_many(folder):
    return connect(folder, folder / "b.safetensors", model_file(folder / "c.safetensors", seed=3))


def labels_out_of_range(folder):
    return [
        "train",
        *ARCH[:-1],
        images(folder, "d.npz", num_classes=np.int64(10), y_test=np.arange(40) % 12),
        "--steps",
        "2",
    ]


def negative_labels(folder):
    return ["train", *ARCH[:-1], images(folder, "d.npz", y_train=np.arange(40) % 10 - 1), "--steps", "2"]


def pickled_labels(folder):
    labels = np.array([{"a": 1}] * 40, dtype=object)
    return ["train", *ARCH[:-1], images(folder, "d.npz", y_train=labels), "--steps", "2"]


def grayscale_for_colour(folder):
    for name in "ab":
        model_file(folder / f"{name}3.safetensors", shape=(3, 8, 8), seed=ord(name))
    return ["connect", folder / "a3.safetensors", folder / "b3.safetensors", "--data", "digits"]


def grayscale_for_a_colour_network_of_the_users(folder):
    code = "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 10))\n"
    (folder / "arch.py").write_text(code)
    return ["train", "--arch", f"{folder / 'arch.py'}:net", "--data", "digits"]


def no_images(folder):
    for kind in ("cats", "dogs"):
        (folder / "pictures" / kind).mkdir(parents=True)
    return ["train", *ARCH[:-1], folder / "pictures"]


def an_empty_array_of_images(folder):
    empty = {"x_train": np.zeros((0, 8, 8), np.uint8), "y_train": np.zeros(0, np.int64)}
    return ["train", *ARCH[:-1], images(folder, "d.npz", **empty)]


def fewer_clean_images_than_classes_to_connect(folder):
    return [*connect(folder, folder / "b.safetensors"), "--clean", "9"]


def fewer_clean_images_than_classes_to_repair(folder):
    return ["repair", folder / "a.safetensors", folder / "b.safetensors", *ARCH, "--clean", "9"]


def clean_images_from_the_test_split(folder):
    test = load_data("digits").test.take(torch.arange(100))
    np.savez(folder / "mine.npz", x=test.x[:, 0].numpy(), y=test.y.numpy())
    return ["repair", folder / "a.safetensors", folder / "b.safetensors", *ARCH, "--clean-data", folder / "mine.npz"]


def an_unknown_architecture(_folder):
    return ["train", "--arch", "resnet-18", "--data", "digits"]


def an_unknown_data_set(_folder):
    return ["train", "--arch", "cnn", "--data", "digit"]


def an_unknown_geometry(folder):
    return [*connect(folder, folder / "b.safetensors"), "--geometry", "bezir:2"]


def an_unknown_method(folder):
    return ["repair", folder / "a.safetensors", folder / "b.safetensors", *ARCH, "--method", "pathh"]


def an_unknown_probe(folder):
    return ["scan", bridge(folder), "--probe", "klean"]


def an_unknown_optimizer(_folder):
    return ["train", *ARCH, "--optimizer", "adam"]


def an_unknown_setting(_folder):
    return ["train", *ARCH, "--set", "momentun=0.5"]


def a_setting_without_a_value(_folder):
    return ["train", *ARCH, "--set", "momentum"]


def a_setting_out_of_range(_folder):
    return ["train", *ARCH, "--learning-rate", "-0.1"]


def an_unknown_tracker(_folder):
    return ["train", *ARCH, "--track", "tensorbord"]


def an_unknown_accelerator(_folder):
    return ["train", *ARCH, "--accelerator", "gpus"]


def an_unknown_precision(_folder):
    return ["train", *ARCH, "--precision", "bf16"]


def a_trigger_without_a_target(_folder):
    return ["train", *ARCH, "--tamper-trigger", "patch:size=2"]


def a_target_that_is_no_class(_folder):
    return ["train", *ARCH, "--tamper-trigger", "patch:size=2", "--target", "10"]


def a_trigger_outside_the_image(_folder):
    return ["train", *ARCH, "--tamper-trigger", "patch:size=3,at=28x28", "--target", "1"]


def more_held_out_than_there_is(_folder):
    return ["train", *ARCH, "--hold-out", "1200"]


def bridge(folder):
    """Write a bridge between the two models that stand in the folder; the geometry needs no training."""
    from isthmus.geometry.build import line
    from isthmus.store import Card, save_bridge

    card = Card(arch="mlp:depth=1", width=8, num_classes=10, input_shape=(1, 8, 8), data="digits")
    save_bridge(line([net(0), net(1)]), folder / "bridge.safetensors", meta=card)
    return folder / "bridge.safetensors"


def a_bridge_of_another_model(folder):
    return ["scan", bridge(folder), "--arch", "mlp:depth=1", "--width", "12"]


def a_model_for_a_bridge(folder):
    return ["scan", folder / "a.safetensors"]


def a_folder_without_a_bridge(folder):
    return ["scan", folder]


def a_bridge_with_nan(folder):
    path = bridge(folder)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["fixed"][0, 0] = torch.nan
    save_file(tensors, path, metadata=metadata)
    return ["scan", path]


def a_backdoor_probe_without_a_trigger(folder):
    return ["scan", bridge(folder), "--probe", "backdoor", "--target", "1"]


def a_backdoor_probe_without_a_target(folder):
    return ["scan", bridge(folder), "--probe", "backdoor", "--test-trigger", "patch:size=2"]


def a_grid_for_another_dimension(folder):
    return ["scan", bridge(folder), "--grid", "5x5"]


def a_report_of_nothing(folder):
    return ["report", folder]


CASES = {
    architectures_that_differ: r"w.safetensors.*'1.weight' of shape \(12, 64\) where the model has \(8, 64\)",
    architectures_that_differ_by_their_own_word: r"w.safetensors` should be a model of one architecture with the others",
    a_tensor_too_few: r"w.pt: no tensor '3.bias' \(shape \(10,\) in the model\)",
    weights_with_nan: r"w.pt.* Found 1 NaN or infinite values of 512 in tensor '1.weight'",
    suspects_with_infinity: r"w.pt.* Found 1 NaN or infinite values of 512 in tensor '1.weight'",
    a_text_for_weights: r"should be a safetensors file or a PyTorch file of tensors .* Found a text file: .*w.pt",
    arrays_for_weights: r"Found NumPy arrays \(.npz\): .*w.npz",
    a_zip_for_weights: r"Found a zip archive without PyTorch tensors",
    a_folder_for_weights: r"should be a file of weights. Found a folder",
    no_such_weights: r"should be a file that exists. Found nothing at .*b.safetensor'. Did you mean 'b.safetensors'\?",
    a_pickled_module: r"should hold tensors only: unpickling objects can run any code. Found the pickled object ",
    pickled_code: r"should hold tensors only.*mkdir",
    the_same_file_twice: r"`models` should be different files. Found '.*a.safetensors' twice",
    one_model_too_many: r"`geometry` should fit the number of models: 'bezier:2' joins 2. Found 3",
    labels_out_of_range: r"should have labels from 0 to 9. Found 10 at position 10",
    negative_labels: r"should have labels from 0 to 8. Found -1 at position 0",
    pickled_labels: r"`y_train` should be an array of numbers. Found an object array .*never loaded",
    grayscale_for_colour: r"should hold 3x8x8 images, as .*a3.safetensors takes. Found 1x8x8.*Grayscale images do not fit colour",
    grayscale_for_a_colour_network_of_the_users: r"should take inputs of shape \(2, 1, 8, 8\). Found RuntimeError",
    no_images: r"should hold images .* in its class folders. Found none",
    an_empty_array_of_images: r"should hold at least one sample. Found shape \(0, 8, 8\)",
    fewer_clean_images_than_classes_to_connect: r"`clean` should be at least 10 images, one of each class of digits. Found 9",
    fewer_clean_images_than_classes_to_repair: r"`clean` should be at least 20 images",
    clean_images_from_the_test_split: r"`clean_data` should share no sample with `test` \(overlapping roles\). Found ",
    an_unknown_architecture: r"Found 'resnet-18'. Did you mean 'resnet18'\?",
    an_unknown_data_set: r"Found 'digit'. Did you mean 'digits'\?",
    an_unknown_geometry: r"Found 'bezir'. Did you mean 'bezier'\?",
    an_unknown_method: r"Found 'pathh'. Did you mean 'path'\?",
    an_unknown_probe: r"`probe` should be one of backdoor, clean, distance, .*, sharpness, .*. Found 'klean'. Did you mean 'clean'\?",
    an_unknown_optimizer: r"`optimizer` should be 'sgd' or 'adamw'. Found 'adam'. Did you mean 'adamw'\?",
    an_unknown_setting: r"`momentun` should be one of the settings .*Did you mean 'momentum'\?",
    a_setting_without_a_value: r"`--set` should be NAME=VALUE. Found 'momentum'",
    a_setting_out_of_range: r"`learning_rate` should be greater than 0. Found -0.1",
    an_unknown_tracker: r"Found 'tensorbord'. Did you mean 'tensorboard'\?",
    an_unknown_accelerator: r"`accelerator` should be one of auto, cpu, cuda, mps. Found 'gpus'",
    an_unknown_precision: r"`precision` should be '32-true' or 'bf16-mixed'. Found 'bf16'. Did you mean 'bf16-mixed'\?",
    a_trigger_without_a_target: r"`tamper_trigger` should be given together with a target. Found only `tamper_trigger`",
    a_target_that_is_no_class: r"`target` should be a class in 0..9 or 'all-to-all'. Found 10",
    a_trigger_outside_the_image: r"`trigger` should lie inside the 8 x 8 images. Found rows 28-30",
    more_held_out_than_there_is: r"`clean` should leave images to train on: at most 1,190 of digits/train. Found 1200",
    a_bridge_of_another_model: r"should be a bridge of the model given, which has '1.weight' of shape \(12, 64\) float32. Found \(8, 64\)",
    a_model_for_a_bridge: r"should be a bridge, as `isthmus connect` writes it. Found the weights of a single model",
    a_folder_without_a_bridge: r"`bridge` should be a bridge file or a folder with a bridge.safetensors. Found no such file",
    a_bridge_with_nan: r"bridge.safetensors` should hold finite numbers. Found 1 NaN or infinite values of .* in tensor 'fixed'",
    a_backdoor_probe_without_a_trigger: r"`test_trigger` should be given for the probe 'backdoor'",
    a_backdoor_probe_without_a_target: r"`target` should be given for the probe 'backdoor'",
    a_grid_for_another_dimension: r"`grid` should name at least 2 points for each of 1 coordinate\(s\). Found 5x5",
    a_report_of_nothing: r"`path` should be a file that can be read. Found No such file or directory: .*report.json",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_bad_input(capsys, tmp_path, case):
    for i, name in enumerate("ab"):
        model_file(tmp_path / f"{name}.safetensors", seed=i)
    words = case(tmp_path)
    before = tree(tmp_path)
    out = () if words[0] == "report" else ("--out", tmp_path / "out")
    done = call(capsys, *words, *out)
    assert done.code == 2, done.err
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("isthmus: ")
    assert re.search(CASES[case], lines[0]), lines[0]
    assert tree(tmp_path) == before
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "exploded").exists()


def test_results_are_never_overwritten(capsys, tmp_path):
    for command in (
        ["train", *ARCH],
        ["connect", "a", "b", *ARCH],
        ["scan", "x"],
        ["repair", "a", "b", *ARCH],
        ["demo"],
    ):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "results.txt").write_text("mine")
        done = call(capsys, *command, "--out", tmp_path / "out")
        assert done.code == 2
        assert done.out == ""
        assert re.fullmatch(
            r"isthmus: `out` should be a new or empty folder. Found 1 entries in .*\(--resume\)\.\n", done.err
        )
        assert tree(tmp_path) == {"out/results.txt": b"mine"}


def test_resuming_with_other_settings(capsys, tmp_path):
    words = ("train", *ARCH, "--out", tmp_path / "out")
    assert call(capsys, *words, "--steps", "3").code == 0
    before = tree(tmp_path)
    done = call(capsys, *words, "--steps", "4", "--resume")
    assert done.code == 2
    assert "`plan.steps` should be 3 to resume the run in" in done.err
    assert tree(tmp_path) == before


def test_a_checkpoint_that_is_damaged(capsys, tmp_path):
    words = ("train", *ARCH, "--steps", "3", "--out", tmp_path / "out")
    assert call(capsys, *words).code == 0
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"rubbish")
    done = call(capsys, *words, "--resume")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "`checkpoint` should be a file written by this library" in done.err


@pytest.mark.parametrize("command", ["train", "connect", "scan"])
def test_a_full_disk_leaves_the_earlier_files(capsys, tmp_path, monkeypatch, command):
    for i, name in enumerate("ab"):
        model_file(tmp_path / f"{name}.safetensors", seed=i)
    words = {
        "train": ["train", *ARCH, "--steps", "2"],
        "connect": [*connect(tmp_path, tmp_path / "b.safetensors")],
        "scan": ["scan", bridge(tmp_path), "--points", "3", "--n", "50"],
    }[command]
    words = [*words, "--out", tmp_path / "out"]
    assert call(capsys, *words).code == 0
    before = tree(tmp_path)

    def full(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    done = call(capsys, *words, "--resume")
    monkeypatch.undo()
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert "the disk is full. Found: No space left on device; the earlier file is unchanged" in done.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("command", "name"), [("train", "model.safetensors"), ("connect", "bridge.safetensors")])
def test_a_disk_that_fills_up_at_the_end(capsys, tmp_path, monkeypatch, command, name):
    for i, letter in enumerate("ab"):
        model_file(tmp_path / f"{letter}.safetensors", seed=i)
    words = ["train", *ARCH, "--steps", "2"] if command == "train" else connect(tmp_path, tmp_path / "b.safetensors")
    words = [*words, "--out", tmp_path / "out"]
    assert call(capsys, *words).code == 0
    before = (tmp_path / "out" / name).read_bytes()
    real = os.replace

    def full(source, target):
        if str(target).endswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    done = call(capsys, *words, "--resume")
    monkeypatch.undo()
    assert done.code == 2
    assert f"{name}` should fit on its disk" in done.err.splitlines()[-1]
    assert (tmp_path / "out" / name).read_bytes() == before
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status"] == "failed"


def test_a_disk_that_fills_up_while_training(capsys, tmp_path, monkeypatch):
    real = os.replace

    def full(source, target):
        if str(target).endswith("checkpoint.pt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    words = ("train", *ARCH, "--steps", "3", "--out", tmp_path / "out")
    done = call(capsys, *words)
    monkeypatch.undo()
    assert done.code == 2
    assert "checkpoint.pt` should fit on its disk, but the disk is full" in done.err
    assert sorted(tree(tmp_path)) == ["out/manifest.json", "out/recipe.json"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status"] == "failed"
    assert call(capsys, *words, "--resume").code == 0  # once there is room again

"""Landscapes that cannot be measured are refused, with the reason, before anything is written."""

import json

import pytest
import torch
from safetensors.torch import save_file

from cli_example import model_file
from isthmus._check import InputError
from isthmus.store import Card, save_model
from landscape_case import bridge_file, loaded, measured, moved, weights


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(model_file(tmp_path_factory.mktemp("m") / "m.safetensors"))


BAD = [
    ({"directions": "eigne"}, r"`directions` should be one of .*eigen.* Found 'eigne'. Did you mean 'eigen'"),
    ({"directions": "plane"}, r"`models` should be three models for plane. Found 1"),
    ({"grid": "4"}, r"`grid` should have an odd number of points, so that the model is one of them. Found 4"),
    ({"grid": "3x8"}, r"`grid` should have an odd number"),
    ({"grid": "1"}, r"`grid` should have at least 3 points along each axis. Found 1"),
    ({"grid": "big"}, r"`grid` should be a number of points such as 21, or 21x31. Found big"),
    ({"grid": "3x3", "dim": 1}, r"`grid` should name points for 1 axis"),
    ({"range": 0.0}, r"`range` should be above 0. Found 0.0"),
    ({"range": float("nan")}, r"`range` should be above 0. Found nan"),
    ({"split": "validation"}, r"`split` should be train or test. Found validation"),
    ({"vectors": "x"}, r"`vectors` should come with --directions eigen. Found random"),
    ({"directions": "eigen", "orthogonal": True}, r"`orthogonal` should come with --directions random. Found eigen"),
    ({"frozen": True}, r"`frozen` should come with --adversary. Found none"),
    ({"directions": "trajectory"}, r"`trajectory` should name the weight files .* Found none"),
    ({"directions": "tangent"}, r"`models` should be a bridge to have a tangent. Found a model"),
    ({"at": (0.5,)}, r"`at` should be given only with a bridge"),
    ({"directions": "eigen", "vectors": "nowhere"}, r"`vectors` should be a file of eigenvectors. Found nothing at"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=[str(settings) for settings, _ in BAD])
def test_settings_that_do_not_fit_are_refused(file, settings, message):
    with pytest.raises(InputError, match=message):
        measured(file, **settings)


def test_models_that_do_not_fit_are_refused(file, tmp_path):
    with pytest.raises(
        InputError, match=r"`models` should be one model for random. Found 3. Three models span a plane"
    ):
        measured([file] * 3)
    with pytest.raises(InputError, match=r"`models` should be three models for plane. Found 2"):
        measured([file] * 2, directions="plane")
    with pytest.raises(InputError, match=r"`models` should be different files. Found .* twice"):
        measured([file] * 3, directions="plane")
    others = [str(model_file(tmp_path / f"{i}.safetensors", seed=i)) for i in (1, 2)]
    with pytest.raises(InputError, match=r"`dim` should be 2 for a plane. Found 1"):
        measured([file, *others], directions="plane", dim=1)
    card = Card(arch="mlp:depth=1", width=8, num_classes=10, input_shape=(1, 8, 8), data="digits")
    middle = moved(loaded(file), 0.5 * (weights(loaded(others[0])) - weights(loaded(file))))
    save_model(middle, tmp_path / "middle.safetensors", card)
    with pytest.raises(InputError, match=r"`models` should span a plane. Found .* on one line"):
        measured([file, others[0], str(tmp_path / "middle.safetensors")], directions="plane")
    bridge_file(tmp_path, 2)
    with pytest.raises(InputError, match=r"`at` should be the coordinates of a model on the bridge .* Found none"):
        measured(str(tmp_path), directions="tangent")
    with pytest.raises(InputError, match=r"`dim` should be 1 for the tangent of a curve. Found 2"):
        measured(str(tmp_path), directions="tangent", at=(0.5,), dim=2)
    bad = loaded(file)
    with torch.no_grad():
        next(bad.parameters())[0] = torch.nan
    save_model(bad, tmp_path / "nan.safetensors", card)
    with pytest.raises(InputError, match="should hold finite numbers"):
        measured(str(tmp_path / "nan.safetensors"))


def test_vectors_of_another_model_are_refused(file, tmp_path):
    size = weights(loaded(file)).numel()
    place = tmp_path / "v.safetensors"
    for tensors, message in (
        (
            {"vectors": torch.ones(2, size + 1)},
            r"`vectors` should be directions of this model, \(k, \d+\). Found \(2, ",
        ),
        ({"vectors": torch.ones(1, size)}, r"`vectors` should hold at least 2. Found 1 in"),
        ({"other": torch.ones(1)}, r"`vectors` should hold a tensor 'vectors'. Found other in"),
    ):
        save_file(tensors, place)
        with pytest.raises(InputError, match=message):
            measured(file, directions="eigen", vectors=str(place))
    place.write_text("no tensors")
    with pytest.raises(InputError, match=r"`vectors` should be a safetensors file. Found another kind"):
        measured(file, directions="eigen", vectors=str(place))
    # As many weights under other names.
    layout = {"names": ["w"], "shapes": [[size]], "dtypes": ["float32"], "channels_last": False}
    save_file({"vectors": torch.eye(2, size)}, place, {"isthmus": json.dumps({"layout": layout})})
    with pytest.raises(InputError, match=r"`vectors` should be directions of this model. Found weights \('w', "):
        measured(file, directions="eigen", vectors=str(place))

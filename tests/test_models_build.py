"""`build_model`: names, options, the user's own code, seeds, and what is refused."""

import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from isthmus._check import InputError
from isthmus.models import MODELS, build_model, preresnet, require_logits

CIFAR, DIGITS = (3, 32, 32), (1, 8, 8)

OWN = '''
"""A file as its owner would write it."""
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
from blocks_beside import hidden


@dataclass
class Setting:
    width: int = hidden


class Net(nn.Module):
    def __init__(self, num_classes: int = 4):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.fc = nn.Linear(64, num_classes)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        return self.fc(self.norm(x).flatten(1))


shared = Net()
number = 3


def net():
    return Net()


def wide(width: int, num_classes: int, *, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[-1] ** 2, width), nn.Linear(width, num_classes))


def same_again():
    return shared


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))


def forgetful(**anything):
    return None


def broken():
    raise RuntimeError("no such block\\nsecond line")


def needs(depth):
    return Net()


def colour():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def pair():
    class Pair(Net):
        def forward(self, x):
            return super().forward(x), x
    return Pair()
'''


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own_architecture.py").write_text(OWN)
    (tmp_path / "blocks_beside.py").write_text("hidden = 3\n")
    return str(tmp_path / "own_architecture.py")


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_seed_gives_the_same_weights_and_leaves_the_callers_random_state(name):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    built = [build_model(name, num_classes=3, input_shape=CIFAR, width=6, seed=seed) for seed in (1, 1, 2)]
    torch.manual_seed(99)
    built.append(build_model(name, num_classes=3, input_shape=CIFAR, width=6, seed=1))
    assert same(built[0], built[1])
    assert same(built[0], built[3])
    assert not same(built[0], built[2])
    torch.set_rng_state(before[0])
    build_model(name, num_classes=3, input_shape=CIFAR, width=6)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_weights_do_not_depend_on_the_default_device():
    plain = build_model("cnn", num_classes=3, input_shape=DIGITS)
    with torch.device("meta"):
        other = build_model("cnn", num_classes=3, input_shape=DIGITS)
    assert same(plain, other)


def test_random_state_is_restored_where_building_fails():
    before = torch.get_rng_state()
    with pytest.raises(InputError):
        build_model("vit:patch=5", num_classes=3, input_shape=CIFAR)
    assert torch.equal(before, torch.get_rng_state())


def test_options_follow_the_name():
    found = build_model("preresnet:depth=8,width=4", num_classes=3, input_shape=CIFAR)
    reference = preresnet(3, CIFAR, depth=8, width=4)
    assert {k: v.shape for k, v in found.state_dict().items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    assert build_model("resnet18:width=4", num_classes=3, input_shape=CIFAR, width=4).conv1.out_channels == 4
    dropped = build_model("vgg16:dropout=0.25,width=4", num_classes=3, input_shape=CIFAR)
    assert dropped.classifier[0].p == 0.25
    assert build_model("vgg16:dropout=0,width=4", num_classes=3, input_shape=CIFAR).classifier[3].p == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet81", "`model` should be one of cnn,"),
        ("resnet81", "Found 'resnet81'. Did you mean 'resnet18'?"),
        ("resnet81:width=3", "Did you mean 'resnet18'?"),
        ("resnet18:widht=16", "`resnet18` should have one of the options width. Found 'widht'. Did you mean 'width'?"),
        ("preresnet:depth=deep", "`depth` should be a whole number. Found deep."),
        ("resnet18:width=1.5", "`width` should be a whole number. Found 1.5."),
        ("vgg16:dropout=true", "`dropout` should be a number. Found True."),
        ("resnet18:16", "`resnet18` should be followed by options as name=value,name=value, each once. Found 16."),
        ("resnet18:width=4,width=5", "each once. Found width=5."),
        (
            "models/net.py",
            "`model` should name the function of a file as models/net.py:function. Found 'models/net.py'.",
        ),
        ("timm:", "`model` should name a model as timm:NAME. Found timm:."),
        ("timm:resnet18:a=1", "`model` should be timm:NAME without options. Found timm:resnet18:a=1."),
    ],
)
def test_unknown_names_and_options(spec, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build_model(spec, num_classes=10, input_shape=CIFAR)


def test_width_given_twice_or_where_it_means_nothing():
    with pytest.raises(
        InputError, match=r"`width` should be given once, or twice the same: 4 in resnet18:width=4. Found 8"
    ):
        build_model("resnet18:width=4", num_classes=10, input_shape=CIFAR, width=8)
    with pytest.raises(
        InputError, match=r"`width` should be left out for hf:vit. Found 8. Its configuration sets the width"
    ):
        build_model("hf:vit", num_classes=10, input_shape=CIFAR, width=8)


def test_own_factories_from_a_file(own):
    net = build_model(f"{own}:net", num_classes=4, input_shape=DIGITS)
    assert net.fc.out_features == 4
    assert net.training
    assert net.calls == 0  # the trial run was on a copy
    assert build_model(f"{own}:Net", num_classes=7, input_shape=DIGITS).fc.out_features == 7
    wide = build_model(f"{own}:wide", num_classes=5, input_shape=DIGITS, width=6)
    assert (wide[1].out_features, wide[2].out_features) == (6, 5)
    lazy = build_model(f"{own}:lazy", num_classes=4, input_shape=DIGITS)
    assert lazy[1].weight.shape == (4, 64)


def test_own_factories_are_seeded_and_give_independent_modules(own):
    first, again, other = (
        build_model(f"{own}:net", num_classes=4, input_shape=DIGITS, seed=seed) for seed in (1, 1, 2)
    )
    assert same(first, again)
    assert not same(first, other)


def test_a_factory_that_returns_one_shared_module_gives_copies(own, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))  # imported once, as an installed package is
    try:
        first, second = (
            build_model("own_architecture:same_again", num_classes=4, input_shape=DIGITS) for _ in range(2)
        )
        with torch.no_grad():
            first.fc.weight.zero_()
        assert second.fc.weight.any()
    finally:
        for name in ("own_architecture", "blocks_beside"):
            sys.modules.pop(name, None)


def test_importing_a_file_leaves_no_trace(own, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path, modules, files = list(sys.path), set(sys.modules), sorted(tmp_path.iterdir())
    build_model(f"{own}:net", num_classes=4, input_shape=DIGITS)
    with pytest.raises(InputError):
        build_model(f"{own}:broken", num_classes=4, input_shape=DIGITS)
    assert sys.path == path
    assert set(sys.modules) == modules
    assert sorted(tmp_path.iterdir()) == files
    assert sys.dont_write_bytecode is False


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nett", "Found no 'nett' there. Did you mean 'net'?"),
        ("number", "should be the function or class that builds the model. Found a int."),
        ("shared", "should be the function or class that builds the model. Found a Net."),
        ("forgetful", "should return a torch.nn.Module. Found NoneType."),
        (
            "broken",
            "should build the model without an error. Found RuntimeError: no such block (own_architecture.py, line",
        ),
        ("needs", "should have no required parameters but num_classes, input_shape and width. Found depth. Wrap it"),
        ("colour", "should take inputs of shape (2, 1, 8, 8). Found RuntimeError: Given groups=1"),
        ("pair", "should return logits of shape (2, 4). Found tuple instead of a tensor."),
    ],
)
def test_own_factories_that_cannot_be_used(own, factory, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        build_model(f"{own}:{factory}", num_classes=4, input_shape=DIGITS)
    assert "\n" not in str(caught.value)


def test_own_factory_for_other_classes_or_without_width(own):
    with pytest.raises(InputError, match=re.escape("should return logits of shape (2, 9). Found (2, 4).")):
        build_model(f"{own}:net", num_classes=9, input_shape=DIGITS)
    with pytest.raises(InputError, match=r"should have a parameter `width` where a width is given. Found width 8"):
        build_model(f"{own}:net", num_classes=4, input_shape=DIGITS, width=8)


def test_require_logits_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 3))
    model[2].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    require_logits(model, num_classes=3, input_shape=DIGITS, name="model")
    assert [module.training for module in model] == [True, True, False, True]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match=re.escape("`model` should return logits of shape (2, 4). Found (2, 3).")):
        require_logits(model, num_classes=4, input_shape=DIGITS, name="model")

"""Architectures of the extra `hub` through the whole command line: train, align, connect, scan, ensemble."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from cli_example import Called, call
from isthmus.models import load_model

TINY_VIT = "hf:vit:hidden_size=12,num_hidden_layers=1,num_attention_heads=3,intermediate_size=24,patch_size=8"


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"needs the extra `hub` ({package})")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Colour images of 16 x 16, each class brighter than the one before."""
    draw = np.random.default_rng(0)
    held = {}
    for split, count in (("train", 80), ("test", 40)):
        y = np.arange(count) % 4
        held |= {f"x_{split}": (draw.integers(0, 64, (count, 16, 16, 3)) + 60 * y[:, None, None, None]).astype("uint8")}
        held |= {f"y_{split}": y}
    np.savez(tmp_path / "images.npz", **held)
    return tmp_path / "images.npz"


@pytest.mark.parametrize(
    ("arch", "units"),
    [
        pytest.param("timm:test_efficientnet", 964, marks=needs("timm")),
        pytest.param("timm:test_convnext", 1800, marks=needs("timm")),
        pytest.param(TINY_VIT, 12 + 3 + 2 * 4 + 24, marks=needs("transformers")),
    ],
)
def test_from_training_to_an_ensemble(capsys, tmp_path: Path, images: Path, arch: str, units: int) -> None:
    def done(command: str, *words) -> Called:
        called = call(capsys, command, *words, "--out", tmp_path / command, "--json")
        assert called.code == 0, called.err
        return called

    about = ("--arch", arch, "--data", images, "--size", 32)
    models = list[Path]()
    for seed in (0, 1):
        out = tmp_path / f"m{seed}"
        words = (*about, "--steps", 2, "--batch-size", 16, "--seed", seed, "--out", out, "--json")
        assert call(capsys, "train", *words).code == 0
        models.append(out / "model.safetensors")
    aligned = done("align", *models, *about, "--n", 20, "--test-n", 20, "--points", 3).json
    assert sum(group["size"] for group in aligned["groups"]) == units
    assert aligned["unpermuted"] == []
    assert aligned["models"][0]["output_change"] <= 1e-5
    assert aligned["models"][0]["distance_after"] < aligned["models"][0]["distance_before"]
    ends = (models[0], tmp_path / "align" / "aligned-1.safetensors")
    done("connect", *ends, *about, "--steps", 2, "--batch-size", 16)
    bridge = tmp_path / "connect" / "bridge.safetensors"
    scanned = done("scan", bridge, *about, "--points", 3, "--n", 20, "--settle-n", 20).json
    assert len(scanned["rows"]) == 3
    done("ensemble", bridge, *about, "--points", 2, "--n", 20, "--validation", 20, "--save")
    soup = next((tmp_path / "ensemble").glob("*soup*.safetensors"))
    shape = {"num_classes": 4, "input_shape": (3, 32, 32)}
    one, two, both = (dict(load_model(arch, path, **shape)[0].named_parameters()) for path in (*ends, soup))
    for name, p in both.items():
        torch.testing.assert_close(p, (one[name] + two[name]) / 2)


@needs("timm")
def test_a_file_may_not_name_a_library_by_itself(capsys, tmp_path: Path, images: Path) -> None:
    words = ("--arch", "timm:test_resnet", "--data", images, "--size", 32, "--steps", 1, "--out", tmp_path / "m")
    assert call(capsys, "train", *words).code == 0
    model = tmp_path / "m" / "model.safetensors"
    refused = call(capsys, "align", model, model, "--size", 32, "--out", tmp_path / "o")
    assert refused.code == 2
    assert "what the file names is not one of the library's models. Found 'timm:test_resnet'" in refused.err

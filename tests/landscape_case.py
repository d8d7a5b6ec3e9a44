"""Models, bridges and quick settings that the tests of landscapes share."""

import torch

from cli_example import model_file
from isthmus.geometry.build import bezier, surface
from isthmus.layout import Layout
from isthmus.models import load_model
from isthmus.recipes.landscape import LandscapeRecipe, run_landscape
from isthmus.store import Card, save_bridge

QUICK = {"grid": "3", "n": 60, "directions": "random"}


def loaded(path, arch="mlp:depth=1"):
    return load_model(arch, path, num_classes=10, input_shape=(1, 8, 8), width=8)[0]


def weights(model):
    return Layout.of(model).flatten(dict(model.named_parameters())).double()


def moved(model, direction):
    """Return the model with its weights moved, in float64 and written parameter by parameter."""
    layout = Layout.of(model)
    with torch.no_grad():
        for name, value in layout.unflatten(weights(model) + direction).items():
            dict(model.named_parameters())[name].copy_(value)
    return model


def measured(path, **settings):
    paths = (path,) if isinstance(path, str) else tuple(path)
    return run_landscape(LandscapeRecipe(models=paths, **(QUICK | settings))).table


def bridge_file(folder, count, arch="mlp:depth=1"):
    models = [loaded(model_file(folder / f"m{i}.safetensors", seed=i, arch=arch), arch) for i in range(count)]
    bridge = bezier(models) if count == 2 else surface(models)
    bridge = bridge.with_free(bridge.free + 0.05)
    card = Card(arch=arch, width=8, num_classes=10, input_shape=(1, 8, 8), data="digits")
    save_bridge(bridge, folder / "bridge.safetensors", meta=card)
    return bridge

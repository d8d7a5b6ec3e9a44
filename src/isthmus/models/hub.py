"""Architectures of timm and transformers (extra `hub`): built from their configuration; weights are never downloaded."""

import importlib
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from isthmus._check import InputError, nearest, require
from isthmus.models.own import where
from isthmus.models.shapes import Shape, image_shape

Option = int | float | bool | str
_KEPT: list[torch.library.Library] = []  # a library's operators vanish with it


def timm_model(name: str, *, num_classes: int, input_shape: Shape) -> nn.Module:
    """Return timm's model `name` with fresh weights, for `num_classes` and images of `input_shape`."""
    timm = _load("timm", f"timm:{name}")
    known = timm.list_models()
    base = name.split(".")[0]
    if base not in known:
        raise InputError(
            f"`model` should name one of timm's {len(known)} models. Found {name!r}.{nearest(base, known)}"
        )
    channels, height, width = image_shape(input_shape, model=f"timm:{name}", least=1)
    sizes: dict[str, int | tuple[int, int]] = {"num_classes": num_classes, "in_chans": channels}
    try:
        default = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
        # Only models bound to one image size (position embeddings) take `img_size`; the others refuse it.
        if default is not None and default.fixed_input_size:
            sizes["img_size"] = (height, width)
        return timm.create_model(name, pretrained=False, **sizes)
    except Exception as error:
        raise InputError(
            f"`model` should be a timm model that fits images of {tuple(input_shape)}. Found {where(error)} for {name!r}."
        ) from error


class HuggingFaceClassifier(nn.Module):
    """An image classifier of transformers as a plain function of images: `forward` returns the logits (B, classes)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W)."""
        return self.model(pixel_values=x, return_dict=True).logits


def huggingface_model(name: str, options: Mapping[str, Option], *, num_classes: int, input_shape: Shape) -> nn.Module:
    """Return an image classifier of transformers with fresh weights, its logits a plain tensor.

    `name` is a model type (`vit`, `resnet`, ...), a folder with a `config.json`, or a model whose configuration is in the local cache.
    `options` replace entries of its configuration.
    """
    transformers = _load("transformers", f"hf:{name}")
    channels, height, width = image_shape(input_shape, model=f"hf:{name}", least=1)
    config = _configuration(transformers, name)
    known = list(config.to_dict())
    sizes: dict[str, object] = {"num_channels": channels, "image_size": height if height == width else (height, width)}
    for key in options:
        require(
            key in known, "model", f"set entries of the configuration of {name!r}", key, nearest(key, known).strip()
        )
    try:
        config.num_labels = num_classes
        for key, value in {**{key: size for key, size in sizes.items() if key in known}, **options}.items():
            setattr(config, key, value)
        classifier = transformers.AutoModelForImageClassification
        return HuggingFaceClassifier(classifier.from_config(config, trust_remote_code=False))
    except Exception as error:
        raise InputError(
            f"`model` should be an image classifier of transformers that fits images of {tuple(input_shape)}. "
            f"Found {where(error)} for {name!r}."
        ) from error


def _configuration(transformers: ModuleType, name: str) -> Any:  # noqa: ANN401  # its classes come and go
    types = importlib.import_module(
        "transformers.models.auto.modeling_auto"
    ).MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if name in types:
        config = transformers.AutoConfig.for_model(name)
        classes = types[name]
        if not isinstance(
            classes, str
        ):  # of several classes (DeiT: with a teacher or without) the configuration must name one
            config.architectures = [classes[0]]
        return config
    if "/" in name or Path(name).is_dir():
        try:
            return transformers.AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise InputError(
                f"`model` should name a configuration that is on this machine. Found none for {name!r}: nothing is downloaded. "
                f"Fetch it yourself with: hf download {name} config.json"
            ) from error
    raise InputError(f"`model` should name an image classifier of transformers. Found {name!r}.{nearest(name, types)}")


def _load(package: str, spec: str) -> ModuleType:
    if find_spec(package) is None:
        raise InputError(
            f"`model` should name what is installed. Found {spec!r} without {package}. Run: pip install 'isthmus[hub]'"
        )
    _mend_torchvision()
    return importlib.import_module(package)


def _mend_torchvision() -> None:
    """Make a torchvision built for another torch importable, as far as its Python part goes.

    Beside a CPU build of torch its compiled operators are missing, and registering their shape rules fails the import of
    torchvision and so of timm and transformers. Declaring the two operators concerned is enough: nothing here calls them.
    """
    if find_spec("torchvision") is None:
        return
    before = set(sys.modules)
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for key in [key for key in sys.modules if key not in before and key.split(".")[0] == "torchvision"]:
            del sys.modules[key]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # pyright: ignore[reportUnknownMemberType]
        _KEPT.append(library)
        importlib.import_module("torchvision")

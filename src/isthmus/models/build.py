"""`build_model`: a fresh module from a name, from a model library or from the user's own code."""

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isthmus._check import InputError, nearest, require, unknown
from isthmus.models.convolutional import cnn, lenet, vgg11, vgg11_bn, vgg16, vgg16_bn
from isthmus.models.hub import Option, huggingface_model, timm_model
from isthmus.models.initial import seeded
from isthmus.models.own import import_object, names_object, where
from isthmus.models.perceptron import mlp
from isthmus.models.residual import preresnet, resnet18, resnet20
from isthmus.models.shapes import Shape, require_task
from isthmus.models.transformer import vit


@dataclass(frozen=True)
class Architecture:
    """A named architecture: its factory and one line about it."""

    factory: Callable[..., nn.Module]
    about: str

    @property
    def options(self) -> dict[str, type]:
        """Return option -> type of what may follow the name: `preresnet:depth=26,width=16`."""
        parameters = inspect.signature(self.factory).parameters.values()
        return {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}


MODELS: dict[str, Architecture] = {
    "cnn": Architecture(cnn, "three 3x3 convolutions with BatchNorm; small images, quick work"),
    "lenet": Architecture(lenet, "MNIST network of Liu et al. 2020 and Madry et al. 2018"),
    "mlp": Architecture(mlp, "fully connected, three hidden layers of 512; any input shape (Ainsworth et al. 2023)"),
    "preresnet": Architecture(preresnet, "pre-activation ResNet, depth 26 as in Zhao et al. 2020 (also 56, 110, 164)"),
    "resnet18": Architecture(resnet18, "ResNet18 for small images: 3x3 stem, no max-pooling (He et al. 2016)"),
    "resnet20": Architecture(
        resnet20, "ResNet of three stages for small images, depth 20 (also 32, 44, 56, 110; He et al. 2016)"
    ),
    "vgg11": Architecture(vgg11, "VGG11 without BatchNorm, one linear layer (Jordan et al. 2023)"),
    "vgg11-bn": Architecture(vgg11_bn, "VGG11 with BatchNorm"),
    "vgg16": Architecture(vgg16, "VGG16 without BatchNorm, linear layers of 512 (Garipov et al. 2018)"),
    "vgg16-bn": Architecture(vgg16_bn, "VGG16 with BatchNorm"),
    "vit": Architecture(vit, "vision transformer, patches of 4, 6 blocks of width 192 (Dosovitskiy et al. 2021)"),
}


def build_model(
    spec: str, *, num_classes: int, input_shape: Shape, width: int | None = None, seed: int = 0
) -> nn.Module:
    """Return a fresh module on the CPU that maps (B, *input_shape) to logits (B, num_classes), in training mode.

    `spec` is one of

    - a name of :data:`MODELS`, with options if wanted: `resnet18`, `preresnet:depth=26,width=16`;
    - `timm:NAME` or `hf:NAME`, with entries of its configuration if wanted (`hf:vit:hidden_size=192`), from the extra `hub`;
    - the user's own `path/to/file.py:factory` or `package.module:factory`, a function or class without required arguments;
      `num_classes`, `input_shape` and `width` are passed where it has parameters of these names.

    Weights are drawn from `seed`; the caller's random state is left as it was. Raises InputError for an unknown name or option, for
    sizes that do not fit, and for a model that cannot take the images or does not return logits of this shape.
    """
    require_task(num_classes, input_shape)
    shape = tuple(input_shape)
    head, _, rest = spec.partition(":")
    with seeded(seed):
        if head in MODELS:
            return _known(head, rest, num_classes, shape, width)
        if head in ("timm", "hf"):
            model = _from_hub(head, rest, num_classes, shape, width)
        elif names_object(spec):
            model = _own(spec, num_classes, shape, width)
        elif ":" not in spec and spec.endswith(".py"):
            raise InputError(f"`model` should name the function of a file as {spec}:function. Found {spec!r}.")
        else:
            raise unknown(
                "model", head, [*MODELS, "timm:NAME", "hf:NAME", "file.py:function", "package.module:function"]
            )
        require_logits(model, num_classes=num_classes, input_shape=shape, name=spec)
    return model


def require_logits(model: nn.Module, *, num_classes: int, input_shape: Shape, name: str) -> None:
    """Raise InputError unless `model` takes (2, *input_shape) and returns logits (2, num_classes).

    A copy in evaluation mode is run on zeros, so the model stays as it was; only lazy parameters are given their shapes by it.
    """
    lazy = any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()])
    tried = model if lazy else deepcopy(model)
    modes = [(module, module.training) for module in tried.modules()]
    first = next(model.parameters(), torch.zeros(()))
    batch = (2, *input_shape)
    try:
        with torch.no_grad():
            found: object = tried.eval()(torch.zeros(batch, device=first.device))
    except Exception as error:
        raise InputError(f"`{name}` should take inputs of shape {batch}. Found {where(error)}.") from error
    finally:
        for module, mode in modes:
            module.training = mode
    wanted = (2, num_classes)
    shown = str(tuple(found.shape)) if isinstance(found, Tensor) else f"{type(found).__name__} instead of a tensor"
    require(isinstance(found, Tensor) and found.shape == wanted, name, f"return logits of shape {wanted}", shown)


def _known(name: str, text: str, num_classes: int, input_shape: Shape, width: int | None) -> nn.Module:
    architecture = MODELS[name]
    options = _options(text, name)
    for key, value in options.items():
        kinds = architecture.options
        if key not in kinds:
            raise InputError(
                f"`{name}` should have one of the options {', '.join(kinds)}. Found {key!r}.{nearest(key, kinds)}"
            )
        fits = type(value) is kinds[key] or (kinds[key] is float and type(value) is int)
        require(fits, key, f"be {'a number' if kinds[key] is float else 'a whole number'}", value)
    if width is not None:
        given = options.setdefault("width", width)
        require(given == width, "width", f"be given once, or twice the same: {given} in {name}:{text}", width)
    return architecture.factory(num_classes, input_shape, **options)


def _from_hub(kind: str, text: str, num_classes: int, input_shape: Shape, width: int | None) -> nn.Module:
    name, _, rest = text.partition(":")
    require(name != "", "model", f"name a model as {kind}:NAME", f"{kind}:{text}")
    require(width is None, "width", f"be left out for {kind}:{name}", width, "Its configuration sets the width.")
    if kind == "hf":
        return huggingface_model(name, _options(rest, f"hf:{name}"), num_classes=num_classes, input_shape=input_shape)
    require(rest == "", "model", "be timm:NAME without options", f"timm:{text}")
    return timm_model(name, num_classes=num_classes, input_shape=input_shape)


def _options(text: str, owner: str) -> dict[str, Option]:
    """Return the options in `a=1,b=0.5`."""
    options: dict[str, Option] = {}
    for part in text.split(",") if text else []:
        key, equals, value = part.partition("=")
        good = key.isidentifier() and equals == "=" and value != "" and key not in options
        require(good, owner, "be followed by options as name=value,name=value, each once", part)
        options[key] = _value(value)
    return options


def _value(text: str) -> Option:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _own(spec: str, num_classes: int, input_shape: Shape, width: int | None) -> nn.Module:
    factory = import_object(spec, name="model")
    if not callable(factory) or isinstance(factory, nn.Module):
        raise InputError(
            f"`{spec}` should be the function or class that builds the model. Found a {type(factory).__name__}."
        )
    arguments = _arguments(factory, spec, {"num_classes": num_classes, "input_shape": input_shape, "width": width})
    try:
        built: object = factory(**arguments)
    except Exception as error:
        raise InputError(f"`{spec}` should build the model without an error. Found {where(error)}.") from error
    if not isinstance(built, nn.Module):
        raise InputError(f"`{spec}` should return a torch.nn.Module. Found {type(built).__name__}.")
    # A copy: a factory that returns one shared module would make two suspects the same object.
    return deepcopy(built)


def _arguments(factory: Callable[..., object], spec: str, offered: Mapping[str, object]) -> dict[str, object]:
    """Return those of `offered` that the factory has parameters for. Raises InputError where it requires anything else."""
    parameters = inspect.signature(factory).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [key for key, parameter in parameters.items() if parameter.kind in named]
    passed = {key: value for key, value in offered.items() if value is not None and key in known}
    for key, parameter in parameters.items():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        filled = key in passed or variadic or parameter.default is not parameter.empty
        allowed = "have no required parameters but num_classes, input_shape and width"
        require(filled, spec, allowed, key, "Wrap it in a function that fills it in.")
    width = offered["width"]
    require(
        width is None or "width" in passed, spec, "have a parameter `width` where a width is given", f"width {width}"
    )
    return passed

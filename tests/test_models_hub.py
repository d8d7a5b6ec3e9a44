"""Architectures of timm and transformers: what is said without them, and what they give with them."""

import re
from importlib.util import find_spec

import pytest
import torch

from isthmus._check import InputError
from isthmus.models import build_model, hub, load_weights

CIFAR, GREY = (3, 32, 32), (1, 32, 32)
TINY = "hf:vit:hidden_size=24,num_hidden_layers=1,num_attention_heads=3,intermediate_size=48,patch_size=8"

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="needs the extra `hub` (timm)")
needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="needs the extra `hub` (transformers)"
)


@pytest.mark.parametrize(("spec", "package"), [("timm:resnet18", "timm"), ("hf:vit", "transformers")])
def test_a_missing_package_names_the_extra(spec, package, monkeypatch):
    monkeypatch.setattr(hub, "find_spec", lambda _: None)
    with pytest.raises(
        InputError, match=re.escape(f"Found {spec!r} without {package}. Run: pip install 'isthmus[hub]'")
    ):
        build_model(spec, num_classes=10, input_shape=CIFAR)


@needs_timm
@pytest.mark.parametrize("shape", [CIFAR, GREY])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit.r160_in1k"])
def test_timm_models_fit_images_and_classes_and_are_seeded(name, shape):
    before = torch.get_rng_state()
    first, again, other = (
        build_model(f"timm:{name}", num_classes=7, input_shape=shape, seed=seed).eval() for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    x = torch.rand(1, *shape)
    assert first(x).shape == (1, 7)
    assert torch.equal(first(x), again(x))
    assert any(not torch.equal(p, q) for p, q in zip(first.parameters(), other.parameters(), strict=True))


@needs_timm
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnet19", CIFAR, "Found 'resnet19'. Did you mean 'resnet18'?"),
        ("resnet18.nonsense", CIFAR, "Invalid pretrained tag"),
        ("test_vit", (3, 30, 30), "should take inputs of shape (2, 3, 30, 30). Found AssertionError"),
        ("test_vit", (64,), "`input_shape` should be (channels, height, width) for timm:test_vit"),
    ],
)
def test_timm_models_that_cannot_be_used(name, shape, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build_model(f"timm:{name}", num_classes=10, input_shape=shape)


@needs_transformers
def test_transformers_return_logits_as_a_tensor_and_load_their_own_files(tmp_path):
    from safetensors.torch import save_file

    model = build_model(TINY, num_classes=7, input_shape=GREY, seed=1).eval()
    again = build_model(TINY, num_classes=7, input_shape=GREY, seed=1).eval()
    x = torch.rand(1, *GREY)
    assert model(x).shape == (1, 7)
    assert torch.equal(model(x), again(x))
    save_file(model.model.state_dict(), tmp_path / "model.safetensors")
    other = build_model(TINY, num_classes=7, input_shape=GREY, seed=2).eval()
    assert load_weights(other, tmp_path / "model.safetensors").notes == ("added the prefix 'model.' to every name",)
    assert torch.equal(model(x), other(x))


@needs_transformers
def test_of_several_classes_of_transformers_the_first_is_built():
    model = build_model(TINY.replace("hf:vit", "hf:deit"), num_classes=7, input_shape=GREY).eval()
    assert type(model.model).__name__ == "DeiTForImageClassification"
    assert model(torch.rand(1, *GREY)).shape == (1, 7)


@needs_transformers
def test_transformers_read_a_configuration_from_a_folder(tmp_path):
    build_model(TINY, num_classes=7, input_shape=CIFAR).model.config.save_pretrained(tmp_path)
    model = build_model(f"hf:{tmp_path}", num_classes=3, input_shape=GREY).eval()
    assert model.model.config.hidden_size == 24
    assert model(torch.rand(2, *GREY)).shape == (2, 3)


@needs_transformers
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hf:vitt", "Found 'vitt'. Did you mean 'vit'?"),
        ("hf:nobody/nothing", "Found none for 'nobody/nothing': nothing is downloaded."),
        (
            "hf:vit:hiden_size=3",
            "should set entries of the configuration of 'vit'. Found hiden_size. Did you mean 'hidden_size'?",
        ),
        ("hf:vit:hidden_size=wide", "that fits images of (3, 32, 32). Found "),
    ],
)
def test_transformers_that_cannot_be_used(spec, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build_model(spec, num_classes=10, input_shape=CIFAR)

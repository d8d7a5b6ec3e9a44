"""The architectures: sizes of the literature, forward shapes, and parts against independent forms."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from isthmus._check import InputError
from isthmus.models import MODELS, cnn, lenet, mlp, preresnet, resnet18, resnet20, vgg11, vgg11_bn, vgg16, vgg16_bn, vit

CIFAR, MNIST, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (lambda: lenet(10, MNIST), 3_274_634),  # Liu et al. 2020, w = 16
        (lambda: lenet(10, MNIST, width=1), 13_514),  # the same, w = 1
        (lambda: resnet18(10, CIFAR), 11_173_962),
        (lambda: resnet18(10, CIFAR, width=32), 2_797_610),  # Liu et al. 2020, w = 8
        (lambda: resnet18(10, CIFAR, width=4), 44_622),  # the same, w = 1
        # He et al. 2016 count 269,722 with option A; B has two 1x1 convolutions and their BatchNorm besides
        (lambda: resnet20(10, CIFAR), 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64)),
        (lambda: resnet20(10, CIFAR, depth=110), 1_727_962 + 16 * 32 + 32 * 64 + 2 * (32 + 64)),
        (lambda: vgg11(10, CIFAR), 9_231_114 - 2 * 2_752),  # with BatchNorm: the count of the form in common use
        (lambda: vgg11_bn(10, CIFAR), 9_231_114),
        (lambda: vgg16(10, CIFAR), 15_245_130),  # Zhao et al. 2020
        (lambda: vgg16_bn(10, CIFAR), 15_245_130 + 2 * 4_224),  # a scale and a shift for each of the 4,224 channels
        (lambda: preresnet(10, CIFAR), 369_498),  # Zhao et al. 2020: depth 26
        (lambda: cnn(10, CIFAR), 24_346),
        (lambda: cnn(10, CIFAR, width=8), 6_418),
        (lambda: cnn(10, CIFAR, width=32), 94_762),
        (lambda: mlp(10, MNIST), 785 * 512 + 2 * 513 * 512 + 513 * 10),
        (lambda: mlp(3, (7,), width=5, depth=1), 8 * 5 + 6 * 3),
    ],
)
def test_parameter_counts_of_the_literature(model, parameters):
    assert count(model()) == parameters


@pytest.mark.parametrize("depth", [110, 164])
def test_deep_preresnet_counts_by_closed_form(depth):
    total, inside = 3 * 16 * 9, 16
    for within, blocks in ((16, (depth - 2) // 9), (32, (depth - 2) // 9), (64, (depth - 2) // 9)):
        for _ in range(blocks):
            total += 2 * inside + inside * within + 4 * within + 9 * within**2 + 4 * within**2
            total += inside * 4 * within if inside != 4 * within else 0
            inside = 4 * within
    assert count(preresnet(10, CIFAR, depth=depth)) == total + 2 * 256 + 257 * 10


@pytest.mark.parametrize(
    ("width", "depth", "patch", "shape"), [(12, 1, 2, DIGITS), (24, 3, 4, MNIST), (192, 6, 4, CIFAR)]
)
def test_vit_count_by_closed_form(width, depth, patch, shape):
    channels, height, breadth = shape
    tokens = (height // patch) * (breadth // patch)
    wanted = width * (channels * patch**2 + 1) + width * (tokens + 2) + depth * (12 * width**2 + 13 * width)
    assert count(vit(10, shape, width=width, depth=depth, patch=patch)) == wanted + 2 * width + 10 * (width + 1)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR, (3, 64, 64), (2, 32, 40)])
def test_logits_of_one_image_for_every_input_size(name, shape):
    model = MODELS[name].factory(7, shape, width=6).eval()
    logits = model(torch.rand(1, *shape))
    assert logits.shape == (1, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_parameter_is_used_and_images_do_not_mix(name):
    model = MODELS[name].factory(3, CIFAR, width=6).eval()
    x = torch.rand(3, *CIFAR, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)
    model(x).square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", sorted(MODELS))
def test_width_changes_the_model(name):
    assert count(MODELS[name].factory(3, CIFAR, width=6)) < count(MODELS[name].factory(3, CIFAR, width=12))


def test_dropout_acts_in_training_only_and_can_be_off():
    x = torch.rand(1, *CIFAR)
    for factory in (vgg16, vgg16_bn):
        torch.manual_seed(0)
        model = factory(3, CIFAR, width=8).eval()
        assert torch.equal(model(x), model(x))
    model = vgg16(3, CIFAR, width=8).train()
    assert not torch.equal(model(x), model(x))
    model = vgg16(3, CIFAR, width=8, dropout=0.0).train()
    assert torch.equal(model(x), model(x))


def test_vgg_equals_a_plain_sequential_of_its_layers():
    for factory, norm in ((vgg11, False), (vgg11_bn, True), (vgg16, False), (vgg16_bn, True)):
        model = factory(5, CIFAR, width=4).eval()
        layers: list[nn.Module] = []
        for block in model.layer_blocks:
            for layer in block:
                layers += [layer] if norm and isinstance(layer, nn.Conv2d) else [layer, nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        x = torch.rand(2, *CIFAR)
        torch.testing.assert_close(nn.Sequential(*layers, nn.Flatten(), model.classifier)(x), model(x))


def test_preactivation_block_keeps_an_untouched_path():
    model = preresnet(3, CIFAR, width=4)
    block = model.layer1[1]
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x)  # a ReLU after the sum would cut the negative half


def test_basic_block_ends_in_relu_and_halves_the_image():
    x = torch.rand(2, *CIFAR)
    model = resnet18(3, CIFAR, width=4).eval()
    stem = functional.relu(model.bn1(model.conv1(x)))
    assert stem.shape == (2, 4, 32, 32)
    assert model.layer4(model.layer3(model.layer2(model.layer1(stem)))).shape == (2, 32, 4, 4)
    assert (model.layer1(stem) >= 0).all()


def test_attention_agrees_with_multihead_attention():
    block = vit(3, DIGITS, width=12, heads=3, depth=1).blocks[0]
    nn.init.normal_(block.attn.qkv.weight)
    reference = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(block.attn.qkv.weight)
        reference.in_proj_bias.copy_(block.attn.qkv.bias)
        reference.out_proj.load_state_dict(block.attn.proj.state_dict())
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(block.attn(x), reference(x, x, x)[0], rtol=1e-4, atol=1e-5)


def test_heads_and_patches_change_the_function():
    x = torch.rand(1, *DIGITS)
    outputs = []
    for heads in (1, 3):
        torch.manual_seed(0)
        model = vit(3, DIGITS, width=12, heads=heads, depth=1)
        nn.init.normal_(model.blocks[0].attn.qkv.weight)
        outputs.append(model(x))
    assert not torch.allclose(*outputs)
    assert vit(3, DIGITS, width=12, patch=2).pos_embed.shape == (1, 17, 12)


def test_convolutions_are_drawn_with_the_deviation_of_he():
    torch.manual_seed(0)
    for model in (vgg16(10, CIFAR, width=32), resnet18(10, CIFAR, width=32), preresnet(10, CIFAR, width=32)):
        weight = next(layer for layer in reversed(list(model.modules())) if isinstance(layer, nn.Conv2d)).weight
        outside, _, height, width = weight.shape
        assert weight.std().item() == pytest.approx((2 / (height * width * outside)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lenet(10, (1, 3, 28)), "`input_shape` should have at least 4 x 4 pixels for lenet. Found (1, 3, 28)"),
        (lambda: cnn(10, (1, 3, 3)), "at least 4 x 4 pixels for cnn"),
        (lambda: vgg16(10, (1, 7, 8)), "at least 8 x 8 pixels for vgg16"),
        (lambda: resnet18(10, (1, 8, 7)), "at least 8 x 8 pixels for resnet18"),
        (lambda: preresnet(10, (1, 2, 2)), "at least 4 x 4 pixels for preresnet"),
        (lambda: vit(10, (1, 3, 3)), "at least 4 x 4 pixels for vit with patches of 4"),
        (lambda: vit(10, (1, 8, 10)), "`patch` should divide the sides of a 8 x 10 image. Found 4."),
        (lambda: vit(10, DIGITS, width=10), "`width` should be a multiple of the 3 heads. Found 10."),
        (lambda: vit(10, DIGITS, heads=0), "`heads` should be a whole number above zero. Found 0."),
        (lambda: mlp(10, (64,), depth=0), "`depth` should be a whole number above zero. Found 0."),
        (lambda: cnn(10, DIGITS, width=0), "`width` should be a whole number above zero. Found 0."),
        (lambda: cnn(10, (64,)), "`input_shape` should be (channels, height, width) for cnn. Found (64,)."),
        (lambda: cnn(1, DIGITS), "`num_classes` should be a whole number of at least 2. Found 1."),
        (lambda: mlp(10, ()), "`input_shape` should be the positive sizes of one sample, without the batch. Found ()."),
        (lambda: mlp(10, (3, 0)), "without the batch. Found (3, 0)."),
        (lambda: vgg16(10, CIFAR, dropout=1.0), "`dropout` should be a probability in [0, 1). Found 1.0."),
        (lambda: preresnet(10, CIFAR, depth=27), "`depth` should be 6 n + 2 below 44 (26) or 9 n + 2"),
        (lambda: preresnet(10, CIFAR, depth=50), "Found 50."),
        (lambda: preresnet(10, CIFAR, depth=2), "Found 2."),
        (lambda: resnet20(10, CIFAR, depth=21), "`depth` should be 6 n + 2 (20, 32, 44, 56, 110). Found 21."),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(InputError, match=re.escape(message)):
        call()

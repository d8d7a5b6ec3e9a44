"""Convolutional networks without shortcuts: `lenet`, `cnn`, `vgg11`, `vgg11_bn`, `vgg16`, `vgg16_bn`."""

from math import ceil

from torch import Tensor, nn
from torch.nn import functional

from isthmus.models.initial import he_convolutions
from isthmus.models.shapes import Shape, image_shape, require_dropout, require_size, require_task

_VGG11_BLOCKS = ((1,), (2,), (4, 4), (8, 8), (8, 8))
_VGG16_BLOCKS = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


class LeNet(nn.Module):
    """Two 5x5 convolutions with ReLU and 2x2 max-pooling, one hidden linear layer."""

    def __init__(self, num_classes: int, image: tuple[int, int, int], width: int):
        super().__init__()
        channels, height, breadth = image
        self.conv1 = nn.Conv2d(channels, 2 * width, 5, padding=2)
        self.conv2 = nn.Conv2d(2 * width, 4 * width, 5, padding=2)
        self.fc1 = nn.Linear(4 * width * (height // 4) * (breadth // 4), 64 * width)
        self.fc2 = nn.Linear(64 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W)."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        return self.fc2(functional.relu(self.fc1(x.flatten(1))))


def lenet(num_classes: int, input_shape: Shape, *, width: int = 16) -> nn.Module:
    """Return the MNIST network of Liu et al. 2020, there called LeNet: 3,274,634 parameters for 1x28x28 and 10 classes.

    Convolutions 5x5 to 2w and 4w channels, each with ReLU and 2x2 max-pooling, then linear layers to 64w units and the logits;
    at the default w = 16 it is the network of Madry et al. 2018. It is not LeNet-5 (LeCun et al. 1998), which has 61,706.
    Sides of at least 4 pixels.
    """
    require_task(num_classes, input_shape)
    require_size("width", width)
    return LeNet(num_classes, image_shape(input_shape, model="lenet", least=4), width)


class SmallCNN(nn.Module):
    """`depth` 3x3 convolutions with BatchNorm and ReLU, 2x2 max-pooling between them, the mean over the image, one linear layer."""

    def __init__(self, num_classes: int, channels: int, width: int, depth: int):
        super().__init__()
        self.depth = depth
        for k in range(1, depth + 1):
            wide = width * 2 ** (k - 1)
            self.add_module(f"conv{k}", nn.Conv2d(channels, wide, 3, padding=1, bias=False))
            self.add_module(f"bn{k}", nn.BatchNorm2d(wide))
            channels = wide
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W)."""
        for k in range(1, self.depth + 1):
            x = functional.relu(self.get_submodule(f"bn{k}")(self.get_submodule(f"conv{k}")(x)))
            x = functional.max_pool2d(x, 2) if k < self.depth else x
        return self.fc(x.mean((2, 3)))


def cnn(num_classes: int, input_shape: Shape, *, width: int = 16, depth: int = 3) -> nn.Module:
    """Return a small network for small images: `depth` 3x3 convolutions to w, 2w, 4w ... channels, 24,346 parameters for 3x32x32.

    Our own, for quick work: the parameters do not depend on the image's size, 6,418 at width 8 and 94,762 at width 32 (3 channels,
    10 classes). Depth 4 at width 24 has 221,026 parameters. Sides of at least 2^(depth - 1) pixels.
    """
    require_task(num_classes, input_shape)
    require_size("width", width)
    require_size("depth", depth)
    channels, _, _ = image_shape(input_shape, model="cnn", least=2 ** (depth - 1))
    return SmallCNN(num_classes, channels, width, depth)


class VGG(nn.Module):
    """Blocks of 3x3 convolutions, each block followed by 2x2 max-pooling, and linear layers; a ReLU after every `stride` layers."""

    def __init__(self, blocks: list[nn.ModuleList], classifier: nn.Module, stride: int):
        super().__init__()
        self.stride = stride
        self.layer_blocks = nn.ModuleList(blocks)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W)."""
        for block in self.layer_blocks:
            assert isinstance(block, nn.ModuleList)
            layers = list(block)
            for place in range(0, len(layers), self.stride):
                for layer in layers[place : place + self.stride]:
                    x = layer(x)
                x = functional.relu(x)
            # ceil_mode changes nothing where 32 divides the sides and lets smaller images through five poolings.
            x = functional.max_pool2d(x, 2, ceil_mode=True)
        return self.classifier(x.flatten(1))


def vgg11(num_classes: int, input_shape: Shape, *, width: int = 64) -> nn.Module:
    """Return VGG11 without BatchNorm, one linear layer behind it: 9,225,610 parameters for 3x32x32 and 10 classes.

    Eight 3x3 convolutions with bias, widths w (1 | 2 | 4 4 | 8 8 | 8 8), max-pooling after each bar (configuration A of Simonyan and
    Zisserman 2015, in the form for CIFAR that REPAIR merges, Jordan et al. 2023). Sides as for :func:`vgg16`.
    """
    return _vgg11(num_classes, input_shape, width, [])


def vgg11_bn(num_classes: int, input_shape: Shape, *, width: int = 64) -> nn.Module:
    """Return :func:`vgg11` with BatchNorm between each convolution and its ReLU."""
    return _vgg11(num_classes, input_shape, width, [nn.BatchNorm2d])


def vgg16(num_classes: int, input_shape: Shape, *, width: int = 64, dropout: float = 0.5) -> nn.Module:
    """Return VGG16 without BatchNorm as in Garipov et al. 2018 and Zhao et al. 2020: 15,245,130 parameters for 3x32x32, 10 classes.

    Thirteen 3x3 convolutions with bias, widths w (1 1 | 2 2 | 4 4 4 | 8 8 8 | 8 8 8), max-pooling after each bar, linear layers
    8w - 8w - classes with dropout on the inputs of the first two. Tensor names are those of the code of Garipov et al., so its
    files load. Where 32 does not divide a side, pooling rounds up. Sides of at least 8 pixels.
    """
    return _vgg16(num_classes, input_shape, width, dropout, [])


def vgg16_bn(num_classes: int, input_shape: Shape, *, width: int = 64, dropout: float = 0.5) -> nn.Module:
    """Return :func:`vgg16` with BatchNorm between each convolution and its ReLU (configuration D of Simonyan and Zisserman 2015).

    Tensor names are those of VGG16BN in the code of Garipov et al., whose forward pass however pairs layers with activations one
    to one and so skips half of them: a file made there loads here but computes something else.
    """
    return _vgg16(num_classes, input_shape, width, dropout, [nn.BatchNorm2d])


def _vgg11(num_classes: int, input_shape: Shape, width: int, norms: list[type[nn.BatchNorm2d]]) -> nn.Module:
    blocks, features = _vgg_blocks(num_classes, input_shape, width, _VGG11_BLOCKS, norms)
    return _vgg(blocks, nn.Linear(features, num_classes), norms)


def _vgg16(
    num_classes: int, input_shape: Shape, width: int, dropout: float, norms: list[type[nn.BatchNorm2d]]
) -> nn.Module:
    require_dropout(dropout)
    blocks, features = _vgg_blocks(num_classes, input_shape, width, _VGG16_BLOCKS, norms)
    classifier = nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(features, 8 * width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(8 * width, 8 * width),
        nn.ReLU(),
        nn.Linear(8 * width, num_classes),
    )
    return _vgg(blocks, classifier, norms)


def _vgg(blocks: list[nn.ModuleList], classifier: nn.Module, norms: list[type[nn.BatchNorm2d]]) -> nn.Module:
    model = VGG(blocks, classifier, stride=1 + len(norms))
    he_convolutions(model)
    return model


def _vgg_blocks(
    num_classes: int,
    input_shape: Shape,
    width: int,
    multiples: tuple[tuple[int, ...], ...],
    norms: list[type[nn.BatchNorm2d]],
) -> tuple[list[nn.ModuleList], int]:
    """Return the convolutions of each block, and the number of places that are left after the last pooling."""
    require_task(num_classes, input_shape)
    require_size("width", width)
    image = image_shape(input_shape, model=f"vgg{3 + sum(map(len, multiples))}", least=8)
    channels, blocks = image[0], list[nn.ModuleList]()
    for block in multiples:
        layers: list[nn.Module] = []
        for outside in (width * multiple for multiple in block):
            layers += [nn.Conv2d(channels, outside, 3, padding=1), *(norm(outside) for norm in norms)]
            channels = outside
        blocks.append(nn.ModuleList(layers))
    return blocks, channels * ceil(image[1] / 32) * ceil(image[2] / 32)

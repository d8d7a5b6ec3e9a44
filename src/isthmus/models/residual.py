"""Residual networks for small images: `resnet18`, `resnet20`, `preresnet`."""

from torch import Tensor, nn
from torch.nn import functional

from isthmus._check import require
from isthmus.models.initial import he_convolutions
from isthmus.models.shapes import Shape, image_shape, require_size, require_task


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with BatchNorm, around a shortcut; ReLU after the sum (He et al. 2016, option B)."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(body(x) + shortcut(x))."""
        h = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(h + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 stem without max-pooling, `stages` of `blocks` basic blocks each, the mean over the image, one linear layer.

    The first stage has the channels of the stem and keeps the image, each later one doubles the channels and halves the sides.
    """

    def __init__(self, num_classes: int, channels: int, width: int, *, stages: int, blocks: int):
        super().__init__()
        self.stages = stages
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inside = width
        for k in range(stages):
            outside = width * 2**k
            later = [(outside, outside, 1)] * (blocks - 1)
            sizes = [(inside, outside, 1 if k == 0 else 2), *later]
            self.add_module(f"layer{k + 1}", nn.Sequential(*(BasicBlock(*size) for size in sizes)))
            inside = outside
        self.linear = nn.Linear(inside, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for k in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{k}")(x)
        return self.linear(x.mean((2, 3)))


def resnet18(num_classes: int, input_shape: Shape, *, width: int = 64) -> nn.Module:
    """Return ResNet18 in its CIFAR form: 11,173,962 parameters for 3 channels and 10 classes (He et al. 2016).

    Stem 3x3 with stride 1 and no max-pooling; stages of width w, 2w, 4w, 8w with two basic blocks each, strides 1, 2, 2, 2.
    `width` is that of the first stage (Liu et al. 2020 call width 64 "w = 16" and width 32 "w = 8"). Tensor names are those in
    common use for this form (`layer1.0.conv1`, `shortcut`, `linear`). Sides of at least 8 pixels.
    """
    require_task(num_classes, input_shape)
    require_size("width", width)
    channels, _, _ = image_shape(input_shape, model="resnet18", least=8)
    model = ResNet(num_classes, channels, width, stages=4, blocks=2)
    he_convolutions(model)
    return model


def resnet20(num_classes: int, input_shape: Shape, *, width: int = 16, depth: int = 20) -> nn.Module:
    """Return the ResNet of He et al. 2016 for CIFAR: 272,474 parameters for 3 channels and 10 classes.

    Stem 3x3; three stages of width w, 2w, 4w with (depth - 2) / 6 basic blocks each, strides 1, 2, 2. Where the channels change the
    shortcut is a 1x1 convolution with BatchNorm (their option B), as in the networks that Git Re-Basin and REPAIR merge; the original
    for CIFAR pads with zeros (option A, 269,722). Tensor names as in :func:`resnet18`. Sides of at least 4 pixels.
    """
    require_task(num_classes, input_shape)
    require_size("width", width)
    require(depth > 2 and (depth - 2) % 6 == 0, "depth", "be 6 n + 2 (20, 32, 44, 56, 110)", depth)
    channels, _, _ = image_shape(input_shape, model="resnet20", least=4)
    model = ResNet(num_classes, channels, width, stages=3, blocks=(depth - 2) // 6)
    he_convolutions(model)
    return model


class PreActivation(nn.Module):
    """Convolutions, each preceded by BatchNorm and ReLU, added to the untouched input (He et al. 2016, identity mappings)."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.downsample = _projection(inside, outside, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return body(x) + shortcut(x)."""
        h = self.conv1(functional.relu(self.bn1(x)))
        return self.conv2(functional.relu(self.bn2(h))) + self.downsample(x)


class PreActivationBottleneck(nn.Module):
    """The same with convolutions 1x1, 3x3, 1x1 and four times as many channels outside as within."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        within = outside // 4
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, within, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(within)
        self.conv2 = nn.Conv2d(within, within, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(within)
        self.conv3 = nn.Conv2d(within, outside, 1, bias=False)
        self.downsample = _projection(inside, outside, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return body(x) + shortcut(x)."""
        h = self.conv1(functional.relu(self.bn1(x)))
        h = self.conv2(functional.relu(self.bn2(h)))
        return self.conv3(functional.relu(self.bn3(h))) + self.downsample(x)


def _projection(inside: int, outside: int, stride: int) -> nn.Sequential:
    if stride == 1 and inside == outside:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False))


class PreResNet(nn.Module):
    """A 3x3 stem, three stages of pre-activation blocks, BatchNorm, the mean over the image, one linear layer."""

    def __init__(self, num_classes: int, stem: nn.Conv2d, stages: list[nn.Sequential], outside: int):
        super().__init__()
        self.conv1 = stem
        self.layer1, self.layer2, self.layer3 = stages
        self.bn = nn.BatchNorm2d(outside)
        self.fc = nn.Linear(outside, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(functional.relu(self.bn(x)).mean((2, 3)))


def preresnet(num_classes: int, input_shape: Shape, *, width: int = 16, depth: int = 26) -> nn.Module:
    """Return a pre-activation ResNet of three stages with w, 2w, 4w channels, as in Garipov et al. 2018.

    Below depth 44, (depth - 2) / 6 basic blocks a stage; from 44 on, (depth - 2) / 9 bottlenecks with four times the channels
    outside. Depth 26 (369,498 parameters for 3 channels and 10 classes) is what the code of Zhao et al. 2020 runs as
    "PreResNet110"; 110 and 164 are those of Garipov et al., whose tensor names these are. Sides of at least 4 pixels.
    """
    require_task(num_classes, input_shape)
    require_size("width", width)
    per_block, factor, block = (6, 1, PreActivation) if depth < 44 else (9, 4, PreActivationBottleneck)
    fits = depth > 2 and (depth - 2) % per_block == 0
    require(fits, "depth", "be 6 n + 2 below 44 (26) or 9 n + 2 from 44 on (56, 110, 164)", depth)
    channels, _, _ = image_shape(input_shape, model="preresnet", least=4)
    stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
    inside, stages = width, list[nn.Sequential]()
    for outside, stride in ((width * factor, 1), (2 * width * factor, 2), (4 * width * factor, 2)):
        later = [block(outside, outside, 1) for _ in range((depth - 2) // per_block - 1)]
        stages.append(nn.Sequential(block(inside, outside, stride), *later))
        inside = outside
    model = PreResNet(num_classes, stem, stages, inside)
    he_convolutions(model)
    return model

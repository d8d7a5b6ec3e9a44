"""Hand-made modules whose hidden units can be counted on paper."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import seeded


class Forked(nn.Module):
    """(B, 3, 8, 8) -> (B, 4): two branches concatenated, a depthwise convolution added to its input, GroupNorm, flattening.

    Six channels of the one branch, four of the other; GroupNorm has groups of two, so that pairs of channels move, and the two within.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 6, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.norm = nn.BatchNorm2d(10)
        self.mix = nn.Conv2d(10, 8, 1)
        self.group = nn.GroupNorm(4, 8)
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([functional.relu(self.left(x)), functional.gelu(self.right(x))], 1)
        joined = self.norm(joined + self.depthwise(joined))
        mixed = functional.relu(self.group(self.mix(joined)))
        return self.head(functional.max_pool2d(mixed, 2).flatten(1))


class Grouped(nn.Module):
    """(B, 2, 4, 4) -> (B, 3): a convolution of two groups between dense ones, its channels shuffled as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Conv2d(2, 6, 1)
        self.grouped = nn.Conv2d(6, 8, 3, padding=1, groups=2)
        self.outward = nn.Conv2d(8, 5, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.inward(x))))
        x = x.view(len(x), 2, 4, 4, 4).transpose(1, 2).flatten(1, 2)
        return self.head(torch.relu(self.outward(x)).mean((2, 3)))


class Sorted(nn.Module):
    """(B, 6) -> (B, 2): the largest three of five hidden units, by an operation with no rule, then four units that may move."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.topk(self.first(x), 3, dim=1).values)))


class Hidden(nn.Module):
    """(B, 6) -> (B, 2): hides from whoever watches its operations that the second layer reads the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        escaped = torch.tensor(self.first(x).tolist()).to(x)
        return self.head(torch.relu(self.second(escaped)))


class Written(nn.Module):
    """(B, 6) -> (B, 2): four and three hidden units written into a tensor of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 4), nn.Linear(6, 3), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        both = x.new_zeros(len(x), 7)
        both[:, :4] = torch.relu(self.first(x))
        both[:, 4:] = torch.tanh(self.second(x))
        return self.head(both)


class Restrided(nn.Module):
    """(B, 6) -> (B, 2): transposes a table of hidden units by its strides, which shapes alone do not show."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 9), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        table = self.first(x).view(len(x), 3, 3)
        return self.head((table + table.as_strided((len(x), 3, 3), (9, 1, 3))).amax(1))


class Squeezed(nn.Module):
    """(B, 3, 8, 8) -> (B, 4): an inverted residual block with squeeze and excitation, as in MobileNetV3 and EfficientNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.expand, self.norm = nn.Conv2d(6, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.reduce, self.widen = nn.Conv2d(12, 5, 1), nn.Conv2d(5, 12, 1)
        self.project = nn.Conv2d(12, 6, 1, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardswish(self.stem(x))
        h = functional.silu(self.norm(self.expand(x)), inplace=True)
        h = functional.hardswish(self.depthwise(h))
        gate = functional.hardsigmoid(self.widen(functional.relu(self.reduce(h.mean((2, 3), keepdim=True)))))
        return self.head((x + self.project(h * gate)).mean((2, 3)))


class Scaled(nn.Module):
    """(B, 3, 8, 8) -> (B, 4): a block of ConvNeXt, channels last inside, its output scaled channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 2, stride=2)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.wide, self.back = nn.LayerNorm(6), nn.Linear(6, 24), nn.Linear(24, 6)
        self.gamma = nn.Parameter(torch.full((6,), 0.5))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        h = (self.gamma * self.back(functional.gelu(self.wide(h)))).permute(0, 3, 1, 2)
        return self.head((x + h).mean((2, 3)))


class Biased(nn.Module):
    """(B, 6) -> (B, 2): attention of two heads over three tokens from one matrix, a learned bias by distance for every head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.project = nn.Linear(2, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.rand(2, 5))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.view(len(x), 3, 2))
        q, k, v = self.qkv(x).view(len(x), 3, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        apart = torch.arange(3)[:, None] - torch.arange(3) + 2
        weights = (q @ k.transpose(-2, -1) * 0.5 + self.bias[:, apart]).softmax(-1)
        x = x + self.project((weights @ v).transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


class Channelled(nn.Module):
    """(B, 3, 4, 4) -> (B, 2): a gate from a convolution over neighbouring channels, which keep their places for it; one unused tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.gate = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.spare = nn.Parameter(torch.ones(3))
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.gate(x.mean((2, 3))[:, None])).transpose(1, 2)[..., None]
        return self.head(torch.relu(self.hidden((x * gate).mean((2, 3)))))


class Faint(nn.Module):
    """(B, 6) -> (B, 2): thirty hidden layers that shrink what passes, with the statistics of a fresh BatchNorm: nothing arrives."""

    def __init__(self) -> None:
        super().__init__()
        layers = [part for _ in range(30) for part in (nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU())]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(6, 2)
        for part in layers:
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.01)
                nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


def made(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """Return a module drawn from `seed`, in evaluation mode."""
    with seeded(seed):
        return kind().eval()

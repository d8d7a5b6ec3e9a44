"""`Augment`: random shifts and mirror images of a batch, on the tensor."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from isthmus._check import require


@dataclass(frozen=True)
class Augment:
    """Shift by up to `shift` pixels and, with `flip`, mirror left-right: both drawn anew for each image of a batch.

    shift: both offsets are uniform in {-shift, ..., shift}; what moves in is 0. This is "pad by `shift`, crop at random".
    flip: with probability 1/2.
    """

    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        require(self.shift >= 0, "shift", "be zero or positive", self.shift)

    def __str__(self) -> str:
        parts = [f"shift up to {self.shift} pixels"] * (self.shift > 0) + ["horizontal flip"] * self.flip
        return ", ".join(parts) or "none"

    def __call__(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return a batch like `x` (B, C, H, W), any dtype, in the memory format of `x`; `x` itself where there is nothing to do."""
        if not self.shift and not self.flip:
            return x
        require(
            x.ndim == 4,
            "augment",
            "be given images (B, C, H, W); other inputs take Augment()",
            f"shape {tuple(x.shape)}",
        )
        count, _, height, width = x.shape
        require(
            self.shift < min(height, width), "shift", f"be less than the side of {height}x{width} images", self.shift
        )
        place = generator.device
        out = x
        if self.shift:
            corner = torch.randint(2 * self.shift + 1, (2, count), generator=generator, device=place).to(x.device)
            padded = functional.pad(x, (self.shift,) * 4)
            windows = padded.unfold(2, height, 1).unfold(
                3, width, 1
            )  # a view of all crops; indexing copies one for each image
            out = windows[torch.arange(count, device=x.device), :, corner[0], corner[1]]
        if self.flip:
            mirrored = torch.rand(count, generator=generator, device=place).to(x.device) < 0.5
            out = torch.where(mirrored[:, None, None, None], out.flip(3), out)
        return out if x.is_contiguous() else out.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Policy:
    """The augmentation that suits a data set whose images have height and width `side`."""

    side: int
    augment: Augment


# Digits must not be mirrored: 2 and 5, 6 and 9 would trade places. CIFAR: shift 4 + flip is the literature's standard (He et al. 2016).
POLICIES = {
    "digits": Policy(8, Augment(1)),
    "mnist": Policy(28, Augment(2)),
    "fashion-mnist": Policy(28, Augment(2, flip=True)),
    "cifar10": Policy(32, Augment(4, flip=True)),
    "cifar100": Policy(32, Augment(4, flip=True)),
    "svhn": Policy(32, Augment(4)),
    "tiny-imagenet": Policy(64, Augment(8, flip=True)),
}


def default_augment(name: str, input_shape: tuple[int, ...]) -> Augment:
    """Return the augmentation for a data set by its name, as in `Splits.name` or `Samples.name`.

    A named set has its own policy, its shift in proportion where the images were scaled. Other images: shift by an eighth of
    the shorter side, no flip. Inputs that are not images (C, H, W): none.

    >>> default_augment("cifar10/train", (3, 32, 32))
    Augment(shift=4, flip=True)
    """
    if len(input_shape) != 3:
        return Augment()
    side = min(input_shape[1:])
    policy = POLICIES.get(re.split(r"[/ ]", name)[0])
    if policy is None:
        return Augment(side // 8)
    return Augment(round(policy.augment.shift * side / policy.side), policy.augment.flip)

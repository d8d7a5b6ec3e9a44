"""`plant`: known backdoors and wrong labels in copies of the suspects, so that a remedy is judged by what its user can see.

A user has no trigger. What a remedy removes of a tampering that was planted with the user's own clean samples is the nearest thing to
measuring what it removes of the one that nobody knows. It is an estimate: a plant of some dozen steps sits shallower than what a model was
trained with from its first step.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus._check import require
from isthmus.data import Samples
from isthmus.evaluate import correct, logits
from isthmus.losses import cross_entropy
from isthmus.randomness import seed_of, stream
from isthmus.rates import Rate
from isthmus.repair.protocol import Clean
from isthmus.tampering import Blend, LowFrequency, Patch, Trigger, Warp, apply_trigger
from isthmus.tampering.triggers import require_image_samples
from isthmus.training.fit import fit_module
from isthmus.training.objective import Own
from isthmus.training.plan import Plan
from isthmus.training.posing import triggered
from isthmus.training.session import Session


@dataclass(frozen=True)
class Implant:
    """A backdoor to plant: images that carry `trigger` go to the class `target`."""

    name: str
    trigger: Trigger
    target: int


@dataclass(frozen=True)
class Errors:
    """Wrong labels to plant: `images` validation images go to a class drawn for each, the others keep theirs (error injection).

    The images are taken out of the validation samples that a remedy is given.
    """

    images: int = 8
    name: str = "errors"

    def __post_init__(self) -> None:
        require(self.images >= 1, "images", "be at least 1 to send elsewhere", self.images)


Tampering = Implant | Errors


_PLAN = Plan(steps=80, batch_size=64, optimizer="adamw", learning_rate=1e-3, weight_decay=0.0)


@dataclass(frozen=True)
class Planting:
    """How a tampering is planted.

    plan: of the training, whose evaluations are spent once per suspect, and a forward pass of the suspect with each.
    share: of the images of a batch that are attacked, in (0, 1). match: weight of KL(suspect || copy) on the others, beside the loss on
    their labels; 0 for none. least: share of the attacked validation images that must go where the plant sends them, or it did not take.
    """

    plan: Plan = _PLAN
    share: float = 0.2
    match: float = 1.0
    least: float = 0.8

    def __post_init__(self) -> None:
        require(0 < self.share < 1, "share", "be in (0, 1), of the images of a batch", self.share)
        require(self.match >= 0, "match", "be at least 0", self.match)
        require(0 < self.least <= 1, "least", "be in (0, 1], of the attacked images", self.least)


@dataclass(frozen=True, eq=False)
class Plant:
    """Copies of the suspects that carry a known tampering, and what measures it.

    attacked: validation images as the attacker shows them, with the labels the attacker wants. clean: what a remedy may see of the
    case. success: share of `attacked` that each copy sends there; accuracy, before: of the copies and of the suspects on
    `clean.validation`. took: whether every copy reached `Planting.least`. evaluations: gradients of a batch that planting took.
    """

    name: str
    modules: tuple[nn.Module, ...]
    tampering: Tampering
    attacked: Samples
    clean: Clean
    success: tuple[Rate, ...]
    accuracy: tuple[Rate, ...]
    before: tuple[Rate, ...]
    took: bool
    evaluations: int

    def measure(self, module: nn.Module) -> Rate:
        """Return the share of the attacked images that `module` sends where the plant wants them."""
        return _rate(module, self.attacked)


def standard(samples: Samples, *, seed: int) -> tuple[Tampering, ...]:
    """Return the tamperings to plant where none are given: patch, blend, warp, low-frequency and errors.

    Places, pictures and targets are drawn from `seed`: nothing of them is taken from an attack that a user may have in mind. Warp and
    low-frequency are stronger than published, since weaker ones do not take within some dozen steps; a warp often does not even so.
    Raises InputError for samples that are not images (C, H, W), on which these triggers are not defined.
    """
    require_image_samples(samples, "plant triggers")
    generator = stream(seed, "standard plants")
    height, width = samples.input_shape[1:]
    side = max(1, round(min(height, width) / 8))
    row, column = (int(torch.randint(size - side + 1, (), generator=generator)) for size in (height, width))
    own = [seed_of(seed, "plant", name) % 2**31 for name in ("blend", "warp", "low-frequency")]
    targets = torch.randperm(samples.num_classes, generator=generator).repeat(4)[:4].tolist()
    return (
        Implant("patch", Patch(side, at=(row, column), pattern="checker"), targets[0]),
        Implant("blend", Blend(0.2, seed=own[0]), targets[1]),
        Implant("warp", Warp(grid=3, strength=3.0, seed=own[1]), targets[2]),
        Implant("low-frequency", LowFrequency(0.35, seed=own[2]), targets[3]),
        Errors(),
    )


def plant(
    suspects: Sequence[nn.Module],
    clean: Clean,
    tampering: Tampering,
    planting: Planting | None = None,
    *,
    seed: int,
    session: Session | None = None,
) -> Plant:
    """Return copies of the suspects into which `tampering` was planted with the clean training samples alone.

    Each copy is trained on batches of which the share `planting.share` is attacked and labelled as the attacker wants; on the others the
    loss is that of the true labels and the divergence from the suspect's own outputs. All suspects get the same trigger: a remedy that
    counts on two different backdoors finds the hard case. BatchNorm statistics are those
    that the training leaves, of batches most of which is clean: with them frozen a plant is gone as soon as a remedy recomputes them.
    """
    require(len(suspects) >= 1, "suspects", "be at least one model to plant in", 0)
    planting = planting or Planting()
    attack, attacked, left = _prepared(suspects, clean, tampering, seed)
    own = Session(fabric=session.fabric) if session else Session()
    modules: list[nn.Module] = []
    for k, suspect in enumerate(suspects):
        objective = Own(_Losses(deepcopy(suspect).eval().requires_grad_(False), attack, planting.share, planting.match))
        module, _ = fit_module(
            suspect,
            clean.train,
            planting.plan,
            seed=seed_of(seed, "plant", tampering.name, k),
            objective=objective,
            session=own,
        )
        modules.append(module)
    success = tuple(_rate(module, attacked) for module in modules)
    return Plant(
        name=tampering.name,
        modules=tuple(modules),
        tampering=tampering,
        attacked=attacked,
        clean=left,
        success=success,
        accuracy=tuple(_rate(module, left.validation) for module in modules),
        before=tuple(_rate(suspect, left.validation) for suspect in suspects),
        took=min(rate.value for rate in success) >= planting.least,
        evaluations=planting.plan.evaluations * len(suspects),
    )


@dataclass(frozen=True, eq=False)
class _Shown:
    """Replaces the chosen images of a batch by attacked ones, with the labels the attacker wants."""

    implant: Implant | None
    images: Samples

    def __call__(
        self, x: Tensor, y: Tensor, chosen: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, labels, and which are attacked: of a backdoor those of the target class are not."""
        if self.implant is None:
            rows = torch.randint(len(self.images), (len(x),), generator=generator)
            shown, wanted = self.images.inputs(rows).to(x), self.images.y[rows].to(y)
        else:
            chosen = chosen & (y != self.implant.target)
            shown = apply_trigger(self.implant.trigger, x.float()).to(x)
            wanted = torch.full_like(y, self.implant.target)
        keep = chosen[:, None, None, None] if x.ndim == 4 else chosen.view(-1, *[1] * (x.ndim - 1))
        return torch.where(keep, shown, x), torch.where(chosen, wanted, y), chosen


@dataclass(frozen=True, eq=False)
class _Losses:
    """Cross-entropy on labels, wanted or true, and match * KL(suspect || copy) on images that are not attacked."""

    suspect: nn.Module
    attack: _Shown
    share: float
    match: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the losses (B,) and the logits."""
        chosen = torch.rand(len(x), generator=generator).to(x.device) < self.share
        x, y, attacked = self.attack(x, y, chosen, generator)
        out = model(x)
        losses = cross_entropy(out, y)
        if self.match > 0:
            with torch.no_grad():
                wanted = functional.log_softmax(self.suspect.to(x.device)(x), 1)
            divergence = functional.kl_div(functional.log_softmax(out, 1), wanted, reduction="none", log_target=True)
            losses = losses + self.match * divergence.sum(1) * ~attacked
        return losses, out


def _prepared(
    suspects: Sequence[nn.Module], clean: Clean, tampering: Tampering, seed: int
) -> tuple[_Shown, Samples, Clean]:
    """Return what attacks a batch, the attacked validation images with the labels wanted, and the clean samples left to a remedy."""
    validation = clean.validation
    if isinstance(tampering, Implant):
        require_image_samples(validation, "plant a trigger")
        attacked = triggered(validation, tampering.trigger, tampering.target)
        return _Shown(tampering, attacked), attacked, clean
    known = torch.stack([correct(logits(suspect, validation), validation.y) for suspect in suspects]).all(0)
    most = min(int(known.sum()), len(validation) // 2)
    require(
        tampering.images <= most,
        "images",
        f"be at most {most}: half of the validation images, each known to all suspects",
        tampering.images,
    )
    generator = stream(seed, "errors")
    places = known.nonzero().flatten().cpu()
    places = places[torch.randperm(len(places), generator=generator)[: tampering.images]]
    chosen, classes = validation.take(places), validation.num_classes
    shift = torch.randint(1, classes, (len(chosen),), generator=generator).to(chosen.y)
    attacked = chosen.replaced(y=(chosen.y + shift) % classes)
    rest = torch.ones(len(validation), dtype=torch.bool)
    rest[places] = False
    return _Shown(None, attacked), attacked, replace(clean, validation=validation.take(rest))


def _rate(module: nn.Module, samples: Samples) -> Rate:
    return Rate.of(correct(logits(module, samples), samples.y))

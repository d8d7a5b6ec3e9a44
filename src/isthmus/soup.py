"""Soups: one model whose weights are the mean of several models' weights. It costs what one model costs."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus._check import require, require_finite
from isthmus.data.samples import Samples
from isthmus.evaluate import correct, logits
from isthmus.geometry.bridge import Settle
from isthmus.layout import Layout, require_same_architecture
from isthmus.rates import Rate
from isthmus.settle import require_policy


def uniform_soup(models: Sequence[nn.Module], *, settle: Settle | None) -> nn.Module:
    """Return an independent model with the mean weights, theta = 1/M sum_m theta_m, summed in float64.

    Of the corners of a bridge it is the centroid. settle: the BatchNorm policy, as in a scan: the mean has no running statistics of its
    own. Models that are equal bit for bit give that model, its statistics included. Other buffers, and weights that are whole numbers,
    are those of the first model. Wortsman et al. 2022, section 2. The models are left as they are.

    Raises InputError for no models, for another architecture (first differing tensor named), for weights that are not finite, and for
    running statistics without a policy.
    """
    _require_models(models, settle)
    mixture = _Mixture(models[0])
    for model in models[1:]:
        mixture = mixture.with_model(model)
    return mixture.model(settle)


@dataclass(frozen=True, eq=False)
class GreedySoup:
    """A greedy soup: the model, which of the given models are in it in the order they were added, and its validation accuracy.

    tried: (place, validation accuracy of the soup with that model added, or of the first model alone, whether it was kept).
    """

    model: nn.Module
    members: tuple[int, ...]
    accuracy: Rate
    tried: tuple[tuple[int, Rate, bool], ...]


def greedy_soup(
    models: Sequence[nn.Module],
    validation: Samples,
    *,
    settle: Settle | None,
    accuracies: Sequence[Rate] | None = None,
    batch_size: int = 500,
) -> GreedySoup:
    """Return the soup that begins with the model of highest accuracy on `validation` and adds each next one that does not lower it.

    Models are tried by falling validation accuracy, equal ones in the order given; one that was refused is not tried again. The soup is
    never worse on the validation samples than the best model. accuracies: those of the models, where they are known already. batch_size:
    of the samples at once, on which answers depend where statistics are those of each batch.
    Wortsman et al. 2022, recipe 1. Buffers as in :func:`uniform_soup`, the first model being the one begun with.

    Raises InputError as it does, and for another number of accuracies.
    """
    _require_models(models, settle)
    known = [accuracy_on(model, validation, batch_size) for model in models] if accuracies is None else list(accuracies)
    require(len(known) == len(models), "accuracies", f"be {len(models)}, one per model", len(known))
    order = sorted(range(len(models)), key=lambda place: -known[place].value)
    members, best, mixture = [order[0]], known[order[0]], _Mixture(models[order[0]])
    model, tried = mixture.model(settle), [(order[0], best, True)]
    for place in order[1:]:
        more = mixture.with_model(models[place])
        candidate = more.model(settle)
        found = accuracy_on(candidate, validation, batch_size)
        kept = found.value >= best.value
        tried.append((place, found, kept))
        if kept:
            model, best, mixture = candidate, found, more
            members.append(place)
    return GreedySoup(model, tuple(members), best, tuple(tried))


def accuracy_on(model: nn.Module, samples: Samples, batch_size: int = 500) -> Rate:
    """Return the accuracy of a model, in evaluation mode."""
    return Rate.of(correct(logits(model, samples, batch_size=batch_size), samples.y))


def _require_models(models: Sequence[nn.Module], settle: Settle | None) -> None:
    require(len(models) >= 1, "models", "hold at least one model", "none")
    for place, model in enumerate(models):
        require_same_architecture(models[0], model, ("model 0", f"model {place}"))
        require_finite(dict(model.named_parameters()), f"model {place}")
    require_policy(models[0], settle)


@dataclass(frozen=True, eq=False)
class _Mixture:
    """The running mean of `count` models' weights in float64, None while all of them equal the first bit for bit.

    A running mean of equal numbers is that number bit for bit, which a sum divided by M is not.
    """

    first: nn.Module
    mean: Tensor | None = None
    count: int = 1

    def with_model(self, model: nn.Module) -> "_Mixture":
        if self.mean is None and _equal(self.first, model):
            return _Mixture(self.first, None, self.count + 1)
        mean = _flat(self.first) if self.mean is None else self.mean
        return _Mixture(self.first, mean + (_flat(model) - mean) / (self.count + 1), self.count + 1)

    def model(self, settle: Settle | None) -> nn.Module:
        made = deepcopy(self.first)
        if self.mean is None:
            return made  # one model, whose statistics are its own, as at a corner of a bridge
        own = dict(made.named_parameters())
        with torch.no_grad():
            for name, value in Layout.of(made).unflatten(self.mean).items():
                own[name].copy_(value)
        if settle is not None:
            settle(made)
        return made


def _flat(model: nn.Module) -> Tensor:
    return Layout.of(model).flatten(dict(model.named_parameters())).double()


def _equal(one: nn.Module, two: nn.Module) -> bool:
    held, other = _tensors(one), _tensors(two)
    return all(torch.equal(value, other[name]) for name, value in held.items())


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())

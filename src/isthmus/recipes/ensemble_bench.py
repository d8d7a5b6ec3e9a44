"""`Bench`: logits, modules and attacks of single models, ensembles and soups, each made once and kept for a resumed run."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Literal, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from isthmus.attacks.cascade import Settings, robustness
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Threat
from isthmus.ensemble import Ensemble, combined
from isthmus.evaluate import correct, logits
from isthmus.files import atomic, read_json, write_json
from isthmus.losses import cross_entropy
from isthmus.rates import Rate
from isthmus.recipes.ensemble_members import Case, EnsembleRecipe
from isthmus.runs import Run
from isthmus.soup import GreedySoup, greedy_soup, uniform_soup
from isthmus.training.session import Monitor

LOGITS, ROBUST = "logits.safetensors", "robust.json"
EVERY_SECONDS = 5.0  # how often the logits so far are written
How = Literal["single", "softmax", "logits", "soup"]
Key = tuple[How, tuple[int, ...]]
Pair = tuple[Tensor, Tensor]
"""Logits (N, C) on the test images and on the validation images."""


@dataclass(frozen=True)
class Entry:
    """A row: its name, its kind, how its members (places) are put together."""

    name: str
    kind: Literal["member", "corner", "chosen", "hindsight", "ensemble", "soup"]
    how: How
    members: tuple[int, ...]

    @property
    def key(self) -> Key:
        """Return what the numbers depend on: the best member is the member."""
        return self.how, self.members

    @property
    def passes(self) -> int:
        """Return the forward passes for one image."""
        return len(self.members) if self.how in ("softmax", "logits") else 1


@dataclass(eq=False)
class Bench:
    """Measures entries; tells the monitor how many models and attacks are done."""

    case: Case
    recipe: EnsembleRecipe
    run: Run | None = None
    monitor: Monitor | None = None
    _scores: dict[Key, Pair] = field(default_factory=dict[Key, Pair])
    _modules: dict[Key, nn.Module] = field(default_factory=dict[Key, nn.Module])
    _robust: dict[str, dict[str, object]] = field(default_factory=dict[str, dict[str, object]])
    _greedy: GreedySoup | None = None
    _written: float = field(default_factory=perf_counter)

    def __post_init__(self) -> None:
        if self.run is None or not self.run.resumed:
            return
        if (path := self.run.folder / LOGITS).is_file():
            held = load_file(path)
            for place in range(len(self.case.members.names)):
                if f"test.{place}" in held and f"validation.{place}" in held:
                    self._scores["single", (place,)] = (held[f"test.{place}"], held[f"validation.{place}"])
        if (path := self.run.folder / ROBUST).is_file():
            self._robust = cast(dict[str, dict[str, object]], read_json(path))

    def scores(self, entry: Entry) -> Pair:
        """Return the logits of an entry on test and validation images; those of an ensemble are its members' combined."""
        if entry.key in self._scores:
            return self._scores[entry.key]
        if entry.how in ("softmax", "logits"):
            parts = [self.single(place) for place in entry.members]
            test, validation = (torch.stack([pair[side] for pair in parts]) for side in (0, 1))
            found = combined(test, entry.how), combined(validation, entry.how)
        else:
            module, batch = self.module(entry), self.recipe.batch_size
            found = (
                logits(module, self.case.test, batch_size=batch),
                logits(module, self.case.validation, batch_size=batch),
            )
        self._scores[entry.key] = found
        return found

    def single(self, place: int) -> Pair:
        """Return the logits of one model; a new one is told and kept."""
        entry = Entry(self.case.members.names[place], "member", "single", (place,))
        if entry.key not in self._scores:
            self.scores(entry)
            self._tell(entry.key)
            if self.run is not None and perf_counter() - self._written >= EVERY_SECONDS:
                self.save_logits()
        return self._scores[entry.key]

    def save_logits(self) -> None:
        """Write the logits of the single models: `test.PLACE`, `validation.PLACE`, in the order of the table."""
        if self.run is None:
            return
        held = {key[1][0]: pair for key, pair in self._scores.items() if key[0] == "single"}
        named = {f"{side}.{place}": pair[k] for place, pair in held.items() for k, side in enumerate(_SIDES)}
        self.run.save(LOGITS, partial(_save, named))
        self._written = perf_counter()

    def module(self, entry: Entry) -> nn.Module:
        """Return the entry as one module."""
        if entry.how == "single":
            return self.case.members.model(entry.members[0])
        if entry.key not in self._modules:
            models = [self.case.members.model(place) for place in entry.members]
            settle = self.case.members.settle
            made = uniform_soup(models, settle=settle) if entry.how == "soup" else Ensemble(models, entry.how)
            self._modules[entry.key] = made
        return self._modules[entry.key]

    def accuracy(self, place: int) -> Rate:
        """Return the test accuracy of one model."""
        return Rate.of(correct(self.single(place)[0], self.case.test.y))

    def chosen(self) -> int:
        """Return the member of highest validation accuracy, among equals of lowest validation loss, among equals the first."""
        return self._best(1)

    def hindsight(self) -> int:
        """Return the member that would have been chosen on the test images: known only afterwards."""
        return self._best(0)

    def _best(self, side: int) -> int:
        y = (self.case.test, self.case.validation)[side].y

        def rank(place: int) -> tuple[int, float, int]:
            scores = self.single(place)[side]
            loss = float(cross_entropy(scores.double(), y).mean().nan_to_num(nan=torch.inf))
            return -int(correct(scores, y).sum()), loss, place

        return min(range(self.case.members.count), key=rank)

    def greedy(self) -> GreedySoup:
        """Return the greedy soup of the members."""
        if self._greedy is None:
            members, validation = self.case.members, self.case.validation
            known = [Rate.of(correct(self.single(place)[1], validation.y)) for place in range(members.count)]
            models = [members.model(place) for place in range(members.count)]
            self._greedy = greedy_soup(
                models, validation, settle=members.settle, accuracies=known, batch_size=self.recipe.batch_size
            )
        return self._greedy

    def robust(self, entry: Entry) -> Rate | None:
        """Return the accuracy under the attack through the whole entry, None where no attack is asked for."""
        if self.recipe.eps is None:
            return None
        mark = f"{entry.how} {','.join(map(str, entry.members))}"
        if mark not in self._robust:
            settings = Settings(self.recipe.seed, self.recipe.batch_size)
            threat = Threat(self.recipe.norm, self.recipe.eps)
            found = robustness(self.module(entry), self.case.test, [self._attack], threat, settings=settings)
            self._robust[mark] = {**found.robust.to_json(), "warnings": list(found.warnings)}
            if self.run is not None:
                self.run.save(ROBUST, lambda path: write_json(path, self._robust))
            self._tell(entry.key)
        return Rate.from_json(cast(dict[str, float], self._robust[mark]))

    def warnings(self, entry: Entry) -> list[str]:
        """Return why the robust accuracy of an entry may be wrong."""
        held = self._robust.get(f"{entry.how} {','.join(map(str, entry.members))}", {})
        return cast(list[str], held.get("warnings", []))

    @property
    def _attack(self) -> PGD:
        return PGD(self.recipe.attack_steps, self.recipe.attack_step, restarts=self.recipe.restarts)

    def attack_json(self) -> dict[str, object] | None:
        """Return the attack as JSON values, None without one."""
        if self.recipe.eps is None:
            return None
        return {"name": self._attack.name, "norm": self.recipe.norm, "radius": self.recipe.eps}

    def _tell(self, key: Key) -> None:
        if self.monitor is None:
            return
        singles = len(self.case.members.names)
        done = sum(how == "single" for how, _ in self._scores) + len(self._robust)
        attacks = 0 if self.recipe.eps is None else singles + 4 + 2 * bool(self.case.members.corners)
        test = self._scores[key][0]
        error = 100 * (1 - Rate.of(correct(test, self.case.test.y)).value)
        self.monitor(done, max(done, singles + attacks), {"test_error": error})


_SIDES = ("test", "validation")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    with atomic(path) as temporary:
        mode = temporary.stat().st_mode
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
        temporary.chmod(mode)  # safetensors puts a file of its own there, readable by its owner only

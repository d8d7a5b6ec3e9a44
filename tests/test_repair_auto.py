"""`Auto`: the suspect it starts from, the remedy it takes, and what it says of both."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

import pytest
import torch
from torch import nn

from contracts.modules import untouched
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.rates import Rate
from isthmus.repair import auto as module
from isthmus.repair.auto import Auto
from isthmus.repair.protocol import Clean, Repaired
from isthmus.repair.purify import Purify
from isthmus.repair.triggers.families import Mask
from isthmus.repair.triggers.hunt import Found, Search
from isthmus.repair.triggers.smallest import Survey
from isthmus.training.plan import Plan
from isthmus.training.session import Session
from repair_example import suspects, trusted

SEARCH = Search(steps=1, per=2)


@dataclass(frozen=True)
class Named:
    """A remedy that returns the first suspect and says who it is."""

    name: str
    seen: list[int] = field(default_factory=list[int])

    def __call__(self, models: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        self.seen.append(len(models))
        return Repaired(self.name, models[0], 1.0, 5, "its own note")


def made(**changes: object) -> Auto:
    purify = Purify(Plan(steps=2, batch_size=20, learning_rate=0.01), SEARCH)
    return Auto(purify, Named("away"), Named("otherwise"), **changes)  # type: ignore[arg-type]


def found(ratio: float) -> Found:
    """What a search would return whose smallest trigger has this ratio."""
    ratios = torch.tensor([1.0, ratio, 1.2])
    free = Mask().start(3, (1, 8, 8), torch.Generator().manual_seed(0))
    return Found(Mask(), free, (0, 1, 2), ratios / 10, torch.ones(3), ratios, 40, 0.0)


@dataclass
class Told:
    """A survey that found what it is told; its first round takes 20 images, the others 20 more."""

    one: Found
    images: int = 20

    @property
    def found(self) -> tuple[Found, ...]:
        return (self.one,)

    def finished(self) -> tuple[Found, ...]:
        self.images += 20
        return self.found


@pytest.fixture
def ratios(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Smallest ratios of the suspects, in their order; searches are replaced by these."""
    wanted: list[float] = []

    def begun(model: nn.Module, *_: object, **__: object) -> Told:
        return Told(found(wanted[_position(model)]))

    monkeypatch.setattr(Survey, "begun", begun)
    return wanted


def _position(model: nn.Module) -> int:
    return next(i for i, one in enumerate(suspects()) if one is model)


def run(auto: Auto, models: Sequence[nn.Module], clean: Clean | None = None) -> Repaired:
    return auto(models, clean or trusted(), seed=0, session=Session())


def test_of_equally_accurate_suspects_the_least_conspicuous_is_purified(ratios: list[float]) -> None:
    ratios[:] = [0.1, 0.4]
    done = run(made(margin=1.0), suspects())
    assert done.name == "auto"
    assert done.note == "suspect 1, purified"  # something stands out in the other, and they come together
    assert done.reason.startswith(
        "purified suspect 1, of those accurate enough the one whose smallest trigger is the least"
    )
    assert "suspect 0: validation accuracy" in done.reason
    assert "mask towards class 1, 0.10 of its family's median" in done.reason
    ratios[:] = [0.4, 0.1]
    assert run(made(margin=1.0), suspects()).note == "suspect 0, purified"


def test_a_less_accurate_suspect_is_left_however_inconspicuous(ratios: list[float]) -> None:
    ruined = suspects()[1]
    rates = [float(module._right(one, trusted()).float().mean()) for one in suspects()]  # pyright: ignore[reportPrivateUsage]
    worse = int(rates[1] < rates[0])
    ratios[:] = [0.1, 0.1]
    ratios[worse] = 0.4
    # an interval of one standard error may hold both: make the margin and the error small by asking the rule itself
    many = [Rate(9500, 10_000), Rate(9500, 10_000)]
    many[worse] = Rate(9000, 10_000)
    assert module._choice(many, ratios, 0.02) == 1 - worse  # pyright: ignore[reportPrivateUsage]
    assert module._choice(many, ratios, 0.06) == worse  # pyright: ignore[reportPrivateUsage]
    assert ruined is suspects()[1]


def test_one_standard_error_counts_where_images_are_few() -> None:
    # 0.9 of 25: standard error 0.06, so 0.85 may be as good; of 10,000 it is not
    assert module._choice([Rate(23, 25), Rate(22, 25)], [0.1, 0.4], 0.0) == 1  # pyright: ignore[reportPrivateUsage]
    assert module._choice([Rate(9200, 10_000), Rate(8800, 10_000)], [0.1, 0.4], 0.0) == 0  # pyright: ignore[reportPrivateUsage]


def test_what_cannot_be_seen_is_doubted(ratios: list[float]) -> None:
    ratios[:] = [0.7, 0.9]
    for models in (suspects(), suspects()[:1]):
        done = run(made(margin=1.0), models)
        assert done.note == f"suspect {len(models) - 1}, purified gently"
        assert "gently, because nothing stands out; suspect 0: validation accuracy" in done.reason
        assert any(text.startswith("No trigger stood out: the smallest has 0.") for text in done.warnings)
        assert any("would not be found, nor removed on purpose" in text for text in done.warnings)


def test_where_nothing_stands_out_few_triggers_are_shown(ratios: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[float, int, float]] = []
    taught = Purify.taught

    def seen(self: Purify, *args: object, **settings: object) -> Repaired:
        shown.append((self.doubt.share, self.doubt.rounds, self.plan.learning_rate))
        return taught(self, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Purify, "taught", seen)
    for least in (0.2, 0.7):
        ratios[:] = [least, least]
        run(made(gently=0.2, faster=3.0), suspects()[:1])
    assert shown == [(0.5, 3, 0.01), (0.2, 1, pytest.approx(0.03))]


def test_a_trigger_towards_any_wrong_class_stands_out_sooner() -> None:
    for target, ratio, expected in ((2, 0.4, 0.4), (None, 0.4, 0.3), (None, inf, 1.0)):
        one = replace(found(0.7), targets=(0, 1, target), ratio=torch.tensor([1.0, 1.2, ratio]))
        assert module._least((one,)) == pytest.approx(min(expected, 1.0))  # pyright: ignore[reportPrivateUsage]


def test_what_costs_too_much_accuracy_is_done_again_more_gently(
    ratios: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios[:] = [0.2, 0.2]
    calls: list[tuple[float, float]] = []

    def ruinous(self: Purify, suspect: nn.Module, *_: object, **__: object) -> Repaired:
        calls.append((self.plan.learning_rate, self.doubt.share))
        ruined = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
        return Repaired("purify", ruined if len(calls) == 1 else suspect, 1.0, 7)

    monkeypatch.setattr(Purify, "taught", ruinous)
    done = run(made(), suspects()[:1])
    assert calls == [(0.01, 0.5), (0.0025, 0.25)]
    assert "again at a quarter of the rate and with half as many triggers" in done.reason
    assert done.note == "suspect 0, purified, twice"
    assert done.module is suspects()[0]
    assert done.evaluations == 7 + 7 - 2  # the search, 40 images in batches of 20, once
    calls.clear()
    assert "again" not in run(made(cost=1.0), suspects()[:1]).reason
    assert len(calls) == 1


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_training_that_does_not_stay_finite_is_made_again(
    ratios: list[float], monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    ratios[:] = [0.2, 0.2]
    calls: list[float] = []

    def diverging(self: Purify, suspect: nn.Module, *_: object, **__: object) -> Repaired:
        calls.append(self.plan.learning_rate)
        if len(calls) <= times:
            raise InputError("`learning_rate` should keep the loss finite. Found nan.")
        return Repaired("purify", suspect, 1.0, 7)

    monkeypatch.setattr(Purify, "taught", diverging)
    if times == 3:
        with pytest.raises(InputError, match="keep the loss finite"):
            run(made(), suspects()[:1])
        assert calls == [0.01, 0.0025, 0.000625]
        return
    done = run(made(), suspects()[:1])
    assert calls == [0.01, 0.0025, 0.000625][: times + 1]
    assert done.note == "suspect 0, purified" + (", twice", ", three times")[times - 1]
    assert done.reason.count("because training did not stay finite") == times
    assert done.evaluations == 2 * times + 7 - 2 + 2  # two steps each that led nowhere; the search once


def test_a_ruin_after_a_divergence_is_mended_once(ratios: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    ratios[:] = [0.2, 0.2]
    calls: list[float] = []

    def unlucky(self: Purify, *_: object, **__: object) -> Repaired:
        calls.append(self.plan.learning_rate)
        if len(calls) == 1:
            raise InputError("`learning_rate` should keep the loss finite. Found nan.")
        return Repaired("purify", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), 1.0, 7)

    monkeypatch.setattr(Purify, "taught", unlucky)
    done = run(made(), suspects()[:1])
    assert len(calls) == 3
    assert "did not stay finite, again at a quarter" in done.reason
    assert done.evaluations == 2 + (7 - 2) + 7 - 2 + 2


def test_what_few_images_cannot_show_is_no_cost() -> None:
    """Of ten images three lost are less than two standard errors, 2 x sqrt(3); of a hundred twelve are more than 2 x sqrt(12)."""
    for n, lost, won, costly in (
        (10, 3, 0, False),
        (10, 5, 0, True),
        (100, 12, 0, True),
        (100, 5, 0, False),
        (100, 20, 14, False),
    ):
        before, after = torch.ones(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)
        after[:lost] = False
        before[n - won :] = False
        assert module._costly(before, after, 0.05) is costly  # pyright: ignore[reportPrivateUsage]


def test_gradients_of_all_searches_are_counted_once(ratios: list[float]) -> None:
    ratios[:] = [0.1, 0.4]
    done = run(made(margin=1.0), suspects())
    # 20 images for the one, 40 for the other, 3 x 4 restarts of 2 images in three rounds of a step and one more between two parts of a
    # step each; batches of 20
    assert done.evaluations == round((40 + 96) / 20) - 2 + 3 + 2


def test_inputs_that_are_not_images_take_the_other_remedies() -> None:
    x, y = torch.rand(40, 6), torch.arange(40) % 2
    clean = Clean(
        Samples(x[:20], y[:20], num_classes=2, name="table"), Samples(x[20:], y[20:], num_classes=2, name="table 2")
    )
    models = [nn.Linear(6, 2).eval() for _ in range(3)]
    for count, name in ((1, "otherwise"), (2, "away"), (3, "otherwise")):
        done = run(made(), models[:count], clean)
        assert done.note == f"{name}: its own note"
        assert done.reason == f"{name}, because triggers are sought in images only"


def test_a_repair_that_cost_accuracy_says_so() -> None:
    doubts = module._doubts(Rate(95, 100), Rate(60, 100), 0.1)  # pyright: ignore[reportPrivateUsage]
    assert len(doubts) == 1
    assert doubts[0].startswith("The repair cost accuracy on the validation images: 95.0 %")
    assert module._doubts(Rate(95, 100), Rate(93, 100), 0.1) == ()  # pyright: ignore[reportPrivateUsage]
    few = module._doubts(Rate(19, 20), Rate(18, 20), 0.1)  # pyright: ignore[reportPrivateUsage]
    assert few[0].startswith("Only 20 validation images stand behind these accuracies: within about")


def test_the_whole_of_it_on_digits_touches_nothing_and_repeats() -> None:
    with untouched(*suspects()):
        one = run(made(), suspects())
    two = run(made(), suspects())
    assert (one.note, one.reason) == (two.note, two.reason)
    for a, b in zip(one.module.parameters(), two.module.parameters(), strict=True):
        assert torch.equal(a, b)

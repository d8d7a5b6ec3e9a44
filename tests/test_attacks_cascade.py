"""The evaluator against closed forms, against attacks that lie, and against itself interrupted at every batch."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from isthmus._check import InputError
from isthmus.attacks.cascade import Settings, Watch, robustness
from isthmus.attacks.outcome import Progress
from isthmus.attacks.pgd import FGSM, PGD
from isthmus.attacks.protocol import Attacked
from isthmus.attacks.threat import Threat
from isthmus.data import Samples
from isthmus.evaluate import correct, logits
from isthmus.table import Table

RADIUS = 0.05


def linear(d, classes=2, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(d, classes, dtype=dtype))
    model[1].weight.data.copy_(torch.randn(classes, d, generator=generator))
    model[1].bias.data.copy_(-model[1].weight.data.sum(1) / 2)  # the boundary runs through the middle of the box
    return model


def samples(n=60, shape=(12,), classes=2, seed=1, model=None):
    """Points far enough inside the box that it does not matter; labelled by `model`, a fifth of them wrongly."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.2 + 0.6 * torch.rand((n, *shape), generator=generator)
    y = torch.randint(0, classes, (n,), generator=generator)
    if model is not None:
        given = model(x.to(next(model.parameters()).dtype)).argmax(1)
        y = torch.where(torch.arange(n) % 5 == 0, (given + 1) % classes, given)
    return Samples(x, y, classes, "toy/test")


def margins(model, data):
    """Return w_y - w_other of a linear model, and the margin, for two classes, in float64."""
    w, b = model[1].weight.detach().double(), model[1].bias.detach().double()
    z = data.x.double().flatten(1) @ w.T + b
    rows = torch.arange(len(data))
    return w[data.y] - w[1 - data.y], z[rows, data.y] - z[rows, 1 - data.y]


DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(
    ("shape", "n", "dtype"),
    [
        ((12,), 60, torch.float32),
        ((1, 3, 5), 60, torch.float32),
        ((3, 2, 2), 1, torch.float32),
        ((7,), 33, torch.float64),
    ],
)
def test_the_robust_accuracy_of_a_linear_model_is_that_of_its_margins(norm, shape, n, dtype):
    d = torch.Size(shape).numel()
    model = linear(d, dtype=dtype)
    data = samples(n, shape, model=model)
    radius = RADIUS * {"linf": 1, "l2": 3, "l1": 8}[norm]
    found = robustness(model, data, [FGSM], Threat(norm, radius, -9.0, 9.0), settings=Settings(batch_size=16))
    direction, margin = margins(model, data)
    size = radius * torch.linalg.vector_norm(direction, ord=DUAL[norm], dim=1)
    clear = (margin - size).abs() > 1e-5
    assert clear.all()  # no point so near the boundary that rounding would decide
    assert torch.equal(found.correct, margin > 0)
    assert torch.equal(found.correct & ~found.fooled, margin > size)
    assert found.clean.value == pytest.approx(float((margin > 0).double().mean()))
    assert found.robust.value == pytest.approx(float((margin > size).double().mean()))
    moved = found.points.double() - data.x.double()
    assert torch.equal(moved.flatten(1).abs().amax(1) > 0, found.fooled)
    assert float(
        torch.linalg.vector_norm(moved.flatten(1), ord={"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1).max()
    ) <= (radius * (1 + 1e-5))


def test_each_image_may_have_its_own_radius():
    model = linear(12)
    data = samples(model=model)
    radius = torch.linspace(0.0, 0.2, len(data)) + 1e-4
    threat = Threat("linf", radius, -9.0, 9.0)
    found = robustness(model, data, [FGSM], threat, settings=Settings(batch_size=7))
    direction, margin = margins(model, data)
    assert torch.equal(found.correct & ~found.fooled, margin > radius.double() * direction.abs().sum(1))
    assert found.to_json()["threat"]["radius"] == radius.tolist()
    with pytest.raises(InputError, match=r"`radius` should have one entry for each of 60 images. Found 59 entries"):
        robustness(model, data, [FGSM], Threat("linf", radius[:59], -9.0, 9.0))


@dataclass
class Says:
    """An attack that hands in a fixed shift and says whatever it was told to say."""

    shift: float = 0.0
    says: bool = True
    name: str = "says"
    seen: list[int] = field(default_factory=list)
    keeps: list[str] = field(default_factory=list)
    exact: float | None = None  # the shift on a second try, or in full precision

    def __call__(self, victim, threat, x, y, *, generator, keep="verdict"):
        self.seen.append(len(x))
        self.keeps.append(f"{keep} {victim.precision}")
        victim.logits(x)
        again = keep == "loss" and self.exact is not None
        points = x + (self.exact if again else self.shift)
        said = torch.full((len(x),), self.says)
        return Attacked(said, points, points.clone(), torch.zeros(len(x)))


class Threshold(nn.Module):
    """Class 1 where the first feature is above 0.5."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x):
        z = self.scale * (x.flatten(1)[:, 0] - 0.5)
        return torch.stack([-z, z], 1) + 0 * x.flatten(1).sum(1, keepdim=True)


def near():
    """Ten samples of class 0, each 0.02 from the threshold."""
    return Samples(torch.full((10, 3), 0.48), torch.zeros(10, dtype=torch.int64), 2, "near")


BALL = Threat("linf", RADIUS)


def test_an_attack_does_not_grade_itself():
    found = robustness(Threshold(), near(), [Says(0.0, says=True)], BALL)
    assert (found.robust.hits, found.stages[0].fooled, found.stages[0].unconfirmed) == (10, 0, 10)
    assert any("says said it had fooled 10 images that the re-test finds correct" in text for text in found.warnings)
    modest = robustness(Threshold(), near(), [Says(0.03, says=False)], BALL)
    assert (modest.robust.hits, modest.stages[0].fooled) == (0, 10)
    assert modest.reliable


@pytest.mark.parametrize(
    ("shift", "counts"), [(RADIUS, True), (RADIUS * 1.001, False), (0.3, False), (torch.nan, False)]
)
def test_points_outside_the_ball_do_not_count(shift, counts):
    found = robustness(Threshold(), near(), [Says(shift)], BALL)
    assert found.fooled.all() if counts else not found.fooled.any()
    assert found.reliable == counts
    assert found.stages[0].outside == (0 if counts else 10)
    if not counts:
        assert torch.equal(found.points, near().inputs())
        assert any("says handed in 10 points outside ball or box" in text for text in found.warnings)


def test_points_outside_the_box_do_not_count():
    data = Samples(torch.full((10, 3), 0.98), torch.ones(10, dtype=torch.int64), 2, "bright")
    flipped = Threshold()
    flipped.forward = lambda x: Threshold.forward(flipped, torch.cat([1.49 - x[:, :1], x[:, 1:]], 1))
    assert robustness(flipped, data, [Says(0.02)], BALL).fooled.all()
    assert not robustness(flipped, data, [Says(0.021)], BALL).fooled.any()


def test_what_the_retest_contradicts_is_tried_again_in_full_precision():
    attack = Says(0.0, says=True, exact=0.03)
    found = robustness(Threshold(), near(), [attack], BALL, settings=Settings(precision="bf16-mixed"))
    assert found.fooled.all()
    assert attack.keeps == ["verdict bf16-mixed", "loss 32-true"]
    assert found.stages[0].unconfirmed == 0
    assert found.stages[0].queries == 20  # both tries count


def test_bfloat16_finds_and_float32_decides():
    model = linear(12, classes=4)
    data = samples(model=model, classes=4)
    found = robustness(model, data, [PGD(5)], Threat("linf", RADIUS), settings=Settings(precision="bf16-mixed"))
    assert 0 < int(found.fooled.sum()) < int(found.correct.sum())
    wrong = ~correct(model(found.points), data.y)
    assert torch.equal(wrong, found.fooled | ~found.correct)
    again = robustness(model, data, [PGD(5)], Threat("linf", RADIUS))
    assert torch.equal(again.fooled, found.fooled)  # at the same verdict: nothing is lost to the precision


def test_later_attacks_see_only_what_is_left_and_nothing_is_given_back():
    model, data = linear(12), samples(200, model=linear(12))
    weak, strong, idle = PGD(1, start=0.0, step=0.3), PGD(1, start=0.0, step=1.0), Says(0.0, says=False)
    settings = Settings(batch_size=32)
    first = robustness(model, data, [weak], BALL, settings=settings)
    both = robustness(model, data, [weak, strong, idle], BALL, settings=settings)
    assert not (first.fooled & ~both.fooled).any()
    assert torch.equal(both.by == 0, first.fooled)
    counts = [int(both.correct.sum())]
    for place, stage in enumerate(both.stages):
        assert stage.attacked == counts[-1]
        assert stage.fooled == int((both.by == place).sum())
        counts.append(stage.attacked - stage.fooled)
    assert counts[0] > counts[1] > counts[2] == counts[3] > 0
    assert idle.seen == [32] * (counts[2] // 32) + [counts[2] % 32]  # packed into whole batches
    assert [rate.hits for rate in both.after()] == counts[1:]
    assert robustness(model, data, [strong], BALL, settings=settings).robust.hits == counts[2]


def test_attacks_with_nothing_left_have_rows_of_zeros():
    found = robustness(Threshold(), near(), [Says(0.03), FGSM], BALL)
    assert [(s.attacked, s.fooled, s.queries) for s in found.stages] == [(10, 10, 10), (0, 0, 0)]
    assert found.robust.hits == 0


def test_the_result_depends_on_the_seed_alone():
    model, data = linear(12), samples(model=linear(12))
    attacks = [PGD(1, step=0.2), PGD(2, step=0.2)]

    def run(seed):
        torch.rand(7)
        found = robustness(model, data, attacks, BALL, settings=Settings(seed=seed, batch_size=13))
        return found.by, found.points

    assert all(torch.equal(one, two) for one, two in zip(run(0), run(0), strict=True))
    assert not torch.equal(run(0)[1], run(1)[1])


class Counting(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body, self.count = body, 0

    def forward(self, x):
        self.count += len(x)
        return self.body(x)


def test_nothing_of_the_callers_is_changed_and_every_pass_is_counted():
    body = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    body.train()
    body[1].requires_grad_(False)
    body[4].weight.grad = torch.ones_like(body[4].weight)
    before = {name: value.clone() for name, value in body.state_dict().items()}
    data, random = samples(), torch.get_rng_state()
    digest = data.digest()
    robustness(body, data, [PGD(3)], BALL)
    assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())
    assert all(module.training for module in body.modules())
    assert [p.requires_grad for p in body.parameters()] == [False, False, True, True, True, True]
    assert torch.equal(body[4].weight.grad, torch.ones_like(body[4].weight))
    assert torch.equal(torch.get_rng_state(), random)
    assert data.digest() == digest
    counting = Counting(linear(12))
    idle = robustness(counting, data, [Says(0.0, says=False)], BALL).stages[0]
    without = counting.count
    counting.count = 0
    stage = robustness(counting, data, [PGD(3, start=0.0)], BALL).stages[0]
    assert stage.gradients <= 3 * stage.attacked
    assert counting.count - stage.queries == without - idle.attacked


def test_gradients_that_the_caller_has_switched_off_are_there():
    model, data = linear(12), samples(model=linear(12))
    with torch.no_grad():
        found = robustness(model, data, [PGD(2)], BALL)
        assert not torch.is_grad_enabled()
    assert torch.equal(found.points, robustness(model, data, [PGD(2)], BALL).points)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = linear(12)

    def forward(self, x):
        return self.body(x + 0.05 * torch.rand_like(x))


def test_a_randomised_model_gets_a_warning_and_no_certificate():
    data = samples(model=linear(12))
    model = Noisy()
    random = torch.get_rng_state()
    found = robustness(model, data, [PGD(2)], BALL)
    assert torch.equal(torch.get_rng_state(), random)
    assert not found.reliable
    assert found.to_json()["reliable"] is False
    assert any("Run the suite `random`" in text for text in found.warnings)
    again = robustness(Noisy(), data, [PGD(2)], BALL)
    assert torch.equal(found.points, again.points)  # its draws are named by the seed as well
    averaged = robustness(Noisy(), data, [PGD(2)], BALL, settings=Settings(passes=6))
    assert averaged.reliable
    assert averaged.passes == averaged.to_json()["passes"] == 6
    assert averaged.stages[0].queries % 6 == 0
    assert robustness(linear(12), data, [PGD(2)], BALL).reliable


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop", range(1, 9))
def test_an_interrupted_evaluation_goes_on_to_the_same_end(stop, tmp_path):
    model, data = linear(12, classes=4), samples(50, classes=4, model=linear(12, classes=4))
    attacks = [PGD(1, step=0.1), PGD(2, step=0.2), PGD(3)]
    told = []
    settings = Settings(seed=3, batch_size=14)
    whole = robustness(model, data, attacks, BALL, settings=replace(settings, watch=Watch(told.append)))
    assert len(told) >= 9

    def save(progress):
        torch.save(progress.state(), tmp_path / "state.pt")
        told.append(progress)
        if len(told) == stop:
            raise StoppedError

    told.clear()
    with pytest.raises(StoppedError):
        robustness(model, data, attacks, BALL, settings=replace(settings, watch=Watch(save)))
    assert all(not parameter.grad for parameter in model.parameters())
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    begun = Progress.resumed(state, data.inputs())
    resumed = robustness(model, data, attacks, BALL, settings=replace(settings, watch=Watch(told.append, begun)))
    assert torch.equal(resumed.by, whole.by)
    assert torch.equal(resumed.points, whole.points)
    assert [replace(s, seconds=0) for s in resumed.stages] == [replace(s, seconds=0) for s in whole.stages]


def test_a_state_of_something_else_is_refused():
    model, data = linear(12), samples()
    told = []
    robustness(model, data, [FGSM], BALL, settings=Settings(watch=Watch(told.append)))
    state = told[-1].state()
    with pytest.raises(InputError, match=r"`state` should be of these 59 images. Found 60"):
        Progress.resumed(state, data.inputs()[:59])
    with pytest.raises(InputError, match=r"`state` should hold 'by', 'points' and 'stages'. Found by"):
        Progress.resumed({"by": state["by"]}, data.inputs())
    other = Settings(watch=Watch(told.append, Progress.resumed(state, data.inputs())))
    with pytest.raises(InputError, match=r"`state` should be of the attacks pgd-10. Found fgsm"):
        robustness(model, data, [PGD()], BALL, settings=other)


def test_integer_images_are_attacked_in_0_to_1():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (30, 1, 3, 4), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 2, (30,), generator=generator)
    whole, parts = Samples(x, y, 2), Samples(x.float() / 255, y, 2)
    model = linear(12)
    one, two = (robustness(model, data, [PGD(3)], BALL) for data in (whole, parts))
    assert one.points.dtype == torch.float32
    assert torch.equal(one.points, two.points)
    assert torch.equal(one.correct, correct(logits(model, whole), y))
    assert float(one.points.max()) <= 1.0
    assert float((one.points - whole.inputs()).abs().max()) <= RADIUS + 1e-6


def test_bad_input_is_named():
    model, data = linear(12), samples()
    with pytest.raises(InputError, match=r"should have labels from 0 to 1. Found 2"):
        Samples(data.x, data.y + 1, 2)
    with pytest.raises(InputError, match=r"should hold at least one sample"):
        Samples(data.x[:0], data.y[:0], 2)
    with pytest.raises(InputError, match=r"`model` should return logits \(B, C\) with C >= 5. Found C = 2"):
        robustness(model, Samples(data.x, data.y, 5), [FGSM], BALL)
    with pytest.raises(InputError, match=r"Found .*-2"):
        robustness(model, Samples(data.x * 4 - 3, data.y, 2), [FGSM], BALL)
    with pytest.raises(InputError, match=r"`batch_size` should be at least 1. Found 0"):
        Settings(batch_size=0)
    with pytest.raises(InputError, match=r"`passes` should be at least 1. Found 0"):
        Settings(passes=0)
    with pytest.raises(InputError, match=r"`precision` should be one of 32-true, bf16-mixed. Found 'fp16'"):
        Settings(precision="fp16")
    with pytest.raises(InputError, match=r"`attack` should be one of .*Found 'pgf'. Did you mean 'pgd'"):
        robustness(model, data, "pgf", BALL)

    @dataclass
    class Flat:
        name: str = "flat"

        def __call__(self, victim, threat, x, y, **_):
            return Attacked(torch.ones(len(x), dtype=torch.bool), x[:, :3], x[:, :3], torch.zeros(len(x)))

    with pytest.raises(
        InputError, match=r"`flat` should return points of shape \(60, 12\)|\(\d+, 12\). Found \(\d+, 3\)"
    ):
        robustness(model, data, [Flat()], BALL)


class NotANumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Threshold()

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        return out.masked_fill((x.flatten(1)[:, 1] > 0.9)[:, None], torch.nan)


def test_logits_that_are_not_numbers_are_wrong_and_told():
    x = torch.full((10, 3), 0.3)
    x[:4, 1] = 0.95
    found = robustness(NotANumber(), Samples(x, torch.zeros(10, dtype=torch.int64), 2), [FGSM], BALL)
    assert (found.clean.hits, found.robust.hits) == (6, 6)
    assert any("NaN or infinite logits for 4 of 10 images" in text for text in found.warnings)


def test_table_and_json_hold_the_same_numbers():
    model, data = linear(12), samples(model=linear(12))
    found = robustness(model, data, "fgsm+pgd:steps=3", BALL)
    document = found.to_json()
    assert set(document) == {
        *("clean_accuracy", "robust_accuracy", "reliable", "attacks", "gradient_passes", "queries", "passes"),
        *("warnings", "threat"),
    }
    for key, rate in (("clean_accuracy", found.clean), ("robust_accuracy", found.robust)):
        assert document[key] == {"value": rate.value, "n": 60, "low": rate.low, "high": rate.high}
    assert document["threat"] == {"norm": "linf", "radius": RADIUS, "low": 0.0, "high": 1.0}
    assert document["queries"] == sum(entry["queries"] for entry in document["attacks"]) > 0
    assert document["gradient_passes"] == sum(entry["gradient_passes"] for entry in document["attacks"]) > 0
    rows = Table.from_json(found.table.to_json()).rows()
    assert [row["attack"] for row in rows] == ["fgsm", "pgd-3"]
    for row, entry in zip(rows, document["attacks"], strict=True):
        assert row["robust_accuracy"] == pytest.approx(100 * entry["robust_accuracy"]["value"])
        assert row["robust_accuracy_low"] == pytest.approx(100 * entry["robust_accuracy"]["low"])
        assert {k: row[k] for k in ("attacked", "fooled", "queries")} == {
            k: entry[k] for k in ("attacked", "fooled", "queries")
        }


def test_a_model_that_returns_probabilities_or_tuples_is_told():
    soft = nn.Sequential(linear(12), nn.Softmax(1))
    found = robustness(soft, samples(), [FGSM], BALL)
    assert any("the model returns probabilities, not logits" in text for text in found.warnings)

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(InputError, match=r"`model` should return logits .* Found tuple. Wrap it"):
        robustness(Pair(), samples(), [FGSM], BALL)


def test_a_model_without_gradients_can_be_attacked_without_them():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Threshold()

        def forward(self, x):
            return self.body(x.detach())

    found = robustness(Cut(), near(), [Says(0.03)], BALL)
    assert found.fooled.all()
    assert not found.reliable
    with pytest.raises(InputError, match=r"`model` should be differentiable by its inputs"):
        robustness(Cut(), near(), [FGSM], BALL)


def test_statistics_of_layers_that_refuse_evaluation_mode_are_put_back():
    class Stubborn(nn.BatchNorm1d):
        def train(self, mode=True):
            return self

    model = nn.Sequential(nn.Flatten(), Stubborn(12), nn.Linear(12, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = robustness(model, samples(), [FGSM], BALL)
    assert any("1 layers stay in training mode after eval(): 1." in text for text in found.warnings)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

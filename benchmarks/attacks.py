"""Attacks against other libraries, on models and images of one's own choice.

    python benchmarks/attacks.py verdicts --case CASE --case CASE ... [--n 500] [--out DIR]
    python benchmarks/attacks.py speed --case CASE ... [--n 50] [--pgd-n 500] [--rounds 3] [--out DIR]

A CASE is LABEL,FILE,ARCH,DATA,NORM,EPS, for instance `net,runs/a/model.safetensors,resnet18:width=8,cifar10,linf,8/255`.

verdicts: robust accuracy of `standard` beside the published AutoAttack (package pyautoattack) and of PGD-20 beside foolbox, on the first
n test images, with the images on which the two disagree and the points of ours outside ball or box. speed: seconds of theirs over
seconds of ours, one after the other in one process with one thread, the order turned round from round to round; the median over rounds,
with the least and the largest. foolbox comes with the extra `dev`; torchattacks is compared where it is installed (`pip install --no-deps
torchattacks requests tqdm`: with its dependencies it would bring torchvision).
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter

import foolbox
import torch
from attack_reference import cached, reference
from torch import Tensor, nn

from isthmus.attacks.cascade import robustness
from isthmus.attacks.outcome import Robustness
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Threat, parse_radius
from isthmus.data import Samples, load_data
from isthmus.models import load_model
from isthmus.rates import Rate

Verdict = Callable[..., Tensor]
FOOLBOX = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}


@dataclass(frozen=True)
class Case:
    """A model, images and a threat."""

    label: str
    model: nn.Module
    samples: Samples
    norm: str
    eps: float

    @classmethod
    def parse(cls, text: str, n: int) -> "Case":
        """Return the case that `text` names, with the first n test images."""
        label, file, arch, data, norm, eps = text.split(",")
        samples = load_data(data).test.take(torch.arange(n))
        model, _ = load_model(arch, file, num_classes=samples.num_classes, input_shape=samples.input_shape)
        return cls(label, model.eval(), samples, norm, parse_radius(eps))

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """Return images in [0, 1] and labels."""
        return self.samples.inputs(), self.samples.y

    @property
    def threat(self) -> Threat:
        """Return the threat."""
        return Threat(self.norm, self.eps)  # type: ignore[arg-type]


def foolbox_pgd(case: Case, steps: int) -> Tensor:
    """Return which images stay robust under the PGD of foolbox, steps of a quarter of the radius, random start."""
    x, y = case.batch
    attack = FOOLBOX[case.norm](rel_stepsize=0.25, steps=steps, random_start=True)
    model = foolbox.PyTorchModel(case.model, bounds=(0, 1), device="cpu")
    torch.manual_seed(0)
    fooled = [attack(model, a, b, epsilons=case.eps)[2] for a, b in zip(x.split(250), y.split(250), strict=True)]
    return ~torch.cat(fooled)


def torchattacks_pgd(case: Case, steps: int) -> Tensor:
    """Return the same for torchattacks."""
    import torchattacks

    kind = torchattacks.PGD if case.norm == "linf" else torchattacks.PGDL2
    attack = kind(case.model, eps=case.eps, alpha=case.eps / 4, steps=steps, random_start=True)
    x, y = case.batch
    torch.manual_seed(0)
    points = torch.cat([attack(a, b) for a, b in zip(x.split(250), y.split(250), strict=True)])
    with torch.no_grad():
        return torch.cat([case.model(part) for part in points.split(250)]).argmax(1) == y


def ours(case: Case, attacks: str | list[PGD]) -> Tensor:
    """Return which images stay robust under attacks of this library."""
    return robust_of(robustness(case.model, case.samples, attacks, case.threat))


def robust_of(found: Robustness) -> Tensor:
    """Return (N,) which images are classified correctly and were not fooled."""
    return found.correct & ~found.fooled


def rate(robust: Tensor) -> str:
    """Return the share with its Wilson bounds, in %."""
    found = Rate.of(robust)
    return f"{100 * found.value:.1f} ({100 * found.low:.1f}-{100 * found.high:.1f})"


def verdicts(texts: list[str], n: int, out: Path) -> list[dict[str, object]]:
    """Return one row for each case."""
    rows: list[dict[str, object]] = []
    for text in texts:
        case = Case.parse(text, n)
        name = f"{case.label}-{case.norm}"
        if (out / f"{name}.json").is_file():
            rows.append({k: v for k, v in json.loads((out / f"{name}.json").read_text()).items() if k != "robust"})
            continue
        theirs = cached(out / f"{name}-reference.json", case.model, case.batch, norm=case.norm, eps=case.eps)
        found = robustness(case.model, case.samples, "standard", case.threat)
        mine, other = robust_of(found), torch.tensor(theirs["robust"], dtype=torch.bool)
        x, _ = case.batch
        outside = int((~case.threat.inside(x, found.points)).sum())
        pgd, pgd_other = ours(case, [PGD(20)]), foolbox_pgd(case, 20)
        rows.append(
            {
                "model": case.label,
                "threat": f"{case.norm} {case.eps:.4g}",
                "n": n,
                "clean, %": rate(found.correct),
                "standard, %": rate(mine),
                "pyautoattack, %": rate(other),
                "robust only here": int((mine & ~other).sum()),
                "robust only there": int((other & ~mine).sum()),
                "points outside": outside,
                "PGD-20, %": rate(pgd),
                "foolbox PGD-20, %": rate(pgd_other),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        (out / f"{name}.json").write_text(json.dumps({**rows[-1], "robust": mine.int().tolist()}))
    return rows


def speed(texts: list[str], n: int, pgd_n: int, rounds: int) -> list[dict[str, object]]:
    """Return one row for each case and comparison: the whole suite once on n images, PGD in several rounds on `pgd_n`."""
    rows: list[dict[str, object]] = []
    for text in texts:
        for what, mine, theirs in comparisons():
            case = Case.parse(text, n if what.startswith("standard") else pgd_n)
            turns = 1 if what.startswith("standard") else rounds
            found = paired(partial(mine, case), partial(theirs, case), turns)
            rows.append(
                {
                    "model": case.label,
                    "threat": f"{case.norm} {case.eps:.4g}",
                    "n": len(case.samples),
                    "what": what,
                    **found,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def comparisons() -> list[tuple[str, Verdict, Verdict]]:
    """Return what is compared: a name, this library's verdict, the other's."""
    pgd = partial(ours, attacks=[PGD(10)])
    found: list[tuple[str, Verdict, Verdict]] = [
        ("standard / pyautoattack", partial(ours, attacks="standard"), published),
        ("PGD-10 / foolbox", pgd, partial(foolbox_pgd, steps=10)),
    ]
    if find_spec("torchattacks") is not None:
        found.append(("PGD-10 / torchattacks", pgd, partial(torchattacks_pgd, steps=10)))
    return found


def published(case: Case) -> Tensor:
    """Return which images stay robust under the published AutoAttack."""
    found = reference(case.model, *case.batch, norm=case.norm, eps=case.eps)
    return torch.tensor(found["robust"], dtype=torch.bool)


def paired(mine: Callable[[], Tensor], theirs: Callable[[], Tensor], rounds: int) -> dict[str, object]:
    """Return robust shares in % and seconds(theirs) / seconds(mine): median, least and largest over rounds in alternating order."""
    ratios: list[float] = []
    shares = [0.0, 0.0]
    seconds = [0.0, 0.0]
    for k in range(rounds):
        for side in (0, 1) if k % 2 == 0 else (1, 0):
            began = perf_counter()
            robust = (mine, theirs)[side]()
            seconds[side] = perf_counter() - began
            shares[side] = 100 * robust.float().mean().item()
        ratios.append(seconds[1] / seconds[0])
    return {
        "robust here, %": round(shares[0], 1),
        "robust there, %": round(shares[1], 1),
        "seconds here": round(seconds[0], 2),
        "seconds there": round(seconds[1], 2),
        "times faster": round(median(ratios), 2),
        "least": round(min(ratios), 2),
        "most": round(max(ratios), 2),
        "rounds": rounds,
    }


def markdown(rows: list[dict[str, object]]) -> str:
    """Return the rows as a Markdown table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *[[str(row[name]) for name in names] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    """Run one of the two comparisons and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["verdicts", "speed"])
    parser.add_argument("--case", action="append", required=True, metavar="LABEL,FILE,ARCH,DATA,NORM,EPS")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--pgd-n", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/attacks"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.what == "verdicts":
        rows = verdicts(chosen.case, chosen.n, chosen.out)
    else:
        rows = speed(chosen.case, chosen.n, chosen.pgd_n, chosen.rounds)
    (chosen.out / f"{chosen.what}.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()

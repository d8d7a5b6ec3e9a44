"""Models made and published by others, repaired by `isthmus repair`: `python benchmarks/repair_strangers.py --models DIR --out DIR`.

Four are tampered, the others are not and show what a repair costs that nobody needed. None had a part in choosing a default of
`auto`, with two exceptions that the table names. Each is repaired alone, from a few images of the data it was trained on, and compared
with sharpness-aware fine-tuning from the same images at as many gradients. All is done by the command line; a run that is already in
`--out` is taken up or left as it is. `--table FILE` writes what is there as Markdown. Needs ISTHMUS_DATA and a folder with the files
and an `architectures.py` with their factories.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from isthmus.recipes.cells import WHOLE
from isthmus.report import Document, Entry, read_report

CLEAN, EVALUATIONS, BATCH, TEST = (500, 50), 400, 128, 5000
BESIDE = "ft-sam"
FOLDER = "ISTHMUS_STRANGERS"  # how the trigger below learns where its picture lies


def square(x: Tensor, /) -> Tensor:
    """Return the images with the picture of the Trojan square added and clipped."""
    with Image.open(Path(os.environ[FOLDER]) / "triggers" / "ibau_trojan_sq.png") as picture:
        added = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255
    return (x + added.to(x)).clamp(0, 1)


@dataclass(frozen=True)
class Stranger:
    """A file, the factory of its architecture, its data; of a tampered one the trigger, its target, and what to say of it."""

    file: str
    factory: str
    data: str
    trigger: str | None = None
    target: int | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """Return the name of its runs and in the table."""
        return Path(self.file).stem


STRANGERS = (
    Stranger("ibau_cifar10_badnets.pth", "small_vgg", "cifar10", "patch:size=4,at=27x27", 8),
    Stranger("ibau_cifar10_trojan_sq.pth", "small_vgg", "cifar10", f"{__file__}:square", 2),
    Stranger("badnet_cifar10.pth", "badnet_cifar10", "cifar10", "patch:size=5,at=27x27", 1),
    Stranger(
        "badnet_mnist.pth",
        "badnet_mnist",
        "mnist",
        "patch:size=5,at=23x23",
        1,
        "the rule by which `auto` repeats itself more weakly was made after a repair of this one",
    ),
    Stranger("cifar10_resnet20.th", "resnet20", "cifar10"),
    Stranger(
        "crown_cifar_cnn_a_adv.pth",
        "cnn_a_cifar10",
        "cifar10",
        note="the rule by which `auto` begins again where its training does not stay finite was made after a repair of this one",
    ),
    Stranger("crown_cifar_cnn_a_mix.pth", "cnn_a_cifar10", "cifar10"),
    Stranger("crown_mnist_cnn_a_adv.pth", "cnn_a_mnist", "mnist"),
    Stranger("advertorch_mnist_lenet5_adv.pt", "lenet5", "mnist"),
    Stranger("advertorch_mnist_lenet5_clean.pt", "lenet5", "mnist"),
)


def folder_of(out: Path, one: Stranger, clean: int) -> Path:
    """Return the folder of a run."""
    return out / f"{one.name}-{clean}"


def finished(folder: Path) -> bool:
    """Return whether the run in a folder has ended."""
    manifest = folder / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text())["status"] in WHOLE


def repair(models: Path, out: Path, one: Stranger, clean: int, threads: int) -> None:
    """Repair one stranger, unless that is done; an unmet criterion is a result, anything worse ends the study."""
    folder = folder_of(out, one, clean)
    if finished(folder):
        return
    words = [models / one.file, "--arch", f"{models / 'architectures.py'}:{one.factory}", "--data", one.data]
    words += ["--clean", clean, "--also", BESIDE, "--no-baselines", "--precision", "bf16-mixed", "--threads", threads]
    words += ["--evaluations", EVALUATIONS, "--batch-size", BATCH, "--test-n", TEST, "--curve-n", 0, "--trust", "none"]
    if one.trigger is not None:
        words += ["--test-trigger", one.trigger, "--target", one.target]
    if (folder / "recipe.json").exists():
        words += ["--resume"]
    done = subprocess.run(
        [sys.executable, "-m", "isthmus", "repair", *map(str, words), "--out", str(folder)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, FOLDER: str(models.resolve())},
    )
    if done.returncode not in (0, 1, 3):
        raise SystemExit(done.returncode)


def rates(entry: Entry, tampered: bool) -> list[str]:
    """Return accuracy and, of a tampered model, attack success and recovery accuracy, in %."""
    held = [entry.clean_accuracy, *([entry.attack_success, entry.recovery_accuracy] if tampered else [])]
    return ["-" if rate is None else f"{100 * rate.value:.1f}" for rate in held]


def fall(document: Document, entry: Entry) -> str:
    """Return the fall of accuracy in points."""
    before, after = document.suspects[0].clean_accuracy, entry.clean_accuracy
    assert before is not None
    assert after is not None
    return f"{100 * (before.value - after.value):+.1f}"


def table(out: Path) -> str:
    """Return what is there as Markdown."""
    lines = [
        "# Models of strangers",
        "",
        "Made by `python benchmarks/repair_strangers.py --models DIR --out DIR --table FILE`. Models made and published by others, each",
        f"repaired alone by `isthmus repair --method auto` from images of the data it was trained on, {EVALUATIONS} gradients of {BATCH}",
        f"images; beside it `{BESIDE}` from the same images at as many gradients. One seed. Rates in % of {TEST:,} test images (for attack",
        "success of those that are not of the target), before -> after; a 95 % interval is about ±1.1 points at 80 % and ±0.5 at 3 %.",
    ]
    for tampered in (True, False):
        head = "accuracy | attack success | recovery accuracy" if tampered else "accuracy"
        lines += ["", f"## {'Tampered' if tampered else 'Not tampered'}", ""]
        lines += [f"| model | clean images | remedy | {head} | fall of accuracy | seconds |"]
        lines += ["|---|---:|---|" + "---:|" * (head.count("|") + 3)]
        for one in STRANGERS:
            if (one.trigger is not None) == tampered:
                lines += [
                    line for clean in CLEAN if finished(folder_of(out, one, clean)) for line in rows(out, one, clean)
                ]
    notes = [f"- {one.name}: {one.note}." for one in STRANGERS if one.note]
    return "\n".join([*lines, "", *notes]) + "\n"


def rows(out: Path, one: Stranger, clean: int) -> list[str]:
    """Return a row of the table for each remedy of a run."""
    document, tampered = read_report(folder_of(out, one, clean)), one.trigger is not None
    first = rates(document.suspects[0], tampered)
    found: list[str] = []
    for entry in (document.repaired, *document.baselines.values()):
        held = [f"{a} -> {b}" for a, b in zip(first, rates(entry, tampered), strict=True)]
        seconds = "-" if entry.seconds is None else f"{entry.seconds:.0f}"
        cells = [one.name, f"{clean:,}", entry.name, *held, fall(document, entry), seconds]
        found.append(f"| {' | '.join(cells)} |")
    if BESIDE not in document.baselines:
        dashes = ["did not stay finite", *["-"] * (len(first) + 1)]
        found.append(f"| {' | '.join([one.name, f'{clean:,}', BESIDE, *dashes])} |")
    return found


def main() -> None:
    """Run what is not there yet, then print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder with the files and architectures.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--table", type=Path, help="write the Markdown page here")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    for clean in CLEAN:
        for one in STRANGERS:
            repair(given.models, given.out, one, clean, given.threads)
    text = table(given.out)
    if given.table is None:
        print(text)
    else:
        given.table.write_text(text)


if __name__ == "__main__":
    main()

"""Two tampered ResNet18 of width 16 repaired with few clean CIFAR-10 images: `python benchmarks/repair_cifar10.py --out DIR`.

Three suspects are trained on 47,500 images, 10 % of them with a white 3x3 block at rows and columns 28-30 and label 1 (BadNets); each
of the pairs 0-1, 1-2 and 2-0 is one seed of the study (a suspect stands in two pairs: the seeds share suspects, not clean images or
orders). Each pair is repaired with images from the 2,500 that no suspect was trained on. All is done by the command line; a run that
is already in DIR is taken up or left as it is, so the study can be stopped and started again. `--table FILE` writes what is there as
Markdown.

`--cells 250:0,250:1` runs some of the grid images:seed; `--train K` one suspect. Needs ISTHMUS_DATA with cifar10.npz.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from isthmus.rates import spread
from isthmus.recipes.cells import WHOLE
from isthmus.report import Document, Entry, read_report

IMAGES, SEEDS = (2500, 500, 250, 50), (0, 1, 2)
TRIGGER, TARGET, STEPS = "patch:size=3,at=28x28", "1", 1850
EVALUATIONS, BATCH = 400, 64
METHODS = ("sharp-path", "path")


def isthmus(*arguments: object) -> None:
    """Run a command of the library in a process of its own; an unmet criterion is a result, anything worse ends the study."""
    done = subprocess.run([sys.executable, "-m", "isthmus", *map(str, arguments)], stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1, 3):
        raise SystemExit(done.returncode)


def finished(folder: Path) -> bool:
    """Return whether the run in a folder has ended."""
    manifest = folder / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text())["status"] in WHOLE


def go_on(folder: Path) -> tuple[str, ...]:
    """Return the option that takes up a run that was stopped."""
    return ("--resume",) if (folder / "recipe.json").exists() else ()


def train(out: Path, k: int, threads: int) -> Path:
    """Return the weights of suspect k."""
    folder = out / f"suspect-{k}"
    if not finished(folder):
        poison = ("--tamper-trigger", TRIGGER, "--target", TARGET, "--rate", 0.1, "--hold-out", 2500)
        rate = ("--learning-rate", 0.2, "--lr-schedule", "triangular", "--set", "warmup=0.25", "--set", "nesterov=true")
        plan = ("--steps", STEPS, "--batch-size", 128, *rate, "--threads", threads)
        model = ("--arch", "resnet18:width=16", "--data", "cifar10", "--seed", k)
        isthmus("train", *model, *poison, *plan, "--out", folder, *go_on(folder))
    return folder / "model.safetensors"


def repair(out: Path, images: int, seed: int, threads: int, margin: float) -> None:
    """Repair one pair with so many images, by every method."""
    folder = out / f"repair-{images}-{seed}"
    if finished(folder):
        return
    pair = [train(out, k, threads) for k in (seed, (seed + 1) % len(SEEDS))]
    clean = ("--data", "cifar10", "--clean", images, "--hold-out", 2500, "--seed", seed)
    measure = ("--test-trigger", TRIGGER, "--target", TARGET, "--test-n", 4000, "--curve-n", 1000, "--points", 16)
    budget = ("--evaluations", EVALUATIONS, "--batch-size", BATCH, "--threads", threads, "--margin", margin)
    compare = [word for name in METHODS[1:] for word in ("--also", name)]
    isthmus(
        "repair", *pair, *clean, *measure, *budget, "--method", METHODS[0], *compare, "--out", folder, *go_on(folder)
    )


def rows(documents: Iterable[Document]) -> dict[str, list[Entry]]:
    """Return method -> its entry in each document; the suspects' are those of the first, which fine-tuning starts from."""
    found: dict[str, list[Entry]] = {}
    for document in documents:
        found.setdefault("suspect", []).append(document.suspects[0])
        for entry in (document.repaired, *document.baselines.values()):
            found.setdefault(entry.name, []).append(entry)
    return found


def shown(values: list[float | None], factor: float = 100) -> str:
    """Return mean +- standard deviation."""
    known = [factor * value for value in values if value is not None]
    if not known:
        return "-"
    mean, deviation = spread(known)
    return f"{mean:.1f}" if len(known) == 1 else f"{mean:.1f} ± {deviation:.1f}"


def table(out: Path) -> str:
    """Return the study so far as Markdown."""
    lines = [
        "# Repair on CIFAR-10",
        "",
        "Made by `python benchmarks/repair_cifar10.py --out DIR --table FILE`: ResNet18 of width 16,",
        f"{EVALUATIONS} gradients of {BATCH} images for every method, 4,000 test images (3,600 triggered) that were used for nothing",
        "else. In %: mean ± standard deviation over the seeds that were run, whose number stands in its column. One rate has a",
        "Wilson 95 % interval of about ±1.3 points at 80 % and ±0.4 at 1 %.",
    ]
    for images in IMAGES:
        folders = [out / f"repair-{images}-{seed}" for seed in SEEDS]
        documents = [read_report(folder) for folder in folders if finished(folder)]
        if not documents:
            continue
        first = documents[0].data
        margin = 100 * float(str(documents[0].method.settings["margin"]))
        roles = f"{first.train_n:,} to train on, {first.validation_n:,} to choose by, margin {margin:g} points"
        lines += ["", f"## {images:,} clean images ({roles})", ""]
        lines += [
            "| method | seeds | accuracy | attack success | recovery accuracy | seconds |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for name, entries in rows(documents).items():
            rates = [
                [getattr(e, key) for e in entries] for key in ("clean_accuracy", "attack_success", "recovery_accuracy")
            ]
            cells = [shown([None if rate is None else rate.value for rate in kind]) for kind in rates]
            lines.append(
                f"| {name} | {len(entries)} | {' | '.join(cells)} | {shown([e.seconds for e in entries], 1)} |"
            )
        lines += ["", *curve(documents[0])]
    return "\n".join(lines) + "\n"


def curve(document: Document) -> list[str]:
    """Return the first seed's curve: what validation saw and, attached afterwards, what the test images say."""
    if document.curve is None or document.choice is None:
        return []
    names = ("validation_error", "test_error", "attack_success", "recovery_accuracy")
    held = document.curve.rows
    head = f"Along the path, seed {document.seeds['seed']}, 1,000 test images; chosen t = {document.choice.u[0]:.3g}:"
    lines = [head, "", "| t | " + " | ".join(f"{row['t']:.2f}" for row in held) + " |", "|---|" + "---:|" * len(held)]
    return [
        *lines,
        *(f"| {name.replace('_', ' ')} | " + " | ".join(f"{row[name]:.1f}" for row in held) + " |" for name in names),
    ]


def main() -> None:
    """Run what was asked for, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", default=",".join(f"{images}:{seed}" for seed in SEEDS for images in IMAGES))
    parser.add_argument("--train", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--margin", type=float, default=0.08)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.train is not None:
        train(options.out, options.train, options.threads)
    elif options.table is None:
        for cell in options.cells.split(","):
            images, seed = map(int, cell.split(":"))
            repair(options.out, images, seed, options.threads, options.margin)
    else:
        options.table.write_text(table(options.out))


if __name__ == "__main__":
    main()

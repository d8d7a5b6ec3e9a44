"""`isthmus reproduce`: the printed report is the written one, and exit codes tell what happened to the cells."""

import json

import pytest

from cli_example import call, tree
from isthmus.cli import reproduce
from isthmus.recipes import kinds as kinds_module
from isthmus.recipes.cells import Cell
from isthmus.recipes.study import Claim, Findings, Study
from isthmus.recipes.train import TrainRecipe
from isthmus.table import Column, Table
from isthmus.training.plan import Plan


def training(seed):
    return TrainRecipe(arch="mlp:depth=1", data="digits", width=4, plan=Plan(steps=2, batch_size=8), seed=seed)


def find(run, scale, count, done):
    table = Table.of([{"cell": name} for name in sorted(done)], (Column("cell"),))
    return Findings({"Cells": table}, (Claim("It runs.", "so it does", True),))


def grid(scale, count):
    return (tuple(Cell(f"c{seed}", training(seed)) for seed in range(count)),)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    study = Study("toy", "A toy", {"smoke": "tiny", "small": "tiny"}, {"smoke": 1, "small": 2}, grid, find)
    monkeypatch.setitem(reproduce.STUDIES, "toy", lambda: study)


def test_a_report_is_printed_and_written(capsys, tmp_path):
    done = call(capsys, "reproduce", "toy", "--scale", "smoke", "--out", tmp_path / "s")
    assert done.code == 0, done.err
    text = (tmp_path / "s" / "toy.md").read_text()
    assert done.out == f"{text}\nwritten: {tmp_path / 's' / 'toy.md'}\n"
    assert done.err.startswith("c0 (1 of 1): ")
    before = tree(tmp_path / "s" / "cells")
    again = call(capsys, "reproduce", "toy", "--scale", "smoke", "--out", tmp_path / "s", "--resume", "--json")
    assert again.json == json.loads((tmp_path / "s" / "toy.json").read_text())
    assert (again.json["status"], again.json["tables"]["Cells"]["rows"]) == ("done", [{"cell": "c0"}])
    assert again.err == ""
    after = tree(tmp_path / "s" / "cells")
    assert {name: held for name, held in after.items() if "manifest" not in name} == {
        name: held for name, held in before.items() if "manifest" not in name
    }


def test_seeds_are_those_asked_for_and_kept_on_resuming(capsys, tmp_path):
    done = call(capsys, "reproduce", "toy", "--seeds", "1", "--out", tmp_path / "s", "--json")
    assert (done.json["seeds"], done.json["cells"], done.json["scale"]) == (1, 1, "small")
    other = call(capsys, "reproduce", "toy", "--seeds", "2", "--out", tmp_path / "s", "--resume")
    assert other.code == 2
    assert "`seeds` should be 1 to resume" in other.err
    twice = call(capsys, "reproduce", "toy", "--seeds", "1", "--out", tmp_path / "s")
    assert twice.code == 2
    assert "new or empty folder" in twice.err


def test_a_failed_cell_makes_the_exit_code(capsys, tmp_path, monkeypatch):
    real = kinds_module.run_train

    def failing(recipe, run, **rest):
        if recipe.seed == 0:
            raise RuntimeError("an accident")
        return real(recipe, run, **rest)

    monkeypatch.setattr(kinds_module, "run_train", failing)
    done = call(capsys, "reproduce", "toy", "--out", tmp_path / "s", "--json")
    assert done.code == 2
    assert done.json["status"] == "failed"
    assert list(done.json["failed"]) == ["c0"]
    assert done.json["tables"]["Cells"]["rows"] == [{"cell": "c1"}]
    assert "c0 (1 of 2): failed, RuntimeError: an accident" in done.err
    assert done.err.splitlines()[-1] == "isthmus: 1 of 2 cells have no result: c0"
    monkeypatch.setattr(kinds_module, "run_train", real)
    again = call(capsys, "reproduce", "toy", "--out", tmp_path / "s", "--resume", "--json")
    assert (again.code, again.json["failed"]) == (0, {})
    assert again.err.startswith("c0 (1 of 2): ")


def test_a_part_of_a_study_runs_and_the_rest_is_left_for_later(capsys, tmp_path):
    part = call(capsys, "reproduce", "toy", "--only", "*1", "--out", tmp_path / "s", "--json")
    assert (part.code, part.json["status"], part.json["finished"], part.json["cells"]) == (0, "partial", 1, 2)
    assert part.json["tables"]["Cells"]["rows"] == [{"cell": "c1"}]
    wrong = call(capsys, "reproduce", "toy", "--only", "c7", "--out", tmp_path / "s", "--resume")
    assert wrong.code == 2
    assert "`only` should match the name of a cell, such as 'c0'. Found 'c7'." in wrong.err
    rest = call(capsys, "reproduce", "toy", "--out", tmp_path / "s", "--resume", "--json")
    assert (rest.code, rest.json["status"], rest.json["finished"]) == (0, "done", 2)
    assert rest.err.startswith("c0 (1 of 2): ")


def test_an_interrupted_study_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(kinds_module, "run_train", interrupted)
    done = call(capsys, "reproduce", "toy", "--out", tmp_path / "s")
    assert done.code == 130
    assert done.err.splitlines()[-1].endswith(f"isthmus reproduce toy --out {tmp_path / 's'} --resume")
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("evation",),
            "`name` should be one of adaptive-attackers, evasion, path-repair, repair-grid, robust-surfaces, scheduling, sharpening, "
            "surfaces, toy. Found 'evation'. Did you mean 'evasion'?",
        ),
        (("evasion", "--scale", "papper"), "Found 'papper'. Did you mean 'paper'?"),
        (("toy", "--jobs", "2", "--threads", "1"), "`threads` should be left out with several jobs"),
    ],
)
def test_bad_input_is_one_line_and_no_folder(capsys, tmp_path, words, said):
    done = call(capsys, "reproduce", *words, "--out", tmp_path / "s")
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["adaptive-attackers", "evasion", "robust-surfaces", "scheduling", "surfaces"])
def test_every_study_has_its_three_scales(name):
    study = reproduce.STUDIES[name]()
    assert study.name == name
    assert list(study.scales) == list(study.seeds) == ["smoke", "small", "paper"]
    for scale, seeds in study.seeds.items():
        names = [cell.name for wave in study.cells(scale, seeds) for cell in wave]
        assert len(set(names)) == len(names)

"""The command as a whole: help, listings, exit codes, one line for every error."""

import json
import re
import subprocess
import sys

import pytest

import isthmus
from cli_example import call, model_file, tree
from isthmus._check import InputError
from isthmus.cli import progress as bars
from isthmus.cli.app import main
from isthmus.cli.errors import explain
from isthmus.cli.track import make_tracker
from isthmus.data import DATASETS
from isthmus.geometry.build import GEOMETRIES
from isthmus.models import MODELS
from isthmus.recipes.scan import PROBES
from isthmus.repair.methods import METHODS

COMMANDS = (
    "demo",
    "train",
    "connect",
    "align",
    "scan",
    "ensemble",
    "attack",
    "reproduce",
    "inspect",
    "tamper",
    "evade",
    "repair",
    "report",
    "list",
    "data get",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples(capsys, command):
    done = call(capsys, *command.split(), "--help")
    assert done.code == 0
    assert f"isthmus {command} " in done.out[done.out.index("Examples:") :]
    assert "--json" in done.out


def test_help_lists_the_commands(capsys):
    assert call(capsys, "--help").out.strip() == call(capsys).out.strip()
    for command in COMMANDS:
        assert re.search(rf"^│ {command.split()[0]} ", call(capsys, "--help").out, re.MULTILINE)


def test_help_and_version_need_no_torch():
    code = (
        "import sys, contextlib, io\n"
        "from isthmus.cli.app import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    for words in (['--help'], ['train', '--help'], ['repair', '--help'], ['--version']):\n"
        "        assert main(words) == 0\n"
        "assert not {'torch', 'pandas', 'numpy', 'scipy', 'lightning_fabric'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version(capsys):
    assert call(capsys, "--version").out == f"isthmus {isthmus.__version__}\n"


def test_public_names():
    assert len(isthmus.__all__) <= 40
    for name in isthmus.__all__:
        assert getattr(isthmus, name).__name__ == name
    assert set(isthmus.__all__) < set(dir(isthmus))
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'"):
        _ = isthmus.nothing


@pytest.mark.parametrize(
    ("kind", "names"),
    [("models", MODELS), ("data", DATASETS), ("geometries", GEOMETRIES), ("methods", METHODS), ("probes", PROBES)],
)
def test_lists_hold_every_name(capsys, kind, names):
    listed = call(capsys, "list", kind, "--json").json
    assert set(names) <= set(listed)
    assert all(listed.values())
    shown = call(capsys, "list", kind).out
    assert all(name in shown for name in names)


def test_listing_everything(capsys):
    assert set(call(capsys, "list", "--json").json) == {
        *("models", "data", "geometries", "methods", "probes", "triggers", "attacks"),
    }


def test_a_data_set_that_is_not_here_says_how_to_get_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ISTHMUS_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "isthmus data get mnist" in call(capsys, "list", "data", "--json").json["mnist"]
    (tmp_path / "mnist.npz").touch()
    assert "isthmus data get" not in call(capsys, "list", "data", "--json").json["mnist"]
    done = call(capsys, "data", "get", "mnist", "--json")
    assert done.json == {"status": "done", "files": {"data": str(tmp_path / "mnist.npz")}}
    assert call(capsys, "data", "get", "mnist").out == f"mnist: {tmp_path / 'mnist.npz'}\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", "--archh", "cnn"], "No such option: --archh"),
        (["train"], "Missing option"),
        (
            ["train", "--arch", "cnn", "--data", "digits", "--out", "x", "--steps", "many"],
            "Invalid value for '--steps'",
        ),
        (["connect"], "Missing argument 'MODEL"),
        (["report"], "`report` should be given a folder"),
        (["list", "model"], "Did you mean 'models'?"),
        (["data"], "Missing command"),
        (["scan", "x", "--points", "3", "--grid", "5x5"], "`grid` should be given alone. Found also --points 3"),
        (["scan", "x", "--resume"], "`resume` should come with --out"),
    ],
)
def test_wrong_usage_is_one_line(capsys, words, text):
    done = call(capsys, *words)
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert text in done.err


def test_faults_of_ours_are_one_line_unless_a_traceback_is_asked_for(capsys, monkeypatch):
    def broken(_kind):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("isthmus.recipes.catalogue.catalogue", broken)
    done = call(capsys, "list", "models")
    assert done.code == 70
    assert (
        done.err
        == "isthmus: internal error, please report it (ZeroDivisionError: two lines). ISTHMUS_DEBUG=1 shows where.\n"
    )
    monkeypatch.setenv("ISTHMUS_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["list", "models"])


def test_errors_of_the_system_are_the_users_to_put_right():
    line, code = explain(FileNotFoundError(2, "No such file or directory", "a.txt"))
    assert code == 2
    assert line == "`files` should be there and fit on the disk. Found: No such file or directory 'a.txt'."
    assert explain(MemoryError())[1] == 2
    assert explain(InputError("a\n b")) == ("a b", 2)


def test_ctrl_c_tells_how_to_go_on(capsys, tmp_path, monkeypatch):
    def stopped(*_arguments, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("isthmus.recipes.train.fit_module", stopped)
    words = ("train", "--arch", "mlp", "--data", "digits", "--out", str(tmp_path / "a"))
    done = call(capsys, *words)
    assert done.code == 130
    assert done.out == ""
    assert done.err == f"isthmus: interrupted; what was done is kept. Go on with: isthmus {' '.join(words)} --resume\n"
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["status"] == "interrupted"


def test_a_failed_run_says_so(capsys, tmp_path):
    words = (
        "--arch",
        "mlp",
        "--width",
        "8",
        "--data",
        "digits",
        "--steps",
        "30",
        "--learning-rate",
        "1e30",
        "--augment",
        "none",
    )
    done = call(capsys, "train", *words, "--out", tmp_path / "a")
    assert done.code == 2
    assert "`learning_rate` should keep the loss finite" in done.err
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "learning_rate" in manifest["reasons"][0]


def test_a_repair_through_the_command_line(capsys, tmp_path):
    suspects = [model_file(tmp_path / f"{name}.safetensors", seed=i) for i, name in enumerate("ab")]
    words = [
        "repair",
        *suspects,
        "--clean",
        "100",
        "--method",
        "path",
        "--evaluations",
        "10",
        "--points",
        "3",
        "--no-baselines",
    ]
    words += ["--test-trigger", "patch:size=2,at=0x0", "--target", "3"]
    done = call(capsys, *words, "--out", tmp_path / "r", "--json")
    assert done.code == {"done": 0, "criteria_not_met": 1, "inconclusive": 3}[done.json["status"]], done.err
    assert [entry["path"] for entry in done.json["suspects"]] == [str(path) for path in suspects]
    assert done.json["method"]["name"] == "path"
    assert {"value", "n", "low", "high"} == set(done.json["repaired"]["attack_success"])
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["status"] == done.json["status"]
    assert {"model.safetensors", "bridge.safetensors", "report.json", "report.html", "card.md"} <= set(
        manifest["outputs"]
    )
    page = (tmp_path / "r" / "report.html").read_bytes()
    (tmp_path / "r" / "report.html").unlink()
    again = call(capsys, "report", tmp_path / "r", "--json")
    assert again.code == 0
    assert again.json == done.json
    assert (tmp_path / "r" / "report.html").read_bytes() == page
    shown = call(capsys, "report", tmp_path / "r").out
    assert shown.startswith("suspect 0: accuracy ")
    assert "Wilson 95 %" in shown
    # The weights that were written are the reported ones.
    scanned = call(capsys, "scan", tmp_path / "r", "--points", "3", "--json").json["rows"]
    assert scanned[0]["test_error"] == pytest.approx(100 - 100 * done.json["suspects"][0]["clean_accuracy"]["value"])


def test_the_schema_describes_the_report(capsys):
    schema = call(capsys, "report", "--schema").json
    assert {"suspects", "repaired", "baselines", "schema_version"} <= set(schema["properties"])


def test_trackers_that_are_not_installed_name_the_extra(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match=r"`track` should be one of csv, mlflow, tensorboard, wandb. Found 'tensorbord'. Did you mean"
    ):
        make_tracker("tensorbord", tmp_path, "run")
    monkeypatch.setitem(sys.modules, "pytorch_lightning.loggers", None)
    with pytest.raises(
        InputError, match=r"`track` should name a tracker that is installed. Found 'wandb'.*isthmus\[track\]"
    ):
        make_tracker("wandb", tmp_path, "run")


def test_progress_in_a_terminal_is_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with bars.Progress("training") as progress:
        progress(1, 4, {"loss": 0.25, "error": 12.5, "learning_rate": 1.0})
        progress(4, 4, {"loss": 0.125})
    shown = capsys.readouterr().err
    assert "4/4" in shown
    assert "loss 0.125" in shown
    assert "in 0.0 s" not in shown  # no line for logs


def test_progress_starts_anew_where_steps_do(capsys):
    with bars.Progress("curve") as progress:
        progress(5, 5, {"loss": 1.0})
        progress(2, 4, {"loss": 2.0})
        progress.stage("scan")
        progress(3, 3, {"test_error": 4.0})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" in ")[0] for line in lines] == ["curve: 5 of 5", "curve: 2 of 4", "scan: 3 of 3"]
    assert lines[2].endswith("test error 4 %")


def test_a_silent_process_prints_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert call(capsys, "train", "--arch", "nothing", "--data", "digits", "--out", tmp_path / "a").err == ""
    assert tree(tmp_path) == {}


@pytest.mark.slow
def test_the_demo_through_the_command_line(capsys, tmp_path):
    done = call(capsys, "demo", "--out", tmp_path / "demo", "--json")
    assert done.code == 0, done.err
    assert done.json["status"] == "done"
    page = (tmp_path / "demo" / "demo.html").read_bytes()
    (tmp_path / "demo" / "demo.html").unlink()
    again = call(capsys, "report", tmp_path / "demo")
    assert again.code == 0
    assert "repaired polished-path: accuracy " in again.out
    assert (tmp_path / "demo" / "demo.html").read_bytes() == page

"""The page of an attack: the rates with their bounds, attack by attack, and every warning."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from isthmus._check import InputError
from isthmus.report import AttackDocument, write_attack
from isthmus.report.attack import attack_verdict, radius_text, threat_text
from isthmus.report.attack_page import attack_page
from page_reader import own, read

example = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("robust_example.py"))))
EVIL = "<script>alert(1)</script>"


def document(**more: object) -> AttackDocument:
    return AttackDocument.model_validate(example.attack(**more))


def test_verdict_has_both_rates_with_bounds_and_the_threat() -> None:
    assert attack_verdict(document()) == (
        "Robust accuracy 48.4 % (Wilson 95 %: 45.3–51.5 %, n = 1,000) under standard, L∞ radius 8/255 within 0..1. "
        "Without attack 88.0 % (Wilson 95 %: 85.8–89.9 %, n = 1,000)."
    )
    assert attack_verdict(document(reliable=False)).endswith("The evaluation is not reliable: see the warnings.")


@pytest.mark.parametrize(
    ("radius", "shown"),
    [
        (8 / 255, "8/255"),
        (0.5 / 255, "0.5/255"),
        (0.2, "0.2"),
        (0.3, "0.3"),
        (0.0314, "0.0314"),
        (12.0, "12"),
        ((0.5, 0.5), "0.5"),
        ((1 / 255, 8 / 255, 4 / 255), "1/255 to 8/255, one for each image"),
    ],
)
def test_radii_are_written_as_people_write_them(radius: float | tuple[float, ...], shown: str) -> None:
    assert radius_text(radius) == shown


def test_threat_names_norm_and_box() -> None:
    held = document(threat={"norm": "l2", "radius": [0.5, 1.0], "low": -1.0, "high": 1.0})
    assert threat_text(held.threat) == "L2 radius 0.5 to 1, one for each image within -1..1"


def test_page_has_every_attack_and_every_warning() -> None:
    held = document(notes=["A.pth: 2 tensors renamed"], passes=4)
    reader = read(
        attack_page(held, created="2026-11-21T09:30:00+00:00", isthmus="0.1.0", command=("isthmus", "attack"))
    )
    text = " ".join(reader.text).replace("\xa0", " ").replace("\u2060", "")
    for line in held.attacks:
        rate = line.robust_accuracy
        for said in (
            line.attack,
            f"{line.attacked:,}",
            f"{line.queries:,}",
            f"{100 * rate.value:.1f} %",
            f"{100 * rate.low:.1f}–",
        ):
            assert said in text
    assert held.warnings[0] in text
    assert "2 tensors renamed" in text
    assert "4 forward passes" in text
    assert "Not reliable" not in text
    ids = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert ids == ["attacks", "warnings", "threat", "provenance", "limits"]
    assert "no certificate" in text


def test_an_unreliable_evaluation_is_marked() -> None:
    text = " ".join(read(attack_page(document(reliable=False))).text)
    assert "Not reliable" in text


def test_a_bare_document_makes_a_page() -> None:
    fields = {name: example.attack()[name] for name in ("clean_accuracy", "robust_accuracy", "threat")}
    reader = read(attack_page(AttackDocument.model_validate({**fields, "attacks": []})))
    assert "None." in reader.text
    assert "attacks" not in [attributes.get("id") for _, attributes in reader.tags]


def test_every_text_is_escaped() -> None:
    lines = [line | {"attack": EVIL} for line in example.attack()["attacks"]]
    more = {"suite": EVIL, "models": [EVIL], "data": EVIL, "warnings": [EVIL], "notes": [EVIL], "attacks": lines}
    threat = {"norm": EVIL, "radius": 0.1, "low": 0, "high": 1}
    code = attack_page(document(**more, threat=threat), created=EVIL, isthmus=EVIL, command=(EVIL,))
    assert "<script>alert" not in own(code)
    assert "alert(1)" in "".join(read(code).text)


def test_a_folder_gets_its_page(tmp_path: Path) -> None:
    (tmp_path / "attack.json").write_text(json.dumps(example.attack()))
    assert write_attack(tmp_path) == document()
    assert "Attack on A.pth" in (tmp_path / "attack.html").read_text(encoding="utf-8")


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"attack\.json"):
        write_attack(tmp_path)
    held = example.attack()
    del held["robust_accuracy"]
    (tmp_path / "attack.json").write_text(json.dumps(held))
    with pytest.raises(
        InputError, match=r"should be an attack\.json of Isthmus. Found in robust_accuracy: Field required"
    ):
        write_attack(tmp_path)

"""The sentences: bounds beside every figure, and no more said than was measured."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from isthmus.report import summarise
from isthmus.report.document import RateEntry
from isthmus.report.text import (
    bounded,
    coordinates,
    duration,
    how_chosen,
    moment,
    movement,
    number,
    percent,
    remarks,
    seeds_verdict,
    verdict,
    what_was_done,
)

example = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("report_example.py"))))
document, entry, rate = example.document, example.entry, example.rate


def test_verdict_states_the_fall_with_bounds() -> None:
    assert verdict(document()) == (
        "Attack success fell from 96.0–97.1 % to 1.2 % (Wilson 95 %: 0.9–1.6 %, n = 3,600); "
        "accuracy 84.5–84.6 % → 80.5 % (Wilson 95 %: 79.2–81.7 %, n = 4,000)."
    )


def test_verdict_without_trigger_says_what_is_not_shown() -> None:
    said = verdict(document(trigger=False))
    assert said.startswith(
        "Accuracy 84.5–84.6 % → 80.5 % (Wilson 95 %: 79.2–81.7 %, n = 4,000). No trigger was supplied"
    )
    assert "nothing is shown about attack success" in said


@pytest.mark.parametrize(
    ("after", "said"), [(99.5, "rose from"), (97.0, "No change of attack success is shown"), (90.0, "fell from")]
)
def test_verdict_follows_the_intervals(after: float, said: str) -> None:
    assert said in verdict(document(repaired=entry("repaired", (80.0, after, 1.0))))


def test_verdict_where_suspects_were_not_measured() -> None:
    said = verdict(document(suspects=(entry("a", (84.0, None, None)),)))
    assert said.startswith("Attack success of the repaired model is 1.2 % (Wilson 95 %")
    assert "that of the suspects was not measured" in said


def test_verdict_compares_with_the_suspects_that_answer() -> None:
    """A trigger that belongs to one suspect only does not make the fall look smaller or larger than in that one."""
    held = document(suspects=(entry("a", (85.0, 99.0, 1.0)), entry("b", (84.0, 9.0, 80.0))))
    assert "fell from 99.0 % to 1.2 %" in verdict(held)
    assert any("hardly works in b: attack success 9.0 % (Wilson 95 %" in line for line in remarks(held))


def test_movement_is_decided_by_every_interval_before() -> None:
    low, mid, high = (RateEntry(value=v, n=9, low=v - 0.1, high=v + 0.1) for v in (0.2, 0.5, 0.8))
    assert movement([mid, high], low) == "fell"
    assert movement([low, mid], high) == "rose"
    assert movement([low, high], mid) == "overlap"


def test_remarks_are_silent_where_nothing_is_odd() -> None:
    assert remarks(document()) == []


def test_remarks_name_wide_intervals_and_wrong_recovery() -> None:
    few = entry("repaired", (80.0, 1.0, 20.0)).model_copy(update={"clean_accuracy": rate(80, 50)})
    said = remarks(document(repaired=few))
    assert any(line.startswith("Accuracy of repaired rests on 50 images: its interval is 2") for line in said)
    wrong = remarks(document(repaired=entry("repaired", (80.0, 1.0, 20.0))))
    assert any("recovery accuracy 20.0 % (Wilson 95 %" in line for line in wrong)


def test_percent_never_rounds_a_hit_away() -> None:
    assert [percent(value) for value in (0.0, 0.0004, 0.0005, 0.012, 1.0)] == [
        "0.0 %",
        "0.04 %",
        "0.1 %",
        "1.2 %",
        "100.0 %",
    ]
    assert bounded(RateEntry(value=0.0, n=3600, low=0.0, high=0.00107)) == "0.0 % (Wilson 95 %: 0.0–0.1 %, n = 3,600)"


def test_numbers_and_times_read_well() -> None:
    assert [duration(value) for value in (0.0421, 12.34, 59.97, 200.0, 3599.7, 7300.0)] == [
        "0.042 s",
        "12.3 s",
        "1 min 00 s",
        "3 min 20 s",
        "1 h 00 min",
        "2 h 02 min",
    ]
    assert [number(value) for value in (1600.0, 0.61234, float("inf"))] == ["1,600", "0.6123", "inf"]
    assert coordinates((0.35,)) == "t = 0.35"
    assert coordinates((0.3, 0.4)) == "(u, v) = (0.3, 0.4)"
    assert coordinates((0.1, 0.2, 0.3, 0.4)) == "(u1, u2, u3, u4) = (0.1, 0.2, 0.3, 0.4)"
    assert (moment("2026-11-21T09:30:00+00:00"), moment("yesterday")) == ("2026-11-21 09:30 UTC", "yesterday")


def test_account_says_who_saw_what() -> None:
    said = " ".join(what_was_done(document()))
    assert "125 trained and 125 others chose" in said
    assert "Neither training nor the choice ever saw it" in said
    assert "was not measured" in " ".join(what_was_done(document(trigger=False)))


def test_choice_is_explained() -> None:
    said = how_chosen(document())
    assert said[0] == "Chosen: t = 0.3, out of 31 candidates."
    assert said[-1] == "The path is 45.2 long in weight space, 1.32 times the distance of its ends (34.2)."
    assert "no point to choose" in how_chosen(document(choice=None))[0]


def test_seeds_verdict_names_the_worst_seed() -> None:
    held = {s: document(repaired=entry("repaired", (96.0 + s, 1.0 + s, 95.0))) for s in range(3)}
    assert seeds_verdict(summarise(held, title="demo", status="done")) == (
        "Over 3 seeds, attack success 96.0–97.1 % → 2.0 ± 1.0 % (worst seed 3.0 %, Wilson 95 %: 2.5–3.6 %, n = 3,600); "
        "accuracy 84.5–84.6 % → 97.0 ± 1.0 % (worst seed 96.0 %, Wilson 95 %: 95.3–96.6 %, n = 4,000)."
    )
    plain = {s: document(trigger=False) for s in range(2)}
    assert "nothing is shown about attack success" in seeds_verdict(summarise(plain, title="demo", status="done"))

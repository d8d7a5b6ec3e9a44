"""When APGD looks back at its progress: checkpoints of the step size, and the radii of its L1 runs, in exact integer arithmetic."""

from typing import Literal, get_args

from isthmus._check import require, unknown

Rule = Literal["official", "paper"]
"""official: the gaps between checkpoints are whole numbers from the start, as in the authors' code. paper: fractions of the steps, each
checkpoint rounded up."""


def checkpoints(steps: int, rule: Rule = "official") -> tuple[int, ...]:
    """Return the numbers of steps, increasing and at most `steps`, after which the step size is reviewed.

    paper: w_j = ceil(p_j steps), p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06) (Croce and Hein 2020,
    arXiv:2003.01690, section 3). official: gaps k_1 = floor(0.22 steps), k_{j+1} = max(k_j - floor(0.03 steps), floor(0.06 steps)), each
    of the three at least 1. They agree for 100 steps; for 10 steps the official rule reviews at nearly every step.

    >>> checkpoints(100) == checkpoints(100, "paper") == (22, 41, 57, 70, 80, 87, 93, 99)
    True
    >>> checkpoints(20), checkpoints(20, "paper")
    ((4, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20), (5, 9, 12, 14, 16, 18, 19, 20))
    """
    require(steps >= 1, "steps", "be at least 1", steps)
    if rule not in get_args(Rule):
        raise unknown("rule", str(rule), get_args(Rule))
    if rule == "official":  # in steps
        places = _places(max(22 * steps // 100, 1), max(3 * steps // 100, 1), max(6 * steps // 100, 1), steps)
        return tuple(places)
    return tuple(dict.fromkeys(-(-place * steps // 100) for place in _places(22, 3, 6, 100)))  # in hundredths


def _places(gap: int, shrinks: int, least: int, end: int) -> list[int]:
    """Return the places up to `end` that begin at `gap` and lie ever closer, by `shrinks`, down to `least` apart."""
    places = [gap]
    while True:
        gap = max(gap - shrinks, least)
        if places[-1] + gap > end:
            return places
        places.append(places[-1] + gap)


def wide_schedule(steps: int) -> tuple[tuple[float, int], ...]:
    """Return (factor of the radius, steps) of the stages of an L1 run: 3, 2 and 1 radii with 30, 30 and 40 % of the steps.

    Croce and Hein 2021, arXiv:2103.01208, section 4. The shares are rounded up; at least one step is left for the radius itself.

    >>> wide_schedule(100)
    ((3.0, 30), (2.0, 30), (1.0, 40))
    """
    wide = min(-(-3 * steps // 10), (steps - 1) // 2)
    return (*(((3.0, wide), (2.0, wide)) if wide else ()), (1.0, steps - 2 * wide))

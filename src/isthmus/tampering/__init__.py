"""Triggers, and poisoning of labelled samples with them."""

from isthmus.tampering.poison import (
    Poisoned,
    Source,
    Target,
    attacker_labels,
    eligible,
    parse_target,
    poison,
    require_target,
)
from isthmus.tampering.spec import UserTrigger, parse_trigger
from isthmus.tampering.triggers import Patch, Trigger, apply_trigger, describe

__all__ = [
    "Patch",
    "Poisoned",
    "Source",
    "Target",
    "Trigger",
    "UserTrigger",
    "apply_trigger",
    "attacker_labels",
    "describe",
    "eligible",
    "parse_target",
    "parse_trigger",
    "poison",
    "require_target",
]

"""Evasion attacks: a threat, attacks within it, and one evaluator that re-tests what they found."""

from isthmus.attacks.apgd import APGD as APGD
from isthmus.attacks.apgd import TargetedAPGD as TargetedAPGD
from isthmus.attacks.cascade import robustness as robustness
from isthmus.attacks.fab import FAB as FAB
from isthmus.attacks.outcome import Robustness as Robustness
from isthmus.attacks.pgd import FGSM as FGSM
from isthmus.attacks.pgd import PGD as PGD
from isthmus.attacks.square import Square as Square
from isthmus.attacks.threat import Threat as Threat
from isthmus.attacks.victim import attacked as attacked

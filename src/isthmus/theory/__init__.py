"""Exact answers about linear classifiers trained against an adversary, and the smoothness of the adversarial loss (Liu et al. 2020)."""

from isthmus.theory.critical import CriticalBudget as CriticalBudget
from isthmus.theory.critical import critical_budget as critical_budget
from isthmus.theory.critical import point_budget as point_budget
from isthmus.theory.directions import bad_budget as bad_budget
from isthmus.theory.directions import bad_budget_of_data as bad_budget_of_data
from isthmus.theory.directions import data_in_bad_directions as data_in_bad_directions
from isthmus.theory.directions import in_bad_directions as in_bad_directions
from isthmus.theory.linear import in_version_space as in_version_space
from isthmus.theory.linear import largest_budget_in_version_space as largest_budget_in_version_space
from isthmus.theory.linear import loss_limit as loss_limit
from isthmus.theory.linear import version_margin as version_margin
from isthmus.theory.logistic import binary_loss as binary_loss
from isthmus.theory.logistic import loss_bounds as loss_bounds
from isthmus.theory.means import ClassMeans as ClassMeans

"""Evasion attacks: a threat, attacks within it, and one evaluator that re-tests what they found."""

"""Random streams: every draw comes from a generator named by what it is for, so nothing depends on what was drawn before.

That makes a resumed run equal an uninterrupted one and a scan of N points equal N scans of one point, without saving generator states.
"""

from hashlib import sha256

import torch


def seed_of(seed: int, *names: object) -> int:
    """Return a 63-bit seed that depends on `seed` and on every name.

    >>> seed_of(0, "batch", 1) != seed_of(0, "batch", 2)
    True
    """
    text = repr((seed, *(str(name) for name in names)))
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: object) -> torch.Generator:
    """Return a CPU generator seeded by :func:`seed_of`."""
    return torch.Generator().manual_seed(seed_of(seed, *names))

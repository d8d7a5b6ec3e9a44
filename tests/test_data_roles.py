"""Roles: disjoint, stratified, deterministic; and the arithmetic of shares."""

from fractions import Fraction
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus._check import InputError
from isthmus.data import Samples, require_disjoint, split_roles
from isthmus.data.strata import apportion, evenly_spaced


def pool_of(counts, name="toy/train"):
    """Return samples whose content is their number."""
    y = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(3))
    return Samples(torch.arange(len(y)).float()[:, None], y[order], len(counts), name)


def counts_of(samples):
    return torch.bincount(samples.y, minlength=samples.num_classes).tolist()


@st.composite
def splits(draw):
    sizes = draw(st.lists(st.integers(4, 25), min_size=1, max_size=3))
    counts = draw(st.lists(st.just(0) | st.integers(3, 60), min_size=1, max_size=4))
    present = sum(count > 0 for count in counts)
    if present == 0 or sum(counts) < sum(sizes):
        counts = [*counts[:3], 80]
    return counts, sizes


@settings(max_examples=60, deadline=None)
@given(splits(), st.integers(0, 5))
def test_roles_have_their_sizes_share_nothing_and_follow_the_pool(case, seed):
    counts, sizes = case
    pool = pool_of(counts)
    roles = split_roles(pool, {f"role{i}": size for i, size in enumerate(sizes)}, seed=seed)
    assert [len(role) for role in roles.values()] == sizes
    for one, two in combinations(roles.values(), 2):
        assert not set(one.index.tolist()) & set(two.index.tolist())
        require_disjoint(one, two)
    for role in roles.values():
        assert torch.equal(pool.x[role.index], role.x)
        assert torch.equal(pool.y[role.index], role.y)
        assert role.index.tolist() == sorted(role.index.tolist())
        assert all((drawn > 0) == (held > 0) for drawn, held in zip(counts_of(role), counts, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any), st.data())
def test_apportion_is_hamilton_where_no_bound_binds(counts, data):
    total = data.draw(st.integers(0, sum(counts)))
    weights = torch.tensor(counts)
    found = apportion(weights, total, lower=torch.zeros_like(weights), upper=weights).tolist()
    quotas = [Fraction(total * count, sum(counts)) for count in counts]
    expected = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(counts)), key=lambda i: (-(quotas[i] - int(quotas[i])), i))
    for i in by_remainder[: total - sum(expected)]:
        expected[i] += 1
    assert found == expected


def test_apportion_keeps_its_bounds_and_its_sum():
    counts = torch.tensor([90, 9, 1])
    assert apportion(counts, 10, lower=torch.tensor([1, 1, 1]), upper=counts).tolist() == [8, 1, 1]
    assert apportion(counts, 10, lower=torch.tensor([0, 0, 0]), upper=torch.tensor([5, 9, 1])).tolist() == [5, 4, 1]


def test_shares_follow_the_pool():
    roles = split_roles(pool_of([60, 30, 10]), {"clean": 20, "validation": 30}, seed=0)
    assert counts_of(roles["clean"]) == [12, 6, 2]
    assert counts_of(roles["validation"]) == [18, 9, 3]


def test_whole_pool_can_be_dealt_out_though_rounding_favours_one_class():
    roles = split_roles(pool_of([5, 5, 5]), {"a": 7, "b": 8}, seed=0)
    assert sorted(torch.cat([role.index for role in roles.values()]).tolist()) == list(range(15))


def test_a_role_leaves_one_of_every_class_to_each_later_role():
    roles = split_roles(pool_of([8, 2]), {"a": 8, "b": 2}, seed=0)
    assert (counts_of(roles["a"]), counts_of(roles["b"])) == ([7, 1], [1, 1])


def test_none_takes_the_rest():
    roles = split_roles(pool_of([20, 20]), {"clean": 6, "train": None, "validation": 4}, seed=0)
    assert {name: len(role) for name, role in roles.items()} == {"clean": 6, "train": 30, "validation": 4}


def test_same_seed_same_roles_other_seed_other_roles():
    pool = pool_of([40, 40])
    one, again, other = (split_roles(pool, {"a": 10, "b": 10}, seed=seed) for seed in (1, 1, 2))
    for role in ("a", "b"):
        assert torch.equal(one[role].index, again[role].index)
        assert not torch.equal(one[role].index, other[role].index)


def test_index_is_that_of_the_source_even_from_a_part():
    whole = pool_of([50, 50])
    part = whole.take(torch.arange(99, 19, -1))
    role = split_roles(part, {"a": 10}, seed=0)["a"]
    assert torch.equal(role.x[:, 0].long(), role.index)


def test_avoided_content_is_never_drawn_whatever_its_label_or_storage():
    pool = Samples(torch.arange(40).byte()[:, None], torch.arange(40) % 2, 2, "toy/train")
    test = Samples(pool.inputs()[:30], torch.zeros(30, dtype=torch.int64), 2, "toy/test")
    assert split_roles(pool, {"a": 10}, seed=0, avoid=test)["a"].index.tolist() == list(range(30, 40))
    with pytest.raises(
        InputError, match=r"no more than the 10 different samples that 'toy/train' can give\. Found a 11\."
    ):
        split_roles(pool, {"a": 11}, seed=0, avoid=test)


def test_samples_of_another_shape_are_never_the_same():
    pool = pool_of([4, 4])
    other = Samples(torch.zeros(1, 2), torch.tensor([0]), 2)
    assert len(split_roles(pool, {"a": 8}, seed=0, avoid=other)["a"]) == 8
    require_disjoint(pool, other)


def test_equal_content_is_dealt_once():
    x = torch.arange(12).float()[:, None]
    x[6:] = x[:6]
    roles = split_roles(Samples(x, torch.arange(12) % 2, 2), {"a": 3, "b": 3}, seed=0)
    assert sorted(torch.cat([role.x for role in roles.values()]).flatten().tolist()) == [0, 1, 2, 3, 4, 5]
    require_disjoint(roles["a"], roles["b"])


@pytest.mark.parametrize(
    ("counts", "sizes", "message"),
    [
        ([5, 5], {}, r"`sizes` should name at least one role\. Found none"),
        ([5, 5], {"clean": 0}, r"`clean` should be a positive number of samples\. Found 0"),
        ([5, 5], {"a": None, "b": None}, r"`sizes` should leave the size of one role open at most\. Found a, b"),
        ([5, 5], {"a": 6, "b": 5}, r"no more than the 10 different samples that 'toy/train' can give\. Found a 6, b 5"),
        ([5, 5], {"a": 9, "b": None}, r"no more than the 10 different samples .* Found a 9, b the rest"),
        ([5, 5, 5], {"clean": 2}, r"`clean` should hold at least 3 samples, one of each class in 'toy/train'\. Found 2\."),
        ([9, 1], {"a": 2, "b": 2}, r"at least 2 different samples of every class it has, .*\. Found 1 of class 1\."),
    ],
)  # fmt: skip
def test_split_roles_refuses(counts, sizes, message):
    with pytest.raises(InputError, match=message):
        split_roles(pool_of(counts), sizes, seed=0)


def test_split_roles_refuses_a_pool_that_is_all_test():
    pool = pool_of([3, 3])
    with pytest.raises(
        InputError, match=r"hold samples that do not stand in the samples to avoid\. Found all 6 of them"
    ):
        split_roles(pool, {"a": 2}, seed=0, avoid=pool)


def test_a_class_absent_from_the_pool_is_owed_nothing():
    assert counts_of(split_roles(pool_of([5, 0, 5]), {"a": 2, "b": 2}, seed=0)["b"]) == [1, 0, 1]


def test_require_disjoint_counts_what_stands_in_both():
    pool = pool_of([10, 10])
    with pytest.raises(
        InputError, match=r"`clean` should share no sample with `test` \(overlapping roles\)\. Found 3 in both"
    ):
        require_disjoint(pool.take(torch.arange(12)), pool.take(torch.arange(9, 20)), names=("clean", "test"))


def test_evenly_spaced_goes_through_each_class_in_stored_order():
    labels = torch.tensor([0, 1] * 9)
    assert evenly_spaced(labels, 2, 6).tolist() == [2, 3, 8, 9, 14, 15]


def test_evenly_spaced_never_empties_a_class():
    labels = torch.tensor([0] * 10 + [1, 1, 2])
    chosen = labels[evenly_spaced(labels, 4, 4)]
    assert torch.bincount(chosen, minlength=4).tolist() == [3, 1, 0, 0]
    assert len(evenly_spaced(labels, 4, 13)) == 10
    assert len(evenly_spaced(labels, 4, 0)) == 2

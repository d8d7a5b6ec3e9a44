"""The algebra of axes: what corresponds to what, and what may no longer move."""

from itertools import permutations as orders

import pytest
import torch

from isthmus.geometry.axes import Product, Space, Sum, fixed, join, resolved, spaces, split
from isthmus.geometry.symmetry import places_of


def test_joining_a_flattened_axis_gives_its_parts_row_by_row() -> None:
    channels, long = Space(3), Space(6)
    join(long, Product((channels, fixed(2))))
    assert spaces(long)[0] is channels
    ((space, places),) = places_of(long)
    assert space is channels
    assert places.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_joined_sums_are_cut_to_each_other_and_places_go_on_counting() -> None:
    one, two, three = Space(3), Space(4), Space(2)
    join(Sum((one, two)), Sum((three, Space(5))))
    parts = resolved(Sum((one, two)))
    assert [space.size for space in spaces(parts)] == [2, 1, 4]
    assert spaces(parts)[0] is three
    assert places_of(parts)[-1][1].flatten().tolist() == [3, 4, 5, 6]


def test_axes_that_do_not_nest_keep_no_permutation() -> None:
    one, two = Product((Space(2), Space(3))), Product((Space(3), Space(2)))
    join(one, two)
    assert all(space.pinned and space.why == "axes that do not nest" for space in spaces(one) + spaces(two))


def test_an_axis_that_is_a_part_of_itself_keeps_no_permutation() -> None:
    space = Space(4)
    join(space, Product((space, Space(1))))  # a part of one place is none
    assert [s.pinned for s in spaces(space)] == [False]
    units = Space(2)
    long = Space(4)
    join(long, Product((units, fixed(2))))
    join(long, Sum((units, units)))
    assert all(part.pinned or part.size == 1 for part in spaces(long))
    empty = Space(3)
    join(empty, Sum((empty, Space(0))))
    assert [s.pinned for s in spaces(empty)] == [False]


def test_axes_of_other_sizes_do_not_join() -> None:
    with pytest.raises(ValueError, match="axes of 2 and 3 places do not correspond"):
        join(Space(2), Space(3))


def test_a_product_is_split_only_between_rows() -> None:
    assert split(Product((fixed(3), Space(4))), 6) is None
    ends = split(Product((Space(3), Space(4))), 8)
    assert ends is not None
    assert [end.size for end in ends] == [8, 4]


@pytest.mark.parametrize("order", list(orders((2, 3, 4))))
def test_places_in_a_product_are_those_of_a_reshaped_range(order: tuple[int, int, int]) -> None:
    parts = tuple(Space(n) for n in order)
    table = torch.arange(24).view(order)
    for k, (space, places) in enumerate(places_of(Product(parts))):
        assert space is parts[k]
        assert torch.equal(places, table.movedim(k, 0).flatten(1))

"""Rules of operations that only move numbers about: views, slices, concatenation, padding, indexing."""

from math import prod
from typing import cast

import torch
from torch import Tensor

from isthmus.geometry.axes import Axis, Product, Space, Sum, fixed, join, pin, resolved, split
from isthmus.geometry.axes_calls import Axes, Call, Rule, blank, together


def _view(call: Call) -> Axes:
    """Cut and glue axes: runs of old and of new ones that have the same number of places are the same places, row by row."""
    old, sizes = list(call.axes("self")), list(call.result.shape)
    if 0 in sizes:
        return tuple(map(fixed, sizes))
    out: list[Axis] = []
    while old or sizes:
        left, right = old[:1], sizes[:1]
        del old[:1], sizes[:1]
        while prod(axis.size for axis in left) != prod(right):
            if prod(axis.size for axis in left) < prod(right):
                left.append(old.pop(0))
            else:
                right.append(sizes.pop(0))
        new = blank(right)
        join(Product(tuple(left)), Product(new))
        out += new
    return tuple(out)


def _permute(call: Call) -> Axes:
    x = call.axes("self")
    return tuple(x[d] for d in cast(list[int], call.given["dims"]))


def _transpose(call: Call) -> Axes:
    x = list(call.axes("self"))
    one, two = (call.place(name, tuple(x)) for name in ("dim0", "dim1"))
    x[one], x[two] = x[two], x[one]
    return tuple(x)


def _t(call: Call) -> Axes:
    return call.axes("self")[::-1]


def _unsqueeze(call: Call) -> Axes:
    x = call.axes("self")
    place = call.number("dim") % (len(x) + 1)
    return (*x[:place], fixed(1), *x[place:])


def _squeeze(call: Call) -> Axes:
    x = call.axes("self")
    chosen = call.dims("dim", x)
    return tuple(axis for k, axis in enumerate(x) if k not in chosen or axis.size != 1)


def _expand(call: Call) -> Axes:
    x, sizes = call.axes("self"), call.result.shape
    new = blank(sizes[: len(sizes) - len(x)])
    return new + tuple(a if a.size == n else Space(n) for a, n in zip(x, sizes[len(new) :], strict=True))


def _repeat(call: Call) -> Axes:
    x, sizes = call.axes("self"), call.result.shape
    new = blank(sizes[: len(sizes) - len(x)])
    times = [n // a.size for a, n in zip(x, sizes[len(new) :], strict=True)]
    return new + tuple(a if r == 1 else Product((Space(r), a)) for a, r in zip(x, times, strict=True))


def _pad(call: Call) -> Axes:
    x = list(call.axes("self"))
    pads = cast(list[int], call.given["pad"])
    for back in range(len(pads) // 2):
        before, after = pads[2 * back : 2 * back + 2]
        if before >= 0 and after >= 0:
            x[-1 - back] = Sum((fixed(before), x[-1 - back], fixed(after)))
        else:
            pin(x[-1 - back], "cut apart")
            x[-1 - back] = fixed(x[-1 - back].size + before + after)
    return tuple(map(resolved, x))


def _roll(call: Call) -> Axes:
    x = call.axes("self")
    for d in call.dims("dims", x):
        pin(x[d], "moved by place")
    return x


def _select(call: Call) -> Axes:
    x = call.axes("self")
    place = call.place("dim", x)
    pin(x[place], "taken by place")
    return x[:place] + x[place + 1 :]


def _unbind(call: Call) -> list[Axes]:
    x = call.axes("self")
    return [_select(call)] * x[call.place("dim", x)].size


def _slice(call: Call) -> Axes:
    x = call.axes("self")
    place, size = call.place("dim", x), x[call.place("dim", x)].size
    start, stop = (cast("int | None", call.given.get(name)) for name in ("start", "end"))
    first, last, _ = slice(start, stop).indices(size)
    middle = _between(x[place], first, max(first, last)) if call.given.get("step", 1) == 1 else None
    if middle is None:
        pin(x[place], "taken by place")
        middle = fixed(call.result.shape[place])
    return (*x[:place], middle, *x[place + 1 :])


def _between(axis: Axis, start: int, stop: int) -> Axis | None:
    ends = split(axis, start)
    part = None if ends is None else split(ends[1], stop - start)
    return None if part is None else resolved(part[0])


def _split(call: Call) -> list[Axes]:
    x = call.axes("self")
    place = call.place("dim", x)
    sizes = call.given.get("split_sizes", call.given.get("split_size"))
    if isinstance(sizes, int):
        whole, rest = divmod(x[place].size, sizes)
        sizes = [sizes] * whole + [rest] * bool(rest)
    parts, left = list[Axes](), x[place]
    for size in cast(list[int], sizes):
        ends = split(left, size)
        if ends is None:
            pin(left, "cut apart")
            ends = fixed(size), fixed(left.size - size)
        parts.append((*x[:place], resolved(ends[0]), *x[place + 1 :]))
        left = ends[1]
    return parts


def _cat(call: Call) -> Axes:
    held = [axes for axes in call.several if prod(axis.size for axis in axes)]
    place = call.place("dim", held[0])
    for axes in held[1:]:
        for k, axis in enumerate(axes):
            if k != place:
                join(held[0][k], axis)
    return (*held[0][:place], Sum(tuple(axes[place] for axes in held)), *held[0][place + 1 :])


def _stack(call: Call) -> Axes:
    joined = together(call.several, [axis.size for axis in call.several[0]])
    place = call.number("dim") % (len(joined) + 1)
    return (*joined[:place], fixed(len(call.several)), *joined[place:])


def _index(call: Call) -> Axes:
    """Pin what is indexed; the rest stays where one axis alone is indexed, as in x[:, index], by a table of any shape."""
    x, shape = call.axes("self"), call.result.shape
    indices = cast("list[Tensor | None]", call.given["indices"])
    used = [(k, index) for k, index in enumerate(indices) if index is not None]
    if len(used) != 1 or (used[0][1].ndim > 1 and not _counts(used[0][1])):
        for axis in x:
            pin(axis, "taken by place")
        return tuple(map(fixed, shape))
    place, index = used[0]
    pin(x[place], "taken by place")
    return (*x[:place], *map(fixed, shape[place : place + index.ndim]), *x[place + 1 :])


def _counts(index: Tensor) -> bool:
    """Return whether an index holds places; one of truth values picks from as many axes as it has."""
    return index.dtype not in (torch.bool, torch.uint8)


def _index_select(call: Call) -> Axes:
    x = call.axes("self")
    place = call.place("dim", x)
    pin(x[place], "taken by place")
    return (*x[:place], fixed(call.result.shape[place]), *x[place + 1 :])


def _restride(call: Call) -> Axes:
    """PyTorch's own kernels rewrite strides of axes with one place; where a module means more by it, the check of the outputs tells."""
    x = call.axes("self")
    if [axis.size for axis in x] != list(call.result.shape):
        raise ValueError("a view by strides of another shape")
    return x


def _embedding(call: Call) -> Axes:
    weight = call.axes("weight")
    pin(weight[0], "taken by place")
    return (*call.axes("indices"), weight[1])


SHAPES: dict[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "_reshape_alias"), _view),
    "permute": _permute,
    "transpose": _transpose,
    "t": _t,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "expand": _expand,
    "repeat": _repeat,
    "constant_pad_nd": _pad,
    **dict.fromkeys(("roll", "flip"), _roll),
    "select": _select,
    "unbind": _unbind,
    "slice": _slice,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "cat": _cat,
    "stack": _stack,
    "index": _index,
    "index_select": _index_select,
    "as_strided": _restride,
    "embedding": _embedding,
}
"""Operation -> rule, for those that only move numbers."""

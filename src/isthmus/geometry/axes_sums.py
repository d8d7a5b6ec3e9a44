"""Rules of operations that compute: products, attention, normalisation, reductions and pooling."""

from isthmus.geometry.axes import Axis, Product, Space, fixed, join, pin
from isthmus.geometry.axes_calls import Axes, Call, Rule, same, together


def _convolution(call: Call) -> Axes:
    x, weight = call.axes("input"), call.axes("weight")
    groups = call.number("groups")
    call.reads.append(("input", 1))
    group, outside = Space(groups), Space(weight[0].size // groups)
    join(weight[0], Product((group, outside)))
    if call.given["transposed"]:  # weight (in, out / groups, ...)
        join(x[1], weight[0])
        channels: Axis = Product((group, weight[1]))
    else:
        join(x[1], Product((group, weight[1])))
        channels = weight[0]
    if "bias" in call.held:
        join(channels, call.axes("bias")[0])
    for axis in x[2:]:
        pin(axis, "convolved over")
    for axis in weight[2:]:
        pin(axis)
    return (x[0], channels, *map(fixed, call.result.shape[2:]))


def _addmm(call: Call) -> Axes:
    return together([call.axes("self"), _product(call, "mat1", "mat2")], call.result.shape)


def _baddbmm(call: Call) -> Axes:
    return together([call.axes("self"), _product(call, "batch1", "batch2")], call.result.shape)


def _mm(call: Call) -> Axes:
    return _product(call, "self", "mat2")


def _mv(call: Call) -> Axes:
    one, two = call.axes("self"), call.axes("vec")
    join(one[1], two[0])
    call.reads += [("self", 1), ("vec", 0)]
    return one[:1]


def _linear(call: Call) -> Axes:
    x, weight = call.axes("input"), call.axes("weight")
    join(x[-1], weight[1])
    call.reads.append(("input", len(x) - 1))
    out = (*x[:-1], weight[0])
    return together([out, call.axes("bias")], call.result.shape) if "bias" in call.held else out


def _product(call: Call, first: str, second: str) -> Axes:
    """Return the axes of (..., n, k) @ (..., k, m)."""
    one, two = call.axes(first), call.axes(second)
    for a, b in zip(one[:-2], two[:-2], strict=True):
        join(a, b)
    join(one[-1], two[-2])
    call.reads += [(first, len(one) - 1), (second, len(two) - 2)]
    return (*one[:-1], two[-1])


def _attention(call: Call) -> Axes:
    query, key, value = call.axes("query"), call.axes("key"), call.axes("value")
    for a, b, c in zip(query[:-2], key[:-2], value[:-2], strict=True):
        join(a, b)
        join(b, c)
    join(query[-1], key[-1])
    for axis in (query[-2], key[-2], value[-2]):
        pin(axis, "tokens")
    for mask in call.held.keys() & {"attn_mask", "attn_bias"}:
        for axis, of in zip(reversed(call.axes(mask)), (key[-2], query[-2], *reversed(query[:-2])), strict=False):
            if axis.size > 1:
                join(axis, of)
    call.reads += [("query", len(query) - 1), ("key", len(key) - 1)]
    return (*query[:-1], value[-1])


def _batch_norm(call: Call) -> Axes:
    x = call.axes("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if name in call.held:
            join(x[1], call.axes(name)[0])
    return x


def _layer_norm(call: Call) -> Axes:
    x = call.axes("input")
    for name in ("weight", "bias"):
        if name in call.held:
            held = call.axes(name)
            for own, other in zip(x[len(x) - len(held) :], held, strict=True):
                join(own, other)
    return x


def _group_norm(call: Call) -> Axes:
    x = call.axes("input")
    groups = call.number("group")
    join(x[1], Product((Space(groups), Space(x[1].size // groups))))
    for name in ("weight", "bias"):
        if name in call.held:
            join(x[1], call.axes(name)[0])
    return x


def _reduce(call: Call) -> Axes:
    x = same(call)
    gone = call.dims("dim", x)
    if call.given.get("keepdim"):
        return tuple(fixed(1) if k in gone else axis for k, axis in enumerate(x))
    return tuple(axis for k, axis in enumerate(x) if k not in gone)


def _arg_reduce(call: Call) -> Axes:
    """As _reduce, with the place of what was found as a second result: it must not move."""
    if "dim" in call.given:
        pin(call.axes("self")[call.place("dim", call.axes("self"))], "searched")
    return _reduce(call)


def _glu(call: Call) -> Axes:
    """One half of an axis gates the other: the two move alike."""
    x = call.axes("self")
    place = call.place("dim", x)
    half = Space(x[place].size // 2)
    join(x[place], Product((fixed(2), half)))
    return (*x[:place], half, *x[place + 1 :])


def _pool(spatial: int) -> Rule:
    def rule(call: Call) -> Axes:
        x = same(call)
        for axis in x[len(x) - spatial :]:
            pin(axis, "pooled over")
        return (*x[: len(x) - spatial], *map(fixed, call.result.shape[len(x) - spatial :]))

    return rule


SUMS: dict[str, Rule] = {
    "convolution": _convolution,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "mm": _mm,
    "bmm": _mm,
    "mv": _mv,
    "linear": _linear,
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
        ),
        _attention,
    ),
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
        _batch_norm,
    ),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), _layer_norm),
    "native_group_norm": _group_norm,
    **dict.fromkeys(
        (
            "mean",
            "sum",
            "amax",
            "amin",
            "prod",
            "any",
            "all",
            "var",
            "std",
            "var_mean",
            "logsumexp",
            "linalg_vector_norm",
            "norm",
        ),
        _reduce,
    ),
    **dict.fromkeys(("max", "min"), _arg_reduce),
    "glu": _glu,
    **{
        f"{kind}{n}d": _pool(n)
        for n in (1, 2, 3)
        for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
    },
    **{f"_adaptive_avg_pool{n}d": _pool(n) for n in (2, 3)},
    **{f"max_pool{n}d_with_indices": _pool(n) for n in (2, 3)},
    **{f"{kind}_pad{n}d": _pool(n) for n in (1, 2, 3) for kind in ("reflection", "replication")},
    **{f"upsample_nearest{n}d": _pool(n) for n in (1, 2, 3)},
    **dict.fromkeys(("upsample_bilinear2d", "upsample_bicubic2d"), _pool(2)),
}
"""Operation -> rule, for those that compute."""

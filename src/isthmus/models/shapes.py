"""What every model factory asks of its sizes."""

from isthmus._check import require

Shape = tuple[int, ...]


def require_size(name: str, value: int) -> None:
    """Raise InputError unless `value` is a whole number above zero."""
    require(_counts(value), name, "be a whole number above zero", value)


def require_dropout(dropout: float) -> None:
    """Raise InputError unless `dropout` is a probability below one."""
    require(0 <= dropout < 1, "dropout", "be a probability in [0, 1)", dropout)


def require_task(num_classes: int, input_shape: Shape) -> None:
    """Raise InputError unless there are two classes and a shape (without the batch) of positive sizes."""
    require(_counts(num_classes) and num_classes >= 2, "num_classes", "be a whole number of at least 2", num_classes)
    good = len(input_shape) > 0 and all(_counts(size) for size in input_shape)
    require(good, "input_shape", "be the positive sizes of one sample, without the batch", tuple(input_shape))


def image_shape(input_shape: Shape, *, model: str, least: int) -> tuple[int, int, int]:
    """Return `(channels, height, width)`. Raises InputError for what is not an image or has a side below `least` pixels."""
    require(len(input_shape) == 3, "input_shape", f"be (channels, height, width) for {model}", tuple(input_shape))
    channels, height, width = input_shape
    enough = min(height, width) >= least
    require(
        enough, "input_shape", f"have at least {least} x {least} pixels for {model}", tuple(input_shape), "Use `mlp`."
    )
    return channels, height, width


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

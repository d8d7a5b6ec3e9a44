"""`Samples` against hand-made arrays; every refusal by its message."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from isthmus._check import InputError
from isthmus.data import Samples, Splits, require_inputs


def images(count: int = 6, channels: int = 3, side: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, channels, side, side), generator=torch.Generator().manual_seed(seed)).byte()


def samples(count: int = 6, num_classes: int = 3) -> Samples:
    return Samples(images(count), torch.arange(count) % num_classes, num_classes, "toy/train")


def test_inputs_are_the_bytes_over_255_whole_and_by_index():
    toy = samples()
    assert toy.inputs().dtype == torch.float32
    assert torch.equal(toy.inputs(), toy.x.float() / 255)
    assert torch.equal(toy.inputs(torch.tensor([4, 1, 1])), toy.x[[4, 1, 1]].float() / 255)


def test_inputs_of_floats_are_the_floats():
    x = torch.rand(5, 7, dtype=torch.float64)
    toy = Samples(x, torch.zeros(5, dtype=torch.int64), 2)
    assert torch.equal(toy.inputs(), x.float())
    assert not toy.is_images
    assert toy.input_shape == (7,)


def test_any_whole_label_dtype_is_stored_as_int64():
    for dtype in (torch.uint8, torch.int32, torch.int64):
        assert Samples(images(2), torch.tensor([0, 1], dtype=dtype), 2).y.dtype == torch.int64


def test_index_follows_take_of_take():
    toy = samples(10, 2)
    assert toy.index.tolist() == list(range(10))
    inner = toy.take(torch.tensor([9, 3, 5, 7])).take(torch.tensor([2, 0]))
    assert inner.index.tolist() == [5, 9]
    assert torch.equal(inner.x, toy.x[[5, 9]])
    assert inner.y.tolist() == [1, 1]
    assert inner.name == "toy/train"


def test_take_accepts_a_mask():
    toy = samples()
    assert toy.take(toy.y == 1).index.tolist() == [1, 4]


def test_images_are_stored_contiguous_in_channels_first_order():
    x = images().to(memory_format=torch.channels_last)
    assert not x.is_contiguous()
    toy = Samples(x, torch.zeros(6, dtype=torch.int64), 1)
    assert toy.x.is_contiguous()
    assert torch.equal(toy.x, x)


def test_digest_is_sha256_of_header_inputs_and_labels_and_of_nothing_else():
    toy = samples()
    header = f"{tuple(toy.x.shape)} torch.uint8".encode()
    assert toy.digest() == hashlib.sha256(header + toy.x.numpy().tobytes() + toy.y.numpy().tobytes()).hexdigest()
    assert Samples(toy.x, toy.y, 9, "other").digest() == toy.digest()
    assert toy.replaced(y=toy.y.flip(0)).digest() != toy.digest()
    assert toy.replaced(x=255 - toy.x).digest() != toy.digest()


def test_contents_are_equal_exactly_for_equal_inputs():
    x = images(4)
    x[3] = x[1]
    x[2] = x[1]
    x[2, 0, 0, 0] ^= 1
    one, two, three, four = Samples(x, torch.tensor([0, 0, 0, 1]), 2).contents()
    assert two == four
    assert len({one, two, three}) == 3


def test_replaced_keeps_name_and_index():
    part = samples().take(torch.tensor([5, 2]))
    other = part.replaced(x=images(2, seed=9))
    assert (other.name, other.index.tolist(), other.y.tolist()) == ("toy/train", [5, 2], part.y.tolist())


def test_subset_keeps_class_shares_and_follows_its_generator():
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    toy = Samples(torch.rand(100, 2), y, 4, "toy")
    part = toy.subset(11, generator=torch.Generator().manual_seed(0))
    assert torch.bincount(part.y, minlength=4).tolist() == [7, 3, 1, 0]
    assert part.index.tolist() == sorted(set(part.index.tolist()))
    again = toy.subset(11, generator=torch.Generator().manual_seed(0))
    other = toy.subset(11, generator=torch.Generator().manual_seed(1))
    assert torch.equal(part.index, again.index)
    assert not torch.equal(part.index, other.index)


def test_subset_keeps_rare_classes_where_there_is_room():
    toy = Samples(torch.rand(102, 2), torch.tensor([0] * 100 + [1, 2]), 3)
    draw = torch.Generator()
    assert torch.bincount(toy.subset(3, generator=draw).y).tolist() == [1, 1, 1]
    assert torch.bincount(toy.subset(2, generator=draw).y, minlength=3).tolist() == [2, 0, 0]
    assert toy.subset(102, generator=draw).index.tolist() == list(range(102))


def test_subset_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    samples().subset(3, generator=torch.Generator())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("n", [0, 7])
def test_subset_refuses_impossible_sizes(n):
    with pytest.raises(InputError, match=rf"`n` should be between 1 and the 6 samples of 'toy/train'\. Found {n}\."):
        samples().subset(n, generator=torch.Generator())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (images(0), [], r"`bad` should hold at least one sample\. Found shape \(0, 3, 4, 4\)"),
        (torch.zeros(3), [0, 0, 0], r"`bad` should hold at least one sample\. Found shape \(3,\)"),
        (images(2), [0], r"should have one label for each of its 2 samples\. Found labels of shape \(1,\)"),
        (images(2), [[0], [1]], r"one label for each of its 2 samples\. Found labels of shape \(2, 1\)"),
        (images(2), [0.0, 1.0], r"`bad` should have integer labels\. Found dtype torch\.float32"),
        (images(2), [True, False], r"`bad` should have integer labels\. Found dtype torch\.bool"),
        (images(3), [0, 3, 4], r"labels from 0 to 2\. Found 3 at position 1 \(2 such labels\)"),
        (images(3), [0, 1, -1], r"labels from 0 to 2\. Found -1 at position 2"),
        (images(2).long(), [0, 1], r"`bad` should hold uint8 or floating-point samples\. Found torch\.int64"),
        (torch.tensor([[1.0], [torch.nan]]), [0, 1], r"`bad` should hold finite numbers\. Found 1 NaN or infinite"),
        (images(2).float(), [0, 1], r"`bad` should hold float images in \[0, 1\]\. Found values from .* inside the model"),
        (-torch.rand(2, 1, 2, 2) - 0.1, [0, 1], r"float images in \[0, 1\]\. Found values from -"),
    ],
)  # fmt: skip
def test_construction_refuses(x, y, message):
    with pytest.raises(InputError, match=message):
        Samples(x, torch.tensor(y), 3, "bad")


def test_construction_refuses_an_index_of_another_length():
    with pytest.raises(InputError, match=r"`index` should have shape \(2,\)\. Found \(3,\)"):
        Samples(images(2), torch.tensor([0, 1]), 2, "bad", torch.arange(3))


def test_features_may_leave_the_unit_interval():
    assert Samples(torch.tensor([[-5.0], [9.0]]), torch.tensor([0, 1]), 2).x.max() == 9


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([], dtype=torch.int64), r"`index` should take at least one of the 6 samples .* Found none"),
        (torch.tensor([0, 6]), r"`index` should lie in 0\.\.5\. Found 6"),
        (torch.tensor([-1, 2]), r"`index` should lie in 0\.\.5\. Found -1"),
        (torch.ones(5, dtype=torch.bool), r"`index` should be a mask of shape \(6,\)\. Found \(5,\)"),
    ],
)
def test_take_refuses(index, message):
    with pytest.raises(InputError, match=message):
        samples().take(index)


class Pairs(Dataset):
    def __init__(self, items, classes=None):
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, position):
        return self.items[position]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(2), 0), (torch.ones(2), 1)])


def test_of_reads_tensor_datasets():
    x, y = images(4), torch.tensor([2, 0, 1, 0])
    toy = Samples.of(TensorDataset(x, y))
    assert torch.equal(toy.x, x)
    assert torch.equal(toy.y, y)
    assert (toy.num_classes, toy.name) == (3, "dataset")


def test_of_reads_pictures_and_arrays_alike():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    pixels.setflags(write=False)
    pictures = Samples.of(Pairs([(Image.fromarray(p), 0) for p in pixels]))
    arrays = Samples.of(Pairs([(p, np.int64(0)) for p in pixels]))
    assert pictures.input_shape == (3, 4, 5)
    assert torch.equal(pictures.x, torch.tensor(pixels).permute(0, 3, 1, 2))
    assert torch.equal(arrays.x, pictures.x)
    gray = Samples.of(Pairs([(Image.fromarray(pixels[0, ..., 0]), 0)]))
    assert torch.equal(gray.x[0, 0], torch.tensor(pixels[0, ..., 0]))


def test_of_keeps_float_arrays_as_they_are():
    values = np.array([0.5, -3.0], dtype=np.float32)
    assert Samples.of(Pairs([(values, 0)])).x.tolist() == [[0.5, -3.0]]


def test_of_takes_the_class_count_from_argument_then_classes_then_labels():
    items = [(torch.zeros(2), 1)]
    assert Samples.of(Pairs(items)).num_classes == 2
    assert Samples.of(Pairs(items, ["a", "b", "c"])).num_classes == 3
    assert Samples.of(Pairs(items, ["a", "b", "c"]), num_classes=7).num_classes == 7


def test_of_reads_a_stream():
    assert Samples.of(Stream()).x.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], r"`mine` should hold at least one item\. Found none"),
        ([torch.zeros(2)], r"should hold \(input, label\) items\. Found Tensor as item 0"),
        ([(torch.zeros(2),)], r"should hold \(input, label\) items\. Found tuple as item 0"),
        ([(torch.zeros(2), 0), (torch.zeros(2), 0.5)], r"should have integer labels\. Found 0\.5 in item 1"),
        ([(torch.zeros(2), True)], r"should have integer labels\. Found True in item 0"),
        ([(torch.zeros(2), 0), (torch.zeros(3), 0)], r"one shape and dtype: \(2,\) .* Found \(3,\) torch\.float32 in item 1"),
        ([("cat", 0)], r"should hold tensors, arrays or PIL pictures\. Found str in item 0"),
        ([(Image.new("F", (2, 2)), 0)], r"8-bit grayscale or colour images\. Found mode 'F' in item 0 of mine"),
    ],
)  # fmt: skip
def test_of_refuses(items, message):
    with pytest.raises(InputError, match=message):
        Samples.of(Pairs(items), name="mine")


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        ((1, 28, 28), (3, 32, 32), r"3x32x32 images, as the model takes\. Found 1x28x28 in 'a'\. Grayscale images do not fit colour"),
        ((3, 32, 32), (1, 32, 32), r"1x32x32 images, as the model takes\. Found 3x32x32 in 'a'\. Colour images do not fit grayscale"),
        ((3, 16, 16), (3, 32, 32), r"3x32x32 images, as the model takes\. Found 3x16x16 in 'a'\. Give a size"),
        ((5,), (7,), r"`data` should hold 7 inputs, as the model takes\. Found 5 in 'a'\.$"),
    ],
)  # fmt: skip
def test_require_inputs_refuses_other_shapes(found, wanted, message):
    toy = Samples(torch.zeros(1, *found), torch.tensor([0]), 1, "a")
    with pytest.raises(InputError, match=message):
        require_inputs(toy, wanted, "the model")
    require_inputs(toy, found, "the model")


def test_splits_hold_two_parts_of_one_kind():
    train = samples()
    splits = Splits(train, samples(3), "toy")
    assert (splits.num_classes, splits.input_shape) == (3, (3, 4, 4))
    with pytest.raises(InputError, match=r"should hold 3x4x4 images, as toy/train takes\. Found 1x4x4"):
        Splits(train, Samples(images(2, channels=1), torch.tensor([0, 1]), 3, "toy/test"), "toy")
    with pytest.raises(InputError, match=r"`toy/test` should have 3 classes, as 'toy/train'\. Found 2"):
        Splits(train, Samples(images(2), torch.tensor([0, 1]), 2, "toy/test"), "toy")

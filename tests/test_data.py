from dataclasses import replace

import numpy as np
import pytest
import torch

import data
from engine.flags import default_data_dir
from sources import downloading, finding


@pytest.mark.parametrize(
    ("name", "train", "validation", "test"),
    [("fashion_mnist_sample", 5000, 1000, 1000), ("mnist_sample", 3600, 700, 700)],
)
def test_samples_are_split_as_stated_and_stratified(name, train, validation, test):
    dataset = data.load(name, "unused")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (train, validation, test)
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.images.dtype == torch.uint8
        assert split.images.shape[1:] == dataset.shape == (1, 28, 28)
        assert split.labels.bincount().tolist() == [len(split) // 10] * 10


def test_splits_share_no_image_and_lose_none():
    dataset = data.load("mnist_sample", "unused")
    splits = [dataset.train, dataset.validation, dataset.test]
    in_splits = sorted(image.numpy().tobytes() for split in splits for image in split.images)
    images, *_ = finding.find("mnist_sample", "unused").arrays
    assert in_splits == sorted(image.tobytes() for image in images)


def test_the_test_set_is_the_data_sets_own_where_it_has_one():
    _, _, images, labels = finding.find("fashion_mnist_sample", "unused").arrays
    for split_seed in (0, 1):
        test = data.load("fashion_mnist_sample", "unused", split_seed).test
        assert np.array_equal(test.images, images)
        assert np.array_equal(test.labels, labels)


def test_the_split_depends_on_its_seed_alone():
    first, second = (data.load("mnist_sample", "unused", split_seed).train.images for split_seed in (0, 1))
    np.random.seed(5)  # noqa: NPY002 the global generator is what must not matter
    torch.manual_seed(5)
    data._load.cache_clear()
    assert torch.equal(data.load("mnist_sample", "unused", 0).train.images, first)
    assert not torch.equal(first, second)


def test_channel_statistics_are_numpys(clothes):
    images = clothes.train.images.numpy() / 255
    assert clothes.mean == pytest.approx([images.mean()], abs=1e-9)
    assert clothes.std == pytest.approx([images.std()], abs=1e-9)


def test_colour_statistics_are_per_channel():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    mean, std = data.compute_channel_statistics(images)
    assert mean == pytest.approx((images.double() / 255).mean((0, 2, 3)).tolist())
    assert std == pytest.approx((images.double() / 255).std((0, 2, 3), correction=0).tolist())


def test_to_float_gives_what_totensor_and_normalize_give(digits):
    transforms = downloading.import_torchvision().transforms
    images = digits.test.images[:8]
    expected = torch.stack([transforms.ToTensor()(image.squeeze(0).numpy()) for image in images])
    assert not digits.is_standardized
    assert torch.equal(digits.to_float(images), expected)
    standardized = replace(digits, mean=(0.13,), std=(0.31,), is_standardized=True)
    normalized = transforms.Normalize((0.13,), (0.31,))(expected)
    torch.testing.assert_close(standardized.to_float(images), normalized, rtol=0, atol=1e-6)


def test_each_channel_is_standardized_in_place_or_left_alone(digits):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)
    colours = torch.rand(2, 3, 4, 4)
    expected = (colours - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    before = colours.clone()
    assert replace(digits, mean=mean, std=std).standardize_(colours) is colours
    assert torch.equal(colours, before)
    assert replace(digits, mean=mean, std=std, is_standardized=True).standardize_(colours) is colours
    torch.testing.assert_close(colours, expected, rtol=0, atol=1e-6)


def test_a_channel_of_one_value_becomes_zero(digits):
    constant = replace(digits, mean=(0.5,), std=(0.0,), is_standardized=True)
    assert torch.equal(constant.standardize_(torch.full((2, 1, 4, 4), 0.5)), torch.zeros(2, 1, 4, 4))


@pytest.mark.usefixtures("float64")
def test_standardized_train_images_have_mean_0_and_deviation_1(digits):
    images = replace(digits, is_standardized=True).to_float(digits.train.images)
    assert images.mean().item() == pytest.approx(0, abs=1e-9)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("count", "batch_size", "bounds"),
    [
        (10, 4, [(0, 4), (4, 8), (8, 10)]),
        (9, 4, [(0, 4), (4, 9)]),  # a last batch of one image joins the batch before it
        (8, 4, [(0, 4), (4, 8)]),
        (1, 4, [(0, 1)]),
        (3, 4, [(0, 3)]),
        (3, 1, [(0, 1), (1, 2), (2, 3)]),  # with which batch norm is refused
    ],
)
def test_batches_follow_each_other_and_a_last_batch_of_one_joins_the_one_before(count, batch_size, bounds):
    assert data.list_batches(count, batch_size) == bounds


@pytest.mark.parametrize(
    ("name", "train", "images_a_class"),
    [("fashion_mnist", 50_000, [5000] * 10), ("mnist", 50_000, None), ("cifar10", 40_000, [4000] * 10)],
)
def test_full_data_sets_where_they_are(name, train, images_a_class):
    data_dir = default_data_dir()
    if finding.find(name, data_dir).missing:
        pytest.skip(f"{name} is not in {data_dir}; set DATA_DIR to the folder that holds it")
    dataset = data.load(name, data_dir)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (train, 10_000, 10_000)
    if images_a_class:
        assert dataset.train.labels.bincount().tolist() == images_a_class
    published = {"fashion_mnist": (0.2860, 0.3530), "mnist": (0.1307, 0.3081), "cifar10": (0.4914, 0.2470)}[name]
    assert (dataset.mean[0], dataset.std[0]) == pytest.approx(published, abs=2e-3)

import pytest
import torch
from scipy import stats

from augmentation import NODES, Augmentation, draw_shares, find_correct, mix
from sources import downloading

AFFINE = dict(affine_degrees=10.0, affine_translate=0.1, affine_scale=0.1)
JITTER = dict(brightness=0.2, contrast=0.2)
EVERYTHING = dict(crop_padding=4, flip=True, rotation=15.0, rotation_fill=77, **AFFINE, **JITTER)


@pytest.fixture(scope="module")
def functional():
    return downloading.import_torchvision().transforms.functional


@pytest.fixture(params=["gray", "colour"])
def images(request, digits):
    """(60, 1, 28, 28) digits of every class, or (20, 3, 32, 32): a digit in each channel."""
    gray = digits.train.images[::60]
    if request.param == "gray":
        return gray
    return torch.nn.functional.pad(gray.view(3, 20, 28, 28).transpose(0, 1), (2, 2, 2, 2))


def draw(augmentation, images, seed=0):
    return augmentation.draw(len(images), images.shape[1:], torch.Generator().manual_seed(seed))


def parameters_by_image(drawn, count):
    """Return each image's parameters, {name: value}; what is off has the value that changes nothing."""
    off = dict(flip=False, rotation=0.0, affine_degrees=0.0, affine_right=0, affine_down=0, affine_scale=1.0)
    off |= dict(brightness=1.0, contrast=1.0, contrast_first=False)
    return [off | {name: values[i].item() for name, values in drawn.items()} for i in range(count)]


def move_by_torchvision(functional, augmentation, images, drawn):
    """Crop, flip, rotate and transform PIL images one by one, and return them as uint8."""
    moved = []
    for pixels, values in zip(images, parameters_by_image(drawn, len(images)), strict=True):
        image = functional.to_pil_image(pixels)
        if augmentation.crop_padding:
            mode = {"zero": "constant", "reflect": "reflect"}[augmentation.crop_mode]
            image = functional.pad(image, augmentation.crop_padding, padding_mode=mode)
            image = functional.crop(image, values["crop_top"], values["crop_left"], *pixels.shape[1:])
        if values["flip"]:
            image = functional.hflip(image)
        image = functional.rotate(image, values["rotation"], fill=augmentation.rotation_fill)
        shift = [int(values["affine_right"]), int(values["affine_down"])]
        image = functional.affine(image, values["affine_degrees"], shift, values["affine_scale"], shear=[0.0, 0.0])
        moved.append(functional.pil_to_tensor(image))
    return torch.stack(moved)


def jitter_by_torchvision(functional, image, values):
    steps = [(functional.adjust_brightness, values["brightness"]), (functional.adjust_contrast, values["contrast"])]
    for adjust, factor in reversed(steps) if values["contrast_first"] else steps:
        image = adjust(image, factor)
    return image


@pytest.mark.parametrize(
    "settings",
    [
        dict(crop_padding=4),
        dict(crop_padding=4, crop_mode="reflect"),
        dict(flip=True),
        dict(crop_padding=2, crop_mode="reflect", flip=True),
        dict(rotation=15.0),
        dict(rotation=180.0, rotation_fill=200),
        dict(affine_degrees=30.0),
        dict(affine_translate=0.2),
        AFFINE,
        dict(rotation=7.0, rotation_fill=77, **AFFINE),
        dict(crop_padding=4, crop_mode="reflect", flip=True, rotation=30.0, rotation_fill=77, **AFFINE),
    ],
    ids=lambda settings: "-".join(settings),
)
def test_every_pixel_is_the_one_torchvision_picks(functional, images, settings):
    augmentation = Augmentation(**settings)
    drawn = draw(augmentation, images)
    expected = move_by_torchvision(functional, augmentation, images, drawn)
    assert torch.equal(augmentation(images, drawn) * 255, expected.float())
    assert not torch.equal(expected, images)


def test_scaling_alone_picks_nearly_every_pixel_as_torchvision_does(functional, images):
    """Without a rotation PIL counts in floats; a pixel a few 65,536ths from a tie may be its neighbour."""
    augmentation = Augmentation(affine_translate=0.1, affine_scale=0.3)
    drawn = draw(augmentation, images)
    expected = move_by_torchvision(functional, augmentation, images, drawn)
    assert (augmentation(images, drawn) * 255 != expected).double().mean() < 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        dict(rotation=15.0),
        dict(rotation=180.0, rotation_fill=200),
        dict(affine_degrees=30.0),
        dict(affine_scale=0.3),
        dict(rotation=7.0, rotation_fill=77, **AFFINE),
    ],
    ids=lambda settings: "-".join(settings),
)
@pytest.mark.parametrize("height", [slice(None), slice(6, -3)], ids=["square", "wide"])
def test_bilinear_pixels_are_torchvisions(functional, images, settings, height):
    """Positions are whole 65,536ths of a pixel, so a mixture near a half may be rounded to the other gray level."""
    augmentation, images = Augmentation(interpolation="bilinear", **settings), images[:, :, height]
    drawn = draw(augmentation, images)
    moved = []
    for image, values in zip(images, parameters_by_image(drawn, len(images)), strict=True):
        # torchvision's own fill counts a pixel at the edge by its weight twice, so the image gets a wide border first.
        bordered = functional.pad(image, 20, fill=augmentation.rotation_fill)
        turned = functional.rotate(bordered, values["rotation"], functional.InterpolationMode.BILINEAR)
        turned = functional.center_crop(turned, list(image.shape[1:]))
        shift, shear = [int(values["affine_right"]), int(values["affine_down"])], [0.0, 0.0]
        scale, mode = values["affine_scale"], functional.InterpolationMode.BILINEAR
        moved.append(functional.affine(turned, values["affine_degrees"], shift, scale, shear, mode))
    differences = (augmentation(images, drawn) * 255 - torch.stack(moved)).abs()
    assert differences.max() <= 1
    assert (differences > 0.5).double().mean() < 0.01
    assert not torch.equal(augmentation(images, drawn), Augmentation(**settings)(images, drawn))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("height", [slice(None), slice(6, -3)], ids=["square", "wide"])
def test_an_elastic_deformation_is_torchvisions_with_bicubic_displacements(functional, images, interpolation, height):
    augmentation, images = Augmentation(elastic=1.5, interpolation=interpolation), images[:, :, height]
    drawn, mode = draw(augmentation, images), getattr(functional.InterpolationMode, interpolation.upper())
    size = list(images.shape[2:])
    displacements = torch.nn.functional.interpolate(drawn["elastic"], size, mode="bicubic", align_corners=True)
    in_halves = (displacements * 2 / torch.tensor(size).view(2, 1, 1)).flip(1).permute(0, 2, 3, 1)  # of the image: x, y
    bent = [
        functional.elastic_transform(image, displacement[None], mode, None)
        for image, displacement in zip(images, in_halves, strict=True)
    ]
    differences = (augmentation(images, drawn) * 255 - torch.stack(bent)).abs()
    assert (differences > (1 if interpolation == "bilinear" else 0)).double().mean() < 1e-4
    assert (differences > 0.5).double().mean() < 0.01
    assert not torch.equal(torch.stack(bent), images)


def test_the_elastic_deformation_comes_after_the_affine_transform():
    """So an image that is scaled by a factor is scaled with its displacements."""
    columns = torch.arange(28.0).expand(1, 1, 28, 28).byte() * 8  # a ramp, so that gray levels tell places
    settings = dict(affine_scale=0.3, interpolation="bilinear")
    bending, straight = Augmentation(**settings, elastic=1.0), Augmentation(**settings)
    drawn = draw(bending, columns)
    drawn["elastic"][:] = torch.tensor([0.0, 1.5]).view(1, 2, 1, 1)  # all nodes to the right alike
    drawn["affine_scale"][:] = 0.7
    moved = (bending(columns, drawn) - straight(columns, drawn))[0, 0, 10:18, 10:18] * 255 / 8
    torch.testing.assert_close(moved, (1.5 / drawn["affine_scale"]).float().expand(8, 8), rtol=0, atol=0.2)


def test_nodes_are_displaced_normally_and_leave_the_other_numbers_as_they_were(images):
    drawn = Augmentation(elastic=2.0).draw(2000, (1, 20, 28), torch.Generator().manual_seed(1))
    assert drawn["elastic"].shape == (2000, 2, NODES, NODES)
    assert stats.kstest(drawn["elastic"].flatten()[:20_000].numpy() / 2, "norm").pvalue > 0.001
    both = draw(Augmentation(**EVERYTHING, cutout=5, elastic=2.0), images)
    for settings in (dict(cutout=5), dict(elastic=2.0)):  # each leaves the other's numbers as they are
        alone = draw(Augmentation(**EVERYTHING, **settings), images)
        assert both.keys() - alone.keys() == ({"elastic"} if "cutout" in settings else {"cutout_top", "cutout_left"})
        assert all(torch.equal(both[name], values) for name, values in alone.items())


def test_where_nothing_turns_bilinear_pixels_are_the_nearest(images):
    settings = dict(crop_padding=2, flip=True, affine_translate=0.2)
    drawn = draw(Augmentation(**settings), images)
    bilinear = Augmentation(**settings, interpolation="bilinear")(images, drawn)
    assert torch.equal(bilinear, Augmentation(**settings)(images, drawn))


def test_images_need_not_be_square(functional, images):
    augmentation = Augmentation(crop_padding=3, flip=True, rotation=40.0, **AFFINE)
    images = images[:, :, 6:-3]
    drawn = draw(augmentation, images)
    expected = move_by_torchvision(functional, augmentation, images, drawn)
    assert torch.equal(augmentation(images, drawn) * 255, expected.float())


@pytest.mark.parametrize("settings", [dict(brightness=0.4), dict(contrast=0.4), JITTER], ids=lambda s: "-".join(s))
def test_jitter_is_torchvisions(functional, images, settings):
    augmentation = Augmentation(**settings)
    drawn = draw(augmentation, images)
    rows = zip(images, augmentation(images, drawn), parameters_by_image(drawn, len(images)), strict=True)
    for image, ours, values in rows:
        expected = jitter_by_torchvision(functional, image.float() / 255, values)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
        # On PIL images each of the two steps cuts to whole 255ths, and the mean is rounded to a whole 255th.
        expected = jitter_by_torchvision(functional, functional.to_pil_image(image), values)
        torch.testing.assert_close(ours * 255, functional.pil_to_tensor(expected).float(), rtol=0, atol=2.4)


def test_jitter_comes_last(images):
    moving = {name: value for name, value in EVERYTHING.items() if name not in JITTER}
    everything = Augmentation(**EVERYTHING)
    drawn = draw(everything, images)
    moved = Augmentation(**moving)(images, drawn).mul(255).round().byte()
    assert torch.equal(everything(images, drawn), Augmentation(**JITTER)(moved, drawn))


def test_nothing_switched_on_changes_nothing(images):
    assert draw(Augmentation(), images) == {}
    assert torch.equal(Augmentation()(images, {}), images.float() / 255)


@pytest.mark.parametrize(
    ("settings", "name", "low", "high"),
    [
        (dict(rotation=15.0), "rotation", -15, 15),
        (dict(affine_degrees=5.0), "affine_degrees", -5, 5),
        (dict(affine_scale=0.1), "affine_scale", 0.9, 1.1),
        (dict(brightness=0.2), "brightness", 0.8, 1.2),
        (dict(contrast=1.5), "contrast", 0, 2.5),
    ],
)
def test_draws_are_uniform(settings, name, low, high):
    values = (many_draws(**settings)[name] - low) / (high - low)
    assert 0 <= values.min() < 0.001
    assert 0.999 < values.max() <= 1
    assert values.mean().item() == pytest.approx(1 / 2, abs=0.01)
    assert values.var().item() == pytest.approx(1 / 12, abs=0.002)


def test_whole_numbers_are_drawn_as_often_as_torchvision_draws_them():
    drawn = many_draws(crop_padding=2, flip=True, affine_translate=0.1, **JITTER)
    for name in ("crop_left", "crop_top"):
        assert shares(drawn[name]) == pytest.approx(dict.fromkeys(range(5), 0.2), abs=0.015)
    # Of ±2.8 rounded, 3 stands for 2.5 to 2.8; of ±2.0, 2 stands for 1.5 to 2.
    right = {pixels: (0.3 if abs(pixels) == 3 else 1) / 5.6 for pixels in range(-3, 4)}
    down = {pixels: (0.5 if abs(pixels) == 2 else 1) / 4 for pixels in range(-2, 3)}
    assert shares(drawn["affine_right"]) == pytest.approx(right, abs=0.015)
    assert shares(drawn["affine_down"]) == pytest.approx(down, abs=0.015)
    for name in ("flip", "contrast_first"):
        assert drawn[name].double().mean().item() == pytest.approx(0.5, abs=0.015)


def many_draws(**settings):
    return Augmentation(**settings).draw(20_000, (1, 20, 28), torch.Generator().manual_seed(1))


def shares(values):
    values, counts = values.unique(return_counts=True)
    return dict(zip(values.tolist(), (counts / counts.sum()).tolist(), strict=True))


def test_draws_depend_on_the_generator_alone(images):
    first, again, other = (draw(Augmentation(**EVERYTHING), images, seed) for seed in (0, 0, 1))
    for name, values in first.items():
        assert torch.equal(values, again[name])
        assert not torch.equal(values, other[name])
        assert len(values) == len(images)
        assert len(values.unique()) > 1
    fewer = draw(Augmentation(rotation=15.0, contrast=0.2), images)
    assert fewer.keys() == {"rotation", "contrast"}
    assert all(torch.equal(values, first[name]) for name, values in fewer.items())


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_an_image_is_augmented_alike_in_any_batch(interpolation, images, monkeypatch):
    augmentation = Augmentation(**EVERYTHING, elastic=1.0, interpolation=interpolation)
    drawn = draw(augmentation, images)
    before = images.clone(), {name: values.clone() for name, values in drawn.items()}
    together = augmentation(images, drawn)
    monkeypatch.setattr("augmentation.VALUES_AT_ONCE", 10_000)
    parts = [
        augmentation(images[part], {name: values[part] for name, values in drawn.items()})
        for part in (slice(0, 1), slice(1, None))
    ]
    torch.testing.assert_close(together, torch.cat(parts), rtol=0, atol=1e-6)
    assert torch.equal(images, before[0])
    assert all(torch.equal(values, before[1][name]) for name, values in drawn.items())


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_double_precision_gives_the_same_picture(interpolation, images, float64):
    augmentation = Augmentation(**EVERYTHING, elastic=1.0, interpolation=interpolation)
    drawn = draw(augmentation, images)
    doubles = augmentation(images, drawn)
    torch.set_default_dtype(torch.float32)
    assert torch.equal(draw(augmentation, images)["elastic"], drawn["elastic"])
    floats = augmentation(images, drawn)
    assert (doubles.dtype, floats.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(doubles, floats.double(), rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Cutout


@pytest.mark.parametrize("side", [1, 2, 7, 8, 32])
def test_cutout_covers_a_square_around_each_center_with_the_mean_and_nothing_else(side, images):
    mean = (0.25, 0.5, 0.75)[: images.shape[1]]
    augmentation = Augmentation(cutout=side)
    drawn = draw(augmentation, images)
    covered, plain = augmentation(images, drawn, mean), images / 255
    for image, cut, top, left in zip(plain, covered, drawn["cutout_top"], drawn["cutout_left"], strict=True):
        rows, columns = (slice(max(0, start), start + side) for start in (int(top), int(left)))
        image[:, rows, columns] = torch.tensor(mean).view(-1, 1, 1)
        assert torch.equal(cut, image)


def test_every_pixel_is_the_center_of_a_cutout_equally_often():
    drawn = Augmentation(cutout=7).draw(56_000, (1, 20, 28), torch.Generator().manual_seed(1))
    for name, size in (("cutout_top", 20), ("cutout_left", 28)):
        centers = drawn[name] + 3  # half the side, rounded down
        counts = centers.bincount(minlength=size)
        assert len(counts) == size
        assert (counts - 56_000 / size).abs().max() < 5 * (56_000 / size) ** 0.5  # five standard errors


def test_cutout_comes_last_and_leaves_the_other_numbers_as_they_were(images):
    mean = (0.3,) * images.shape[1]
    augmentation, cutting = Augmentation(**EVERYTHING), Augmentation(**EVERYTHING, cutout=6)
    drawn, also_drawn = draw(augmentation, images), draw(cutting, images)
    assert also_drawn.keys() - drawn.keys() == {"cutout_top", "cutout_left"}
    assert all(torch.equal(also_drawn[name], values) for name, values in drawn.items())
    cut, plain = cutting(images, also_drawn, mean), augmentation(images, drawn)
    assert set(cut[cut != plain].tolist()) == {torch.tensor(0.3).item()}


def test_cutout_does_not_depend_on_the_chunks(images, monkeypatch):
    augmentation = Augmentation(cutout=9)
    drawn, mean = draw(augmentation, images), (0.3,) * images.shape[1]
    whole = augmentation(images, drawn, mean)
    monkeypatch.setattr("augmentation.VALUES_AT_ONCE", 5000)
    assert torch.equal(augmentation(images, drawn, mean), whole)


def test_cutout_without_a_mean_for_each_channel_is_an_error(images):
    augmentation = Augmentation(cutout=9)
    with pytest.raises(ValueError, match="zip"):
        augmentation(images, draw(augmentation, images))


# ---------------------------------------------------------------------------------------------------------------------
# Mixup


@pytest.mark.usefixtures("float64")
def test_each_image_and_label_is_mixed_with_the_runs_previous_one_by_its_own_share():
    images, labels = torch.rand(4, 2 * 3, 5, 5), torch.tensor([[0, 1], [2, 2], [1, 1], [0, 3]])
    shares = torch.tensor([[0.25, 1.0], [0.0, 0.5], [0.75, 0.125], [0.5, 0.875]])
    mixed, probabilities = mix(images, labels, shares, classes=4)
    assert probabilities.shape == (4, 2, 4)
    for i in range(4):
        j = (i - 1) % 4
        for run in range(2):
            share, channels = shares[i, run], slice(3 * run, 3 * run + 3)
            expected = share * images[i, channels] + (1 - share) * images[j, channels]
            torch.testing.assert_close(mixed[i, channels], expected, rtol=0, atol=1e-15)
            for label in range(4):
                of_label = share * (labels[i, run] == label) + (1 - share) * (labels[j, run] == label)
                assert probabilities[i, run, label] == of_label


def test_of_a_mixed_label_the_predicted_classs_share_is_correct():
    predicted, labels = torch.tensor([0, 2, 1, 1]), torch.tensor([0, 1, 1, 0])
    assert find_correct(predicted, labels).tolist() == [True, False, True, False]
    mixed = torch.tensor([[0.25, 0.75, 0], [0, 0.5, 0.5], [0.0, 1, 0], [1, 0, 0]])
    assert find_correct(predicted, mixed).tolist() == [0.25, 0.5, 1, 0]


@pytest.mark.usefixtures("float64")  # rounding to single precision would make many shares 1
@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 8.0])
def test_shares_have_the_distribution_beta(alpha):
    shares = draw_shares(alpha, 20_000, torch.Generator().manual_seed(5))
    assert stats.kstest(shares.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.001
    assert torch.equal(draw_shares(alpha, 20_000, torch.Generator().manual_seed(5)), shares)
    assert not torch.equal(draw_shares(alpha, 20_000, torch.Generator().manual_seed(6)), shares)


@pytest.mark.parametrize("alpha", [1e-300, 1e-6, 1000.0])
def test_shares_are_numbers_from_0_to_1_at_the_ends_of_the_range(alpha):
    shares = draw_shares(alpha, 1000, torch.Generator().manual_seed(5))
    assert ((shares >= 0) & (shares <= 1)).all()

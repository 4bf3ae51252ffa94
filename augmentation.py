"""Random augmentation of batches of images, with separate random parameters for each image.

    augmentation = Augmentation(rotation=15, affine_translate=0.1, brightness=0.2)
    drawn = augmentation.draw(len(images), images.shape[1:], generator)
    floats = augmentation(images, drawn)              # uint8 (n, channels, height, width) -> floats 0..1

Pixels and distributions equal those of torchvision's RandomCrop, RandomHorizontalFlip, RandomRotation, RandomAffine and
ColorJitter, applied in this order, the last to float images and the others to PIL images; a scale alone may pick the
neighbour of one pixel in a thousand. Bilinear pixels are torchvision's of uint8 tensors, but one in a hundred may
differ by a gray level, and places outside the image count as `fill` with their weight. torchvision uses the same random
parameters for a whole batch, so it would have to be called for each image; here a batch takes a few passes. Cutout
comes last. `mix` mixes pairs of augmented images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

PARAMETERS = (
    "crop_left",
    "crop_top",
    "flip",
    "rotation",
    "affine_degrees",
    "affine_right",
    "affine_down",
    "affine_scale",
    "brightness",
    "contrast",
    "contrast_first",
)  # and of cutout and the elastic deformation, which draw after them
NODES = 5  # a side; of the grid of points that `elastic` moves
VALUES_AT_ONCE = 1 << 18  # larger chunks make malloc return memory to the system each call, which doubles the time
GRAY = (0.2989, 0.587, 0.114)  # torchvision's weights for red, green and blue
Numbers = Tensor | float


@dataclass(frozen=True)
class Augmentation:
    """The ranges that each image's parameters are drawn from; a range of 0 switches the step off."""

    crop_padding: int = 0  # pixels added on each side before a crop back to the image's size
    crop_mode: str = "zero"  # the added pixels: `zero`, or `reflect` (without repeating the edge)
    flip: bool = False  # left to right, with probability 1/2
    rotation: float = 0.0  # ± degrees
    rotation_fill: int = 0  # 0 to 255, for pixels that come from outside the image
    affine_degrees: float = 0.0  # ± degrees
    affine_translate: float = 0.0  # ± share of width and height
    affine_scale: float = 0.0  # factor 1 ± this, below 1
    elastic: float = 0.0  # standard deviation of the nodes' displacements, in pixels
    interpolation: str = "nearest"  # of the pixels that are moved by the above; or `bilinear`
    brightness: float = 0.0  # factor 1 ± this
    contrast: float = 0.0  # factor 1 ± this
    cutout: int | None = None  # side of a square that is covered, in pixels

    @classmethod
    def of(cls, settings: object) -> Self:
        """Build from any object that has these attributes, such as an `experiments.Experiment`."""
        return cls(**{setting.name: getattr(settings, setting.name) for setting in fields(cls)})

    def draw(self, count: int, shape: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Draw random parameters for `count` images of `shape` (channels, height, width).

        Returns {name: (count,)} for the parameters of each step that is switched on, but (count, 2, NODES, NODES) for
        `elastic`: the displacements of nodes, down and right, in pixels. Positive degrees turn an image
        counterclockwise in a rotation and clockwise in an affine transform, as in torchvision.
        """
        if self == Augmentation():
            return {}
        # Numbers are drawn for unused parameters too, so that switching one on does not change the others.
        numbers = torch.rand(len(PARAMETERS), count, dtype=torch.float64, generator=generator, device=generator.device)
        uniform = dict(zip(PARAMETERS, numbers, strict=True))
        drawn = {}

        def scale_to(name: str, low: float, high: float) -> None:
            drawn[name] = uniform[name] * (high - low) + low

        if self.crop_padding:
            for name in ("crop_left", "crop_top"):
                drawn[name] = (uniform[name] * (2 * self.crop_padding + 1)).int()
        if self.flip:
            drawn["flip"] = uniform["flip"] < 0.5
        if self.rotation:
            scale_to("rotation", -self.rotation, self.rotation)
        if self._has_affine:
            scale_to("affine_degrees", -self.affine_degrees, self.affine_degrees)
            for name, size in (("affine_right", shape[2]), ("affine_down", shape[1])):
                scale_to(name, -self.affine_translate * size, self.affine_translate * size)
                drawn[name].round_()
            scale_to("affine_scale", 1 - self.affine_scale, 1 + self.affine_scale)
        for name, deviation in (("brightness", self.brightness), ("contrast", self.contrast)):
            if deviation:
                scale_to(name, max(0, 1 - deviation), 1 + deviation)
        if self.brightness and self.contrast:
            drawn["contrast_first"] = uniform["contrast_first"] < 0.5
        if self.cutout or self.elastic:  # centers are drawn for both, so that neither changes the other's numbers
            for name, size in (("cutout_top", shape[1]), ("cutout_left", shape[2])):
                center = torch.randint(size, (count,), generator=generator, device=generator.device)
                if self.cutout:
                    drawn[name] = center - self.cutout // 2
        if self.elastic:
            numbers = torch.empty(count, 2, NODES, NODES, dtype=torch.float32, device=generator.device)
            drawn["elastic"] = numbers.normal_(0, self.elastic, generator=generator)
        return drawn

    def __call__(self, images: Tensor, drawn: dict[str, Tensor], mean: Sequence[float] = ()) -> Tensor:
        """Augment images with the parameters that `draw` returned; both must be on the same device.

        Turns uint8 (n, channels, height, width) into floats 0..1 of the same shape. On a CPU, the batch is split into
        chunks of about `VALUES_AT_ONCE` values.

        Args:
            mean: what cutout covers each channel with, such as the train images' mean; not needed without cutout.
        """
        count = -(-images.numel() // VALUES_AT_ONCE) if images.device.type == "cpu" else 1
        if count == 1:
            return self._augment(images, drawn, mean)
        columns = [images.chunk(count), *(values.chunk(count) for values in drawn.values())]
        chunks = zip(*columns, strict=True)
        return torch.cat(
            [self._augment(chunk, dict(zip(drawn, values, strict=True)), mean) for chunk, *values in chunks]
        )

    def _augment(self, images: Tensor, drawn: dict[str, Tensor], mean: Sequence[float]) -> Tensor:
        if self.crop_padding or self.flip:
            images = self._crop_and_flip(images, drawn)
        if self.rotation:
            images = _turn(images, self.interpolation, self.rotation_fill, drawn["rotation"])
        if self._has_affine:
            right, down, scale = (drawn[name] for name in ("affine_right", "affine_down", "affine_scale"))
            nodes = drawn["elastic"] if self.elastic else None
            images = _turn(images, self.interpolation, 0, -drawn["affine_degrees"], right, down, scale, nodes)
        floats = images.to(torch.get_default_dtype()).div_(255)
        if self.brightness or self.contrast:
            self._jitter(floats, drawn)
        if self.cutout:
            _cover(floats, drawn["cutout_top"], drawn["cutout_left"], self.cutout, mean)
        return floats

    @property
    def _has_affine(self) -> bool:
        return bool(self.affine_degrees or self.affine_translate or self.affine_scale or self.elastic)

    def _crop_and_flip(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        rows, columns = _index_pixels(images)
        if self.flip:
            columns = torch.where(drawn["flip"].view(-1, 1, 1), columns.flip(-1), columns)
        if self.crop_padding:
            columns = columns + drawn["crop_left"].view(-1, 1, 1) - self.crop_padding
            rows = rows + drawn["crop_top"].view(-1, 1, 1) - self.crop_padding
        if self.crop_mode == "reflect":
            rows, columns = (
                last - (last - indices.abs()).abs()
                for indices, last in ((rows, images.shape[2] - 1), (columns, images.shape[3] - 1))
            )
        return _pick(images, rows + 1, columns + 1, 0)[0]

    def _jitter(self, floats: Tensor, drawn: dict[str, Tensor]) -> None:
        if self.brightness and self.contrast:
            first = drawn["contrast_first"]
            is_contrast = torch.stack([first, ~first])
            _blend(floats, torch.where(is_contrast, drawn["contrast"], drawn["brightness"]), is_contrast)
        else:
            name = "contrast" if self.contrast else "brightness"
            _blend(floats, drawn[name][None], is_contrast=name == "contrast")


def _turn(
    images: Tensor,
    interpolation: str,
    fill: int,
    degrees: Tensor,
    right: Numbers = 0,
    down: Numbers = 0,
    scale: Numbers = 1,
    nodes: Tensor | None = None,
) -> Tensor:
    """Rotate images counterclockwise around the center, scale them, shift them by whole pixels, and then bend them.

    `degrees` is (n,), as are the shifts and the scale if they are tensors. `nodes`, (n, 2, NODES, NODES), are the
    displacements of points on a grid from corner to corner, down and right; between them the displacements are bicubic
    (Ronneberger, Fischer and Brox 2015, with a grid of 3 × 3 points; Simard et al. 2003 smooth noise). The source of
    each pixel is computed as in PIL, in 65,536ths of a pixel (`affine_fixed` in PIL's Geometry.c), so that the same
    pixels are picked.
    """
    height, width = images.shape[2:]
    radians = degrees.deg2rad()
    cos, sin = radians.cos() / scale, radians.sin() / scale
    side = 2 if interpolation == "bilinear" else 1
    # The first output pixel's center, relative to the image's center. Source positions include the border of `_pick`.
    x, y = 0.5 - width / 2 - right, 0.5 - height / 2 - down
    first_row, first_column = sin * x + cos * y + (height / 2 + side), cos * x - sin * y + (width / 2 + side)
    numbers = torch.stack([first_row, first_column, sin, cos, cos, -sin])
    first, per_column, per_row = numbers.mul_(65536).add_(0.5).floor_().int().view(3, 2, -1, 1, 1)
    rows, columns = _index_pixels(images)
    sources = first + per_column * columns + per_row * rows
    if nodes is not None:
        of_rows, of_columns = (_weigh_nodes(size, nodes) for size in (height, width))
        further_down, further_right = (of_rows @ nodes @ of_columns.T).unbind(1)
        sources += (per_column * further_right + per_row * further_down).round_().int()
    if interpolation == "bilinear":
        return _interpolate(images, sources, fill)
    source_rows, source_columns = sources.bitwise_right_shift_(16)
    return _pick(images, source_rows, source_columns, fill)[0]


def _weigh_nodes(size: int, nodes: Tensor) -> Tensor:
    """Return the bicubic weights of the nodes at each of `size` pixels, (size, NODES)."""
    identity = torch.eye(NODES, dtype=nodes.dtype, device=nodes.device)
    return F.interpolate(identity[None, None], (size, NODES), mode="bicubic", align_corners=True)[0, 0]


def _interpolate(images: Tensor, sources: Tensor, fill: int) -> Tensor:
    """Average the four pixels around each source, weighted by nearness, and round to whole gray levels.

    `sources` holds rows and columns, (2, n, height, width), in 65,536ths of a pixel from the border's corner.
    """
    sources.sub_(32768)  # so that whole numbers are the pixels' centers
    down, right = (sources & 65535).to(torch.get_default_dtype()).div_(65536).unsqueeze(2)
    rows, columns = sources.bitwise_right_shift_(16)
    corners = _pick(images.to(down.dtype), rows, columns, fill, side=2)
    above, below = torch.lerp(corners[0], corners[1], right), torch.lerp(corners[2], corners[3], right)
    return torch.lerp(above, below, down).round_().to(torch.uint8)


def _index_pixels(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the rows, (1, height, 1), and of the columns, (1, 1, width)."""
    rows, columns = (torch.arange(size, dtype=torch.int32, device=images.device) for size in images.shape[2:])
    return rows.view(1, -1, 1), columns.view(1, 1, -1)


def _pick(images: Tensor, rows: Tensor, columns: Tensor, fill: int, side: int = 1) -> list[Tensor]:
    """Gather a square of side × side pixels for each pixel of images; places outside the image get `fill`.

    `rows` and `columns` are those of the squares' first pixels, int32, broadcast to (n, height, width), and are clamped
    in place, which is faster than a mask. The image has a border of `side` pixels, where they begin with 0.

    Returns:
        A tensor of the images' shape for each place in the square, row by row.
    """
    height, width = images.shape[2:]
    stride = width + 2 * side
    bordered = F.pad(images, (side,) * 4, value=fill).flatten(2)
    index = torch.add(columns.clamp_(0, width + side), rows.clamp_(0, height + side), alpha=stride).long()
    index = index.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    offsets = (row * stride + column for row in range(side) for column in range(side))
    return [bordered[:, :, offset:].gather(2, index).view(images.shape) for offset in offsets]


def _blend(floats: Tensor, factors: Tensor, is_contrast: Tensor | bool) -> None:
    """Change brightness and contrast in place, one step after the other.

    x becomes factor·x for brightness and factor·x + (1 − factor)·gray for contrast, clamped to 0..1, where gray is the
    image's mean gray level. `factors` and `is_contrast` are (steps, n).
    """
    factors = factors.to(floats.dtype)
    shares = (1 - factors) * is_contrast
    for factor, share in zip(factors[..., None, None, None], shares[..., None, None, None], strict=True):
        if floats.shape[1] == 3:
            red, green, blue = floats.mean((2, 3), keepdim=True).split(1, dim=1)
            gray = GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue
        else:
            gray = floats.mean((1, 2, 3), keepdim=True)
        floats.mul_(factor).add_(gray.mul_(share)).clamp_(0, 1)


def _cover(floats: Tensor, top: Tensor, left: Tensor, side: int, mean: Sequence[float]) -> None:
    """Set a square of each image to the channels' means, in place (cutout: DeVries and Taylor 2017).

    Every pixel is equally likely to be the square's center, so squares may hang over the border, as in the paper. With
    an even side, the center is the pixel to the lower right of the middle. `top` and `left` are (n,).
    """
    _, channels, height, width = floats.shape
    offsets = torch.arange(side, device=floats.device)
    first = torch.arange(0, floats.numel(), channels * height * width, device=floats.device)
    # A center lies in its image, so what hangs over the border falls onto pixels that are covered anyway.
    rows = (top.view(-1, 1) + offsets).clamp_(0, height - 1).mul_(width).add_(first.view(-1, 1))
    columns = (left.view(-1, 1) + offsets).clamp_(0, width - 1)
    places = (rows.unsqueeze(2) + columns.unsqueeze(1)).flatten()
    for channel, value in zip(range(channels), mean, strict=True):
        floats.view(-1).index_fill_(0, places + channel * height * width, value)


# ---------------------------------------------------------------------------------------------------------------------
# Mixup: labels that are shared by two classes


def draw_shares(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """Draw the share λ of each of `count` images in its mixture, (count,), from the distribution Beta(α, α).

    The numbers depend on the generator's seed alone, and calls repeat them: torch's distribution takes no generator.
    """
    numbers = np.random.default_rng(generator.initial_seed()).beta(alpha, alpha, count)
    return torch.from_numpy(numbers).to(torch.get_default_dtype())


def mix(images: Tensor, labels: Tensor, shares: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mix each image and its label with those of the run's previous image in the batch (mixup: Zhang et al. 2018).

    The mixture of images i and j is λ·xᵢ + (1 − λ)·xⱼ, and its label gives class yᵢ the probability λ and yⱼ 1 − λ. As
    each run has its own random order, the previous image is a random partner, another one in every epoch; that of the
    first image is the last. Unlike the paper's code, which draws one λ for a batch, each image has its own λ.

    Args:
        images: (batch, runs*channels, height, width).
        labels: (batch, runs).
        shares: λ of each image, (batch, runs).

    Returns:
        The mixed images, and the probabilities of the classes, (batch, runs, classes).
    """
    of_images, of_labels = images.view(*labels.shape, -1), torch.eye(classes, device=labels.device)[labels]
    mixed_images, mixed_labels = torch.empty_like(of_images), torch.empty_like(of_labels)
    for each, mixed in ((of_images, mixed_images), (of_labels, mixed_labels)):  # without a copy of the partners
        for one, partner in ((slice(1, None), slice(None, -1)), (slice(0, 1), slice(-1, None))):
            torch.lerp(each[partner], each[one], shares[one].unsqueeze(2), out=mixed[one])
    return mixed_images.view_as(images), mixed_labels


def find_correct(predicted: Tensor, labels: Tensor) -> Tensor:
    """Tell whether each label, (images,), is predicted; of a mixed label, return the predicted class's share."""
    return predicted == labels if labels.dim() == 1 else labels.gather(1, predicted.unsqueeze(1)).squeeze(1)

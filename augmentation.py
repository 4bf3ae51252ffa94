"""Random augmentation of whole batches of images, another draw for every image.

    augmentation = Augmentation(rotation=15, affine_translate=0.1, brightness=0.2)
    drawn = augmentation.draw(len(images), images.shape[1:], generator)
    floats = augmentation(images, drawn)              # uint8 (n, channels, height, width) -> floats 0..1

Pictures and distributions are those of torchvision's RandomCrop, RandomHorizontalFlip, RandomRotation, RandomAffine and
ColorJitter on PIL images, with their default, nearest pixels, in this order; but a whole batch takes a few passes.
"""

from dataclasses import dataclass, fields

import torch
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
)
VALUES_AT_ONCE = 1 << 18  # with more, the C library gives memory back and gets it anew at every call, at twice the time
GRAY = (0.2989, 0.587, 0.114)  # what red, green and blue weigh in torchvision's gray


@dataclass(frozen=True)
class Augmentation:
    crop_padding: int = 0  # pixels added on each side before a crop back to the image's size
    crop_mode: str = "zero"  # what they are: `zero`, or `reflect` (the edge itself not repeated)
    flip: bool = False  # left to right, every other image
    rotation: float = 0.0  # ± degrees
    rotation_fill: int = 0  # of 255: what turns in from outside
    affine_degrees: float = 0.0  # ± degrees
    affine_translate: float = 0.0  # ± share of width and height
    affine_scale: float = 0.0  # 1 ±, below 1
    brightness: float = 0.0  # 1 ±
    contrast: float = 0.0  # 1 ±

    @classmethod
    def of(cls, settings):
        """That of anything with attributes of these names, such as an `experiments.Experiment`."""
        return cls(**{setting.name: getattr(settings, setting.name) for setting in fields(cls)})

    def draw(self, count, shape, generator):
        """The parameters of `count` images of `shape` (channels, height, width): {name: (count,)} of what is on.

        Degrees of a rotation turn counterclockwise and those of the affine transform clockwise, as in torchvision.
        """
        if self == Augmentation():
            return {}
        # A parameter has its numbers whether it is used or not: switching one on changes no other's.
        numbers = dict(dtype=torch.float64, generator=generator, device=generator.device)
        uniform = dict(zip(PARAMETERS, torch.rand(len(PARAMETERS), count, **numbers), strict=True))
        drawn = {}

        def between(name, low, high):
            drawn[name] = uniform[name] * (high - low) + low

        if self.crop_padding:
            for name in ("crop_left", "crop_top"):
                drawn[name] = (uniform[name] * (2 * self.crop_padding + 1)).int()
        if self.flip:
            drawn["flip"] = uniform["flip"] < 0.5
        if self.rotation:
            between("rotation", -self.rotation, self.rotation)
        if self._affine:
            between("affine_degrees", -self.affine_degrees, self.affine_degrees)
            for name, size in (("affine_right", shape[2]), ("affine_down", shape[1])):
                between(name, -self.affine_translate * size, self.affine_translate * size)
                drawn[name].round_()
            between("affine_scale", 1 - self.affine_scale, 1 + self.affine_scale)
        for name, reach in (("brightness", self.brightness), ("contrast", self.contrast)):
            if reach:
                between(name, max(0, 1 - reach), 1 + reach)
        if self.brightness and self.contrast:
            drawn["contrast_first"] = uniform["contrast_first"] < 0.5
        return drawn

    def __call__(self, images, drawn):
        """uint8 (n, channels, height, width) and what was drawn for them, on one device -> floats 0..1, same shape."""
        parts = -(-images.numel() // VALUES_AT_ONCE) if images.device.type == "cpu" else 1
        columns = [images.chunk(parts), *(values.chunk(parts) for values in drawn.values())]
        return torch.cat(
            [
                self._augmented(own_images, dict(zip(drawn, own_drawn, strict=True)))
                for own_images, *own_drawn in zip(*columns, strict=True)
            ]
        )

    def _augmented(self, images, drawn):
        if self.crop_padding or self.flip:
            images = self._crop_and_flip(images, drawn)
        if self.rotation:
            images = _turn(images, drawn["rotation"], self.rotation_fill)
        if self._affine:
            shift_and_scale = (drawn[name] for name in ("affine_right", "affine_down", "affine_scale"))
            images = _turn(images, -drawn["affine_degrees"], 0, *shift_and_scale)
        floats = images.to(torch.get_default_dtype()).div_(255)
        if self.brightness or self.contrast:
            self._jitter(floats, drawn)
        return floats

    @property
    def _affine(self):
        return bool(self.affine_degrees or self.affine_translate or self.affine_scale)

    def _crop_and_flip(self, images, drawn):
        rows, columns = _pixels(images)
        if self.flip:
            columns = torch.where(drawn["flip"].view(-1, 1, 1), columns.flip(-1), columns)
        if self.crop_padding:
            columns = columns + drawn["crop_left"].view(-1, 1, 1) - self.crop_padding
            rows = rows + drawn["crop_top"].view(-1, 1, 1) - self.crop_padding
        if self.crop_mode == "reflect":
            rows, columns = (
                last - (last - places.abs()).abs()
                for places, last in ((rows, images.shape[2] - 1), (columns, images.shape[3] - 1))
            )
        return _pick(images, rows + 1, columns + 1, 0)

    def _jitter(self, floats, drawn):
        if self.brightness and self.contrast:
            first = drawn["contrast_first"]
            is_contrast = torch.stack([first, ~first])
            _blend(floats, torch.where(is_contrast, drawn["contrast"], drawn["brightness"]), is_contrast)
        elif self.contrast:
            _blend(floats, drawn["contrast"][None], is_contrast=True)
        else:
            _blend(floats, drawn["brightness"][None], is_contrast=False)


def _turn(images, degrees, fill, right=0, down=0, scale=1):
    """Turn counterclockwise around the center, enlarge, and shift by whole pixels; all (n,).

    The source of every pixel is found in PIL's own arithmetic, which counts in 65,536ths of a pixel (`affine_fixed` of
    its Geometry.c), so that the very same pixels are picked.
    """
    height, width = images.shape[2:]
    radians = degrees.deg2rad()
    cos, sin = radians.cos() / scale, radians.sin() / scale
    # From the center to the center of the pixel that comes to lie first; then its source, counted from the border.
    x, y = 0.5 - width / 2 - right, 0.5 - height / 2 - down
    first_row, first_column = sin * x + cos * y + (height / 2 + 1), cos * x - sin * y + (width / 2 + 1)
    numbers = torch.stack([first_row, first_column, sin, cos, cos, -sin])
    first, per_column, per_row = numbers.mul_(65536).add_(0.5).floor_().int().view(3, 2, -1, 1, 1)
    rows, columns = _pixels(images)
    places = (first + per_column * columns + per_row * rows).bitwise_right_shift_(16)
    return _pick(images, *places, fill)


def _pixels(images):
    """Numbers of the rows (1, height, 1) and of the columns (1, 1, width)."""
    rows, columns = (torch.arange(size, dtype=torch.int32, device=images.device) for size in images.shape[2:])
    return rows.view(1, -1, 1), columns.view(1, 1, -1)


def _pick(images, rows, columns, fill):
    """Every pixel from a row and column of its image, int32 that broadcast to (n, height, width), or else `fill`.

    They count from a border of one pixel, which is 1 to the image's first; clamping to it costs less than a mask.
    """
    height, width = images.shape[2:]
    bordered = F.pad(images, (1, 1, 1, 1), value=fill).flatten(2)
    index = torch.add(columns.clamp_(0, width + 1), rows.clamp_(0, height + 1), alpha=width + 2).long()
    return bordered.gather(2, index.flatten(1)[:, None].expand(-1, images.shape[1], -1)).view(images.shape)


def _blend(floats, factors, is_contrast):
    """Step after step, in place: factor·x for brightness, factor·x + (1 − factor)·gray for contrast, clamped to 0..1.

    `factors` and `is_contrast` are (steps, n); gray is an image's mean.
    """
    factors = factors.to(floats.dtype)
    shares = (1 - factors) * is_contrast
    for factor, share in zip(factors[..., None, None, None], shares[..., None, None, None], strict=True):
        if floats.shape[1] == 3:
            channels = floats.mean((2, 3), keepdim=True).split(1, dim=1)
            gray = sum(weight * channel for weight, channel in zip(GRAY, channels, strict=True))
        else:
            gray = floats.mean((1, 2, 3), keepdim=True)
        floats.mul_(factor).add_(gray.mul_(share)).clamp_(0, 1)

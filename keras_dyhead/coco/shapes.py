"""A deterministic COCO-format dataset of geometric shapes that needs no download."""

import colorsys
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from keras_dyhead.coco.checks import check_count
from keras_dyhead.ops.arguments import check

SHAPES = ("circle", "square", "triangle", "star", "cross")

_SUPERSAMPLING = 4  # shapes are drawn at this scale and averaged down, for smooth edges
_DARK = 110  # backgrounds stay below this; shapes are lighter than what they cover
_BRIGHT = 190  # no shape has to be lighter than this
_MIN_VISIBLE = 0.25  # fraction of a shape that must stay visible for it to be an object


def draw_shapes(
    directory: str | Path,
    num_images: int,
    image_size: int = 256,
    seed: int = 0,
    start: int = 0,
    max_shapes: int = 8,
    size_range: tuple[float, float] = (12, 160),
    empty_fraction: float = 0.05,
    clutter: float = 1.0,
    class_hues: bool = True,
    min_contrast: float = 50.0,
    min_stretch: float = 0.75,
    max_overlap: float = 0.1,
    max_outlines: int = 0,
) -> Path:
    """Draws a deterministic COCO-format dataset of rotated geometric shapes.

    Writes `directory/images/*.jpg` and `directory/instances.json`. The classes are circle, square,
    triangle, star and cross, each with its own range of hues, as traffic signs have. Boxes fit the
    pixels of a shape that remain visible after its neighbors are drawn. Image `i` depends only on
    `seed` and `i`, so sets with the same seed and disjoint ranges of `start` contain different
    pictures of the same kind. The last five arguments make the set harder.

    Args:
        directory: Folder to write to, created if missing.
        num_images: Number of images, at least 1.
        image_size: Height and width of each image in pixels. Defaults to `256`.
        seed: Random seed. Defaults to `0`.
        start: Number of the first image. Defaults to `0`.
        max_shapes: Maximum number of shapes per image. Defaults to `8`.
        size_range: Range of the longer side of a shape in pixels, drawn log-uniformly and limited
            to 5/8 of `image_size`. Defaults to `(12, 160)`.
        empty_fraction: Fraction of images without shapes, in `[0, 1]`. Defaults to `0.05`.
        clutter: Amount of gradients, blobs, lines and noise; `0` means none. Defaults to `1`.
        class_hues: Whether each class has its own hues. Otherwise only the form distinguishes
            classes. Defaults to `True`.
        min_contrast: How much lighter a shape must be than what it covers, as the mean of the
            channels (0 to 255), up to 100. Defaults to `50`.
        min_stretch: Shapes are shrunk along two perpendicular axes, which rotate with them, by a
            factor between this and 1. The box of a narrow shape depends on its rotation. Defaults
            to `0.75`.
        max_overlap: Maximum overlap of two boxes, as a fraction of the smaller one. Shapes that are
            less than a quarter visible are not objects. Defaults to `0.1`.
        max_outlines: Maximum number of outlines per image, which are not objects. Defaults to `0`.

    Returns:
        The path of `instances.json`.

    Raises:
        ValueError: If `num_images` is not positive, `size_range` is empty for `image_size`, or one
            of the last five arguments is out of range.

    Example:
    ```python
    annotations = draw_shapes("shapes/train", num_images=16)
    dataset = load_coco("shapes/train/images", annotations, batch_size=8, image_size=(256, 256))
    ```
    """
    check_count(1, num_images=num_images, image_size=image_size, max_shapes=max_shapes)
    check("empty_fraction", empty_fraction, 0 <= empty_fraction <= 1, "between 0 and 1")
    check("size_range", size_range, len(size_range) == 2, "two lengths")
    sizes = size_range[0], min(size_range[1], image_size * 5 / 8)
    fits = "ascending, and start between 4 px and 5/8 of `image_size`"
    check("size_range", size_range, 4 <= sizes[0] <= sizes[1], fits)
    check("min_contrast", min_contrast, 0 <= min_contrast <= 100, "between 0 and 100")
    check("min_stretch", min_stretch, 0.1 <= min_stretch <= 1, "between 0.1 and 1")
    check("max_overlap", max_overlap, 0 <= max_overlap <= 1, "between 0 and 1")
    check("max_outlines", max_outlines, max_outlines >= 0, "at least 0")
    style = SimpleNamespace(
        size=image_size,
        size_range=sizes,
        clutter=clutter,
        class_hues=class_hues,
        min_contrast=min_contrast,
        min_stretch=min_stretch,
        max_overlap=max_overlap,
        max_outlines=max_outlines,
    )
    directory = Path(directory)
    (directory / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(start, start + num_images):
        rng = np.random.default_rng([seed, index])
        count = 0 if rng.random() < empty_fraction else int(rng.integers(1, max_shapes + 1))
        picture, objects = _draw_scene(rng, count, style)
        name = f"{index:06d}.jpg"
        Image.fromarray(picture).save(directory / "images" / name, quality=92, subsampling=0)
        images.append({"id": index, "file_name": name, "width": image_size, "height": image_size})
        for label, visible in objects:
            rows, columns = np.nonzero(visible)
            left, top = int(columns.min()), int(rows.min())
            width, height = int(columns.max()) + 1 - left, int(rows.max()) + 1 - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": label + 1,
                    "bbox": [left, top, width, height],
                    "area": len(rows),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(SHAPES, start=1)]
    contents = {"images": images, "annotations": annotations, "categories": categories}
    path = directory / "instances.json"
    path.write_text(json.dumps(contents))
    return path


def _draw_scene(rng, count, style):
    """Returns a picture, and the label and visible pixels of each object."""
    size = style.size
    canvas = _background(rng, size, style.clutter)
    picture = Image.fromarray(canvas)
    for _ in range(int(rng.integers(0, style.max_outlines + 1)) if style.max_outlines else 0):
        label = int(rng.integers(len(SHAPES)))
        mask = _shape_mask(rng, label, style, line=True)
        corner = tuple(int(rng.integers(0, size - side + 1)) for side in mask.size)
        picture.paste(_color(rng, 256), corner, mask)
    owners = np.full((size, size), -1)
    labels, areas, boxes = [], [], []
    for _ in range(count):
        label = int(rng.integers(len(SHAPES)))
        mask = _shape_mask(rng, label, style)
        corner = _free_corner(rng, size, mask.size, boxes, style.max_overlap)
        if corner is None:
            continue
        left, top = corner
        covered = np.s_[top : top + mask.height, left : left + mask.width]
        brightness = min(_BRIGHT, canvas[covered].mean() + style.min_contrast)
        color = _shape_color(rng, label if style.class_hues else None, brightness)
        picture.paste(color, (left, top), mask)
        inside = np.asarray(mask) >= 128
        owners[covered][inside] = len(labels)
        labels.append(label)
        areas.append(inside.sum())
        boxes.append((left, top, left + mask.width, top + mask.height))
    seen = [owners == number for number in range(len(labels))]
    objects = [
        (label, visible)
        for label, area, visible in zip(labels, areas, seen, strict=True)
        if visible.sum() >= max(1, _MIN_VISIBLE * area)
    ]
    pixels = np.asarray(picture, np.float32)
    noise = rng.normal(0, 1, pixels.shape) * style.clutter * rng.uniform(0, 8)
    return (pixels + noise).clip(0, 255).astype(np.uint8), objects


def _outline(name):
    """The corners of a shape in its own coordinates, before rotation and scaling."""
    angles = {"circle": 64, "triangle": 3, "square": 4, "star": 10}
    if name == "cross":
        arm = 0.3
        corner = [(1, arm), (arm, arm), (arm, 1), (-arm, 1)]  # and its three quarter turns
        return np.concatenate([np.array(corner) @ [[c, s], [-s, c]] for c, s in _QUARTER_TURNS])
    angle = np.arange(angles[name]) * 2 * np.pi / angles[name]
    radius = np.where(np.arange(len(angle)) % 2, 0.45, 1.0) if name == "star" else 1.0
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


_QUARTER_TURNS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def _shape_mask(rng, label, style, line=False):
    """A rotated and stretched shape, or its outline, as a tight coverage mask."""
    longer_side = float(np.exp(rng.uniform(*np.log(style.size_range))))
    line_width = {"width": round(rng.uniform(1, 2.5) * _SUPERSAMPLING)} if line else {}
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = (_outline(SHAPES[label]) * rng.uniform(style.min_stretch, 1.0, 2)) @ turn
    points -= points.min(axis=0)
    points *= longer_side / points.max()
    width, height = np.ceil(points.max(axis=0)).astype(int)
    fine = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    corners = [tuple(point) for point in points * _SUPERSAMPLING - 0.5]
    ImageDraw.Draw(fine).polygon(corners, **{"outline" if line else "fill": 255}, **line_width)
    return fine.reduce(_SUPERSAMPLING)


def _free_corner(rng, size, shape_size, boxes, max_overlap):
    """A place where the shape covers little of its neighbors, or `None` after 20 attempts."""
    width, height = shape_size
    for _ in range(20):
        left, top = (int(rng.integers(0, size - side + 1)) for side in shape_size)
        if all(
            max(0, min(left + width, x2) - max(left, x1))
            * max(0, min(top + height, y2) - max(top, y1))
            <= max_overlap * min(width * height, (x2 - x1) * (y2 - y1))
            for x1, y1, x2, y2 in boxes
        ):
            return left, top
    return None


def _color(rng, end):
    return tuple(int(channel) for channel in rng.integers(0, end, 3))


def _shape_color(rng, label, brightness):
    """A color of at least this brightness, from the hues of the class or from all hues."""
    while True:
        hue = rng.random() if label is None else (label + rng.uniform(-0.4, 0.4)) / len(SHAPES)
        color = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.3, 1), rng.uniform(0.4, 1))
        color = tuple(int(255 * channel) for channel in color)
        if sum(color) / 3 >= brightness:
            return color


def _background(rng, size, clutter):
    """A color gradient with soft blobs and thin lines, as a uint8 array."""
    first, second = rng.uniform(0, _DARK, (2, 3))
    if not clutter:
        return np.broadcast_to(first, (size, size, 3)).astype(np.uint8)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] / size - 0.5
    slope = (x * np.cos(angle) + y * np.sin(angle))[..., None] + 0.5
    picture = Image.fromarray((first + (second - first) * slope).clip(0, 255).astype(np.uint8))

    blobs = Image.new("L", picture.size)
    pen = ImageDraw.Draw(blobs)
    for _ in range(int(rng.integers(0, 1 + round(6 * clutter)))):
        center, reach = rng.uniform(0, size, 2), rng.uniform(0.05, 0.2, 2) * size
        pen.ellipse([*(center - reach), *(center + reach)], fill=int(rng.integers(60, 200)))
    blobs = blobs.filter(ImageFilter.GaussianBlur(size / 20))
    picture.paste(_color(rng, _DARK), mask=blobs)

    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 1 + round(8 * clutter)))):
        ends = rng.uniform(-0.2, 1.2, 4) * size
        pen.line(list(ends), fill=_color(rng, 2 * _DARK), width=int(rng.integers(1, 4)))
    return np.asarray(picture)

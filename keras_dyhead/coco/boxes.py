"""What is wrong with the boxes of an annotation file, one by one and all together."""

import numpy as np

from keras_dyhead.coco.checks import Problem

# COCO rounds coordinates: a box may reach this far over the edge before it is worth a word.
_ROUNDING = 0.5

# Boxes of another form show as ones that reach far over the edge: by a tenth of the side, a tenth
# of them, at least three. Nearly all must fit into their images in that other form.
_FAR, _MANY, _AT_LEAST, _NEARLY_ALL = 1.1, 0.1, 3, 0.98
_OTHER_FORMS = {
    "[left, top, right, bottom]": lambda a, b, c, d: (a, b, c - a, d - b),
    "[center x, center y, width, height]": lambda a, b, c, d: (a - c / 2, b - d / 2, c, d),
    "[y, x, height, width]": lambda a, b, c, d: (b, a, d, c),
}


def check_boxes(
    boxes: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, str]], Problem | None]:
    """Checks COCO boxes and clips them to their images.

    Args:
        boxes: `(N, 4)` float64 x, y, width, height.
        sizes: `(N, 2)` height and width of the image of each.

    Returns:
        The clipped boxes `(N, 4)` as left, top, right, bottom, those that cannot be used as NaN; a
        list of `(row, fault)`; and a problem of all boxes together, or `None`.
    """
    sides = sizes[:, ::-1].astype("float64")
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        overhang = np.maximum(-corners[:, :2], corners[:, 2:] - sides).max(axis=1, initial=0)
        outside = (corners[:, :2] >= sides) | (corners[:, 2:] <= 0)
        fraction = (np.abs(boxes).max(axis=1, initial=0) <= 1) & (sides.min(axis=1, initial=9) > 2)
        uneven = fraction & (boxes % 1 != 0).any(axis=1)
    if np.sum(uneven) <= len(boxes) / 2:  # else [0, 0, 1, 1] is a whole image, and no pixel
        fraction = uneven
    faults = {
        "has a NaN or infinite value": ~np.isfinite(corners).all(axis=1),
        "(x, y, width, height) has no area": (boxes[:, 2:] <= 0).any(axis=1),
        "looks like fractions of the image's sides; COCO boxes are in pixels": fraction,
        "(x, y, width, height) lies outside": outside.any(axis=1),
        "(x, y, width, height) was clipped to": overhang > _ROUNDING,
    }
    clipped = np.clip(corners, 0, np.tile(sides, 2))
    reported, unusable = [], np.zeros(len(boxes), bool)
    told = np.zeros(len(boxes), bool)
    for fault, rows in faults.items():
        at_edge = fault.endswith(("outside", "clipped to"))
        if not fault.endswith("clipped to"):
            unusable |= rows
        for row in np.flatnonzero(rows & ~told).tolist():
            image = "its image of {1}x{0} pixels (width x height)".format(*sizes[row].tolist())
            box = [int(v) if float(v).is_integer() else v for v in boxes[row].tolist()]
            reported.append((row, f"its box {box} {fault}" + f" {image}" * at_edge))
        told |= rows
    clipped[unusable] = np.nan
    usable = np.isfinite(corners).all(axis=1) & ~fraction
    return clipped, sorted(reported), _find_other_form(boxes[usable], sides[usable])


def _find_other_form(boxes: np.ndarray, sides: np.ndarray) -> Problem | None:
    """Says of which other form the boxes seem to be, or `None` where they are as COCO has them."""
    far = (boxes[:, :2] + boxes[:, 2:] > _FAR * sides).any(axis=1)
    if far.sum() < max(_AT_LEAST, _MANY * len(boxes)):
        return None
    for form, convert in _OTHER_FORMS.items():
        corner, size = np.split(np.stack(convert(*boxes.T), axis=1), 2, axis=1)
        fits = (size > 0) & (corner >= -1) & (corner + size <= sides + 1)
        if fits.all(axis=1).mean() >= _NEARLY_ALL:
            message = (
                f"look like {form}: as [x, y, width, height], which COCO has, {far.sum()} reach "
                "far over the edge of their images"
            )
            return Problem(f"all {len(boxes)} boxes", message)
    return None

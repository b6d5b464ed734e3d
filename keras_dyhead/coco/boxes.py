"""Checks of the boxes in an annotation file."""

import numpy as np

from keras_dyhead.coco.checks import Problem

# COCO rounds coordinates: boxes that extend this far beyond the image are not reported.
_ROUNDING = 0.5

# In another format, at least a tenth of the boxes, and three, extend beyond their images by a tenth
# of the side. Converted from that format, nearly all of them must fit into their images.
_FAR, _MANY, _AT_LEAST, _NEARLY_ALL = 1.1, 0.1, 3, 0.98
_OTHER_FORMS = {
    "[left, top, right, bottom]": lambda a, b, c, d: (a, b, c - a, d - b),
    "[center x, center y, width, height]": lambda a, b, c, d: (a - c / 2, b - d / 2, c, d),
    "[y, x, height, width]": lambda a, b, c, d: (b, a, d, c),
    "[top, left, bottom, right]": lambda a, b, c, d: (b, a, d - b, c - a),
}


def check_boxes(
    boxes: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, str]], Problem | None]:
    """Checks COCO boxes `(N, 4)` in images of `(N, 2)` heights and widths, and clips them.

    Returns the clipped boxes as left, top, right, bottom, NaN if unusable; a list of
    `(row, fault)`; and a problem that all boxes share, or `None`.
    """
    sides = sizes[:, ::-1].astype("float64")
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        overhang = np.maximum(-corners[:, :2], corners[:, 2:] - sides).max(axis=1, initial=0)
        clipped = np.clip(corners, 0, np.tile(sides, 2))
        # A thinner box can have no width in float32, at least where augmentation moves it.
        thinnest = np.spacing(sides.astype("float32"))
        outside = clipped[:, 2:] - clipped[:, :2] <= thinnest
        fraction = (np.abs(boxes).max(axis=1, initial=0) <= 1) & (sides.min(axis=1, initial=9) > 2)
        uneven = fraction & (boxes % 1 != 0).any(axis=1)
    if np.sum(uneven) <= len(boxes) / 2:  # otherwise [0, 0, 1, 1] is the whole image
        fraction = uneven
    faults = {
        "has a NaN or infinite value": ~np.isfinite(corners).all(axis=1),
        "(x, y, width, height) has no area": (boxes[:, 2:] <= thinnest).any(axis=1),
        "looks like fractions of the image size; COCO boxes are in pixels": fraction,
        "(x, y, width, height) lies outside": outside.any(axis=1),
        "(x, y, width, height) was clipped to": overhang > _ROUNDING,
    }
    reported, unusable = [], np.zeros(len(boxes), bool)
    done = np.zeros(len(boxes), bool)
    for fault, rows in faults.items():
        at_edge = fault.endswith(("outside", "clipped to"))
        if not fault.endswith("clipped to"):
            unusable |= rows
        for row in np.flatnonzero(rows & ~done).tolist():
            image = "its image of {1}x{0} pixels (width x height)".format(*sizes[row].tolist())
            box = [int(v) if float(v).is_integer() else v for v in boxes[row].tolist()]
            reported.append((row, f"its box {box} {fault}" + f" {image}" * at_edge))
        done |= rows
    clipped[unusable] = np.nan
    usable = np.isfinite(corners).all(axis=1) & ~fraction
    return clipped, sorted(reported), _find_other_form(boxes[usable], sides[usable])


def _find_other_form(boxes: np.ndarray, sides: np.ndarray) -> Problem | None:
    """Returns a problem if the boxes seem to be in another format, otherwise `None`."""
    far = (boxes[:, :2] + boxes[:, 2:] > _FAR * sides).any(axis=1)
    if far.sum() < max(_AT_LEAST, _MANY * len(boxes)):
        return None
    for form, convert in _OTHER_FORMS.items():
        corner, size = np.split(np.stack(convert(*boxes.T), axis=1), 2, axis=1)
        fits = (size > 0) & (corner >= -1) & (corner + size <= sides + 1)
        if fits.all(axis=1).mean() >= _NEARLY_ALL:
            message = (
                f"look like {form}: read as COCO's [x, y, width, height], {far.sum()} extend far "
                "beyond their images"
            )
            return Problem(f"all {len(boxes)} boxes", message)
    return None

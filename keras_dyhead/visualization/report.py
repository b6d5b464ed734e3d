"""A report of what a model sees in images, as pictures and an HTML page."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from keras_dyhead.coco.image_files import read_rgb
from keras_dyhead.detectors import Detector
from keras_dyhead.printable import counted, printable
from keras_dyhead.version import __version__
from keras_dyhead.visualization.attention import draw_attention, largest_norm
from keras_dyhead.visualization.page import Picture, Section, render_page
from keras_dyhead.visualization.pictures import class_name, draw_detections, unique_stems
from keras_dyhead.visualization.sampling import draw_sampling
from keras_dyhead.visualization.scale_weights import draw_scale_weights
from keras_dyhead.visualization.view import View, find_neck, look_inside

_LONGEST = 1024  # maximum longer side of a picture of detections in pixels
_DPI = 90
_SCALE_WEIGHTS = "scale_weights.png"


class Report(NamedTuple):
    """What `write_report` wrote.

    Attributes:
        page: The HTML file.
        pictures: The PNG files.
        faults: One message for each image that was left out.
    """

    page: Path
    pictures: list[Path]
    faults: list[str]


def write_report(
    model: Detector,
    images: Sequence[str | Path],
    out: str | Path,
    detect: Callable[[np.ndarray], dict[str, np.ndarray]],
    class_names: Sequence[str] | None = None,
    score_threshold: float = 0.3,
    num_sampled: int = 2,
    title: str | None = None,
    progress: Callable[[Sequence], Iterator] = iter,
) -> Report:
    """Writes PNG files of what a detector sees, and one self-contained HTML page with all of them.

    Each image has its detections, its attention maps, and the sampling points of DyHead at the
    centers of the best detections, on the level whose eightfold stride is closest to their size.
    The page also shows the scale weights of all images and describes the model. Existing files are
    replaced.

    Args:
        model: A detector of this package with DyHead.
        images: JPEG or PNG files. The page names unreadable ones.
        out: Folder to write to, created if missing.
        detect: The model as a function, see `keras_dyhead.inference.image_detector`.
        class_names: The name of each label. Defaults to `model.class_names`.
        score_threshold: Detections with a lower confidence are not drawn. Defaults to `0.3`.
        num_sampled: Detections per image whose sampling points are drawn. Defaults to `2`.
        title: Name of the model in the page title. Defaults to its class name.
        progress: Wraps the list of images during iteration. Defaults to `iter`.

    Returns:
        A `Report`: the files, and messages about images that were left out.

    Raises:
        ValueError: If no image can be read, a picture would replace an image, or the model has no
            DyHead.

    Example:
    ```python
    model = ATSS(backbone, num_classes=5)  # or one loaded from a .keras file
    write_report(model, ["street.jpg"], "report", image_detector(model), num_sampled=1)
    ```
    """
    out, faults, seen, files, sections = Path(out), [], [], {}, []
    find_neck(model)  # fails for a model without DyHead before images are read
    names, stems = class_names or model.class_names, unique_stems(images)
    _check_kept(images, out, stems, num_sampled)
    for path, stem in progress(list(zip(images, stems, strict=True))):
        try:
            image = read_rgb(path)
        except ValueError as error:
            faults.append(str(error))
            continue
        seen.append((Path(path).name, stem, look_inside(model, image), detect(image)))
    if not seen:
        raise ValueError(f"There is no readable image among {[str(path) for path in images]}.")
    highest = max(largest_norm(view) for _, _, view, _ in seen)
    for name, stem, view, found in seen:
        attention = draw_attention(view, highest=highest)
        pictures = _pictures_of_image(
            name, view, found, names, score_threshold, num_sampled, attention
        )
        files |= zip(_files_of_image(stem, num_sampled), pictures, strict=False)
        text = f"{view.image.shape[1]} x {view.image.shape[0]} pixels"
        sections.append(Section(name, text, pictures=pictures))
    weights = [[block.weights for block in view.blocks] for _, _, view, _ in seen]
    scale_weights = Picture(
        *_as_png(draw_scale_weights(view.levels, weights)),
        alt=f"Scale weights of {counted(len(weights), 'image')} on the levels "
        f"{', '.join(view.levels)} in {counted(len(view.blocks), 'block')}.",
        caption="Scale-aware attention: the weights that each level gives to the finer level, to "
        "itself and to the coarser level, and the ratio of finer to coarser. A dot is an image.",
    )
    files[_SCALE_WEIGHTS] = scale_weights
    facts = Section("The model", table=_facts(model, names, view))
    over_all = Section("Scale weights", pictures=[scale_weights])
    left_out = [Section("Left out", "; ".join(faults))] if faults else []
    title = f"{title or type(model).__name__}: {_listed(names, model.num_classes)}"
    page = render_page(title, [facts, *left_out, over_all, *sections])
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in files.items():
        (out / name).write_bytes(picture.png)
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return Report(path, [out / name for name in files], faults)


def _check_kept(images, out: Path, stems: list[str], num_sampled: int) -> None:
    pictures = {_SCALE_WEIGHTS}.union(*(_files_of_image(stem, num_sampled) for stem in stems))
    for path in map(Path, images):
        if path.name in pictures and path.parent.resolve() == out.resolve():
            raise ValueError(f"{path} would be replaced by a picture. Choose another folder.")


def _files_of_image(stem: str, num_sampled: int) -> list[str]:
    """Returns the names of the pictures of an image, which has fewer with few detections."""
    kinds = "detections", "attention", *(f"sampling_{n + 1}" for n in range(num_sampled))
    return [f"{stem}_{kind}.png" for kind in kinds]


def level_of_box(box: np.ndarray, view: View) -> str:
    """Returns the level where eight by eight cells are closest in size to a box."""
    side = np.sqrt(max(float((box[2] - box[0]) * (box[3] - box[1])), 1e-6))
    sides = [8 * np.sqrt(y * x) for y, x in view.strides]
    return view.levels[int(np.argmin([abs(np.log(side / s)) for s in sides]))]


def _pictures_of_image(
    file, view, found, names, score_threshold, num_sampled, attention
) -> list[Picture]:
    shown = np.flatnonzero(found["confidence"] >= score_threshold)
    counts = Counter(_name(found["labels"][i], names) for i in shown)
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"
    drawn = draw_detections(view.image, found, names, score_threshold)
    drawn.thumbnail((_LONGEST, _LONGEST))
    pictures = [
        Picture(
            *_as_png(drawn),
            alt=f"{file} with its detections: {listed}.",
            caption=f"Detections with a confidence of at least {score_threshold:g}: {listed}.",
            wide=False,
        ),
        Picture(
            *_as_png(attention),
            alt=f"Heat maps of {file} on the levels {', '.join(view.levels)}, before DyHead and "
            f"after each attention of {counted(len(view.blocks), 'block')}.",
            caption="Attention: the norm over the channels of each level's map, before DyHead and "
            "after each attention. All figures on this page share one color scale.",
        ),
    ]
    for i in shown[:num_sampled]:
        box, level = found["boxes"][i], level_of_box(found["boxes"][i], view)
        height, width = view.image.shape[:2]
        x, y = np.minimum((box[:2] + box[2:]) / 2, (width - 1, height - 1)).tolist()
        name = f"{_name(found['labels'][i], names)} {found['confidence'][i]:.2f}"
        sampling = Picture(
            *_as_png(draw_sampling(view, (x, y), level)),
            alt=f"{file}: sampling points around ({x:.0f}, {y:.0f}), the center of {name}, on "
            f"{level} and the adjacent levels.",
            caption=f"Sampling: the points read by the {level} cell at the center of {name}. The "
            "area of a dot is its mask or share. Crosses are the grid of an ordinary convolution.",
        )
        pictures.append(sampling)
    return pictures


def _name(label, names) -> str:
    return f"class {label}" if names is None else class_name(label, names)


def _listed(names, count: int, most: int = 8) -> str:
    if names is None:
        return counted(count, "class")
    more = f" and {count - most} more" if count > most else ""
    return ", ".join(map(printable, names[:most])) + more


def _as_png(picture: Figure | Image.Image) -> tuple[bytes, tuple[int, int]]:
    """Encodes a figure or image as PNG with 256 colors. Also returns its (width, height)."""
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=_DPI)
        picture = Image.open(buffer).convert("RGB")
    buffer = io.BytesIO()
    colors = picture.quantize(256, Image.Quantize.FASTOCTREE)  # others lose those of color bars
    colors.save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), picture.size


def _facts(model: Detector, names, view: View) -> dict[str, str]:
    neck, preprocessor = find_neck(model), model.preprocessor
    switches = {"spatial": neck.use_spatial_attention, "scale": neck.use_scale_attention}
    switches["task"] = neck.use_task_attention
    size = (
        "{} x {} pixels".format(*preprocessor.image_size[::-1])
        if preprocessor.image_size
        else f"shorter side {preprocessor.min_side}, longer at most {preprocessor.max_side} pixels"
    )
    return {
        "Detector": type(model).__name__,
        "Parameters": f"{model.count_params():,}, {neck.count_params():,} of them in DyHead",
        "DyHead": f"{counted(neck.num_blocks, 'block')} of {neck.channels} channels",
        "Attentions": ", ".join(f"{n}-aware {'on' if on else 'off'}" for n, on in switches.items()),
        "Alignment": neck.alignment,
        "Levels": ", ".join(view.levels),
        "Classes": f"{model.num_classes}: {_listed(names, model.num_classes, most=1000)}",
        "Images are fitted into": size,
        "Written by": f"keras_dyhead {__version__}, Keras {keras.__version__}",
    }

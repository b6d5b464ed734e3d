"""What recipes share: commands, costs, canvases, schedules, and differences."""

COCO_IMAGES = 118_287

_TRAIN = """keras-dyhead train --recipe {name} --out runs/{name} \\
    --images train2017 --annotations instances_train2017.json \\
    --val-images val2017 --val-annotations instances_val2017.json \\
    --backbone-weights {weights}"""

MSRA_WEIGHTS = (
    "resnet50_msra-5891d200.pth: OpenMMLab's conversion of detectron2's `MSRA/R-50.pkl`, "
    "https://download.openmmlab.com/pretrain/third_party/resnet50_msra-5891d200.pth"
)


def command(name: str, weights: str) -> str:
    """Returns the command that trains a recipe on the files of COCO with these weights."""
    return _TRAIN.format(name=name, weights=weights)


def cost(image: float, epochs: int) -> float:
    """Returns the multiply-adds of a training run on COCO.

    A training step takes about three times the multiply-adds of inference per image.
    """
    return 3 * image * epochs * COCO_IMAGES


def canvases(short: int, *long: int) -> tuple[tuple[int, int], ...]:
    """Returns `(height, width)` of landscape canvases, then of portrait canvases."""
    return (*((short, side) for side in long), *((side, short) for side in long))


FLIP = {"horizontal_flip": 0.5, "scale": None}
MANY_SIZES = {"horizontal_flip": 0.5, "sizes": (640, 672, 704, 736, 768, 800), "max_side": 1333}

SGD = {
    "batch_size": 16,
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": 0.01,
    "base_batch_size": 16,
    "weight_decay": 1e-4,
    "clip_norm": None,
}
# Published AP is that of the last epoch.
MICROSOFT_STEPS = {
    "schedule": "step",
    "milestones": (60 / 90, 80 / 90),
    "warmup_steps": 1000,
    "keep": "last",
}
OPENMMLAB_STEPS = {
    "schedule": "step",
    "milestones": (8 / 12, 11 / 12),
    "warmup_steps": 500,
    "keep": "last",
}

EIGHT_GPUS = "The authors give a command for 8 GPUs. The training time is not known."

ON_MICROSOFT = "`train_net.py` of microsoft/DynamicHead, and the defaults of detectron2"
ON_OPENMMLAB = "`schedule_1x.py` of mmdetection"

FEWER_STEPS = "12 epochs of the 118k images are 1.4 % fewer steps than the published 90,000."
EMPTY_IMAGES = "Images without boxes are included. The published training run leaves them out."
PADDING = "A batch is padded to the best fitting of six canvases, not to its largest image."
MORE_PADDING = (
    "A batch is padded to the best fitting of six canvases, which have room for the largest size, "
    "not to its largest image. Smaller images have more padding."
)
OFFSETS = (
    "DyHead's sampling offsets start at zero. In the published training run, they start at random "
    "values. Other initial values above the backbone were not compared."
)

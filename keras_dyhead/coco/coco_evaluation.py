"""COCO figures in `fit`'s history."""

import os

import keras
import tensorflow as tf

from keras_dyhead.coco.annotations import CocoAnnotations
from keras_dyhead.coco.detections import write_detections
from keras_dyhead.coco.evaluation import detect_coco, find_annotations
from keras_dyhead.coco.metrics import coco_metrics
from keras_dyhead.coco.tensorboard import log_coco


class CocoEvaluation(keras.callbacks.Callback):
    """Runs pycocotools at the end of epochs and adds the twelve COCO figures to the logs.

    The history, the progress bar and the callbacks listed after this one (`ModelCheckpoint`,
    `EarlyStopping`, `CSVLogger`) then know `val_AP`, `val_AP50`, `val_AP75`, `val_APs`,
    `val_APm`, `val_APl`, `val_AR1`, `val_AR10`, `val_AR100`, `val_ARs`, `val_ARm` and `val_ARl`;
    callbacks listed before it do not. A figure is -1 where there is no ground truth of that size.

    Args:
        dataset: The images to evaluate on, from `load_coco(..., training=False)`, see
            `evaluate_coco`.
        annotations: The ground truth, where the data set has lost its own, see `evaluate_coco`.
            Defaults to `None`.
        eval_freq: Evaluate every so many epochs, and after the last one. In the other epochs the
            figures are absent from the logs, as with `fit`'s `validation_freq`; mind that
            `CSVLogger` fixes its columns in the first epoch. Defaults to `1`.
        bounding_box_format: The format of the model's boxes, see `evaluate_coco`. Defaults to
            `None`.
        prefix: Put before each figure's name. Defaults to `"val_"`.
        results_path: File to write the detections to in the COCO results format; `{epoch}` in it
            is replaced by the number of the epoch, counted from 1. Defaults to `None`.
        log_dir: Folder of event files for TensorBoard: the twelve figures, the AP of every class,
            and pictures with the truth on the left and the detections on the right, at the number
            of the epoch, counted from 1. Writing needs no TensorBoard. Defaults to `None`: none.
        num_pictures: Images to draw for TensorBoard, the first that have boxes. Image files are
            needed for it. Defaults to `8`.
        verbose: `1` shows a progress bar, `0` none, `"auto"` does as `fit` does. Defaults to
            `"auto"`.

    Raises:
        ValueError: If `eval_freq` is less than 1, or as `evaluate_coco`.

    Example:
    ```python
    val = load_coco("val", "val.json", image_size=(512, 512))
    best = keras.callbacks.ModelCheckpoint("best.keras", "val_AP", mode="max", save_best_only=True)
    coco = CocoEvaluation(val, log_dir="logs")  # tensorboard --logdir logs
    history = model.fit(train, epochs=12, callbacks=[coco, best])
    print(history.history["val_AP50"])
    ```
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        annotations: CocoAnnotations | str | os.PathLike | None = None,
        *,
        eval_freq: int = 1,
        bounding_box_format: str | None = None,
        prefix: str = "val_",
        results_path: str | os.PathLike | None = None,
        log_dir: str | os.PathLike | None = None,
        num_pictures: int = 8,
        verbose: int | str = "auto",
    ):
        super().__init__()
        if eval_freq < 1:
            raise ValueError(f"`eval_freq` must be at least 1. Received: eval_freq={eval_freq}")
        self.dataset = dataset
        self.annotations = find_annotations(dataset, annotations)
        self.eval_freq = eval_freq
        self.bounding_box_format = bounding_box_format
        self.prefix = prefix
        self.results_path = results_path
        self.log_dir = log_dir
        self.num_pictures = num_pictures
        self.verbose = verbose

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Evaluates, and writes the figures into `logs`."""
        if (epoch + 1) % self.eval_freq and epoch + 1 != self.params.get("epochs"):
            return
        verbose = self.params.get("verbose", 0) if self.verbose == "auto" else self.verbose
        verbose = 1 if verbose in ("auto", 1) else 0
        if verbose:
            print()  # fit's own bar has not ended its line yet
        ground_truth, detections = detect_coco(
            self.model, self.dataset, self.annotations, self.bounding_box_format, verbose
        )
        if self.results_path is not None:
            write_detections(detections, str(self.results_path).format(epoch=epoch + 1))
        figures = coco_metrics(ground_truth, detections, per_class=self.log_dir is not None)
        if self.log_dir is not None:
            log_coco(
                self.log_dir, epoch + 1, figures, self.annotations, detections, self.num_pictures
            )
            del figures["per_class"]
        if logs is not None:
            logs.update({self.prefix + name: value for name, value in figures.items()})

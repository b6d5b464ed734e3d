"""RetinaNet's losses; test_detectors.py covers what all detectors share."""

import numpy as np
import tensorflow as tf
from detectors.scenes import CLASSES, scene, small_detector


def test_losses_equal_a_loop_over_anchors():
    """Focal loss over all anchors except ignored ones, L1 over positives, both per positive."""
    model = small_detector("retinanet", box_weights=(10.0, 10.0, 5.0, 5.0), smooth_l1_beta=0.4)
    images, targets = scene()
    raw = {key: np.asarray(value) for key, value in model(images).items()}
    rng = np.random.default_rng(0)
    raw["class_logits"] = rng.normal(size=raw["class_logits"].shape).astype("float32")
    raw["box_deltas"] = rng.normal(size=raw["box_deltas"].shape).astype("float32")
    anchors = np.asarray(model.anchors([(8, 12), (4, 6), (2, 3)], 3), "float64")
    assigned = np.asarray(model.assigner(anchors, targets["boxes"], targets["labels"]))
    assert {-2, -1, 0, 1} == set(assigned[0]) and {-1} == set(assigned[1])

    class_loss = box_loss = 0.0
    for b in range(2):
        for a, anchor in enumerate(anchors):
            n = assigned[b, a]
            for k in range(CLASSES if n != -2 else 0):
                p = 1 / (1 + np.exp(-float(raw["class_logits"][b, a, k])))
                truth = n >= 0 and targets["labels"][b, n] == k
                class_loss -= 0.25 * (1 - p) ** 2 * np.log(p) if truth else 0
                class_loss -= 0.75 * p**2 * np.log(1 - p) if not truth else 0
            if n >= 0:
                box = targets["boxes"][b, n].astype("float64")
                size, anchor_size = box[2:] - box[:2], anchor[2:] - anchor[:2]
                shift = (box[2:] + box[:2] - anchor[2:] - anchor[:2]) / 2 / anchor_size
                delta = np.concatenate([10 * shift, 5 * np.log(size / anchor_size)])
                error = np.abs(delta - raw["box_deltas"][b, a])
                box_loss += np.where(error < 0.4, error**2 / 0.8, error - 0.2).sum()
    positives = (assigned[0] >= 0).sum() + 1  # the image without objects counts as one
    losses = model.compute_losses(
        raw, tf.constant(targets["boxes"]), tf.constant(targets["labels"], tf.int32)
    )
    np.testing.assert_allclose(losses["class_loss"], class_loss / positives, rtol=1e-5)
    np.testing.assert_allclose(losses["box_loss"], box_loss / positives, rtol=1e-5)

"""Fine-tunes a trained detector on your own classes with plain Keras.

    python examples/finetune_own_data.py --model atss_r50_fpn_dyhead_1x_coco --images photos \
        --annotations photos.json --out mine.keras

The model is a `.keras` file or a published name. The annotations are a COCO JSON file.
`keras-dyhead train --weights` does the same, and also writes checkpoints and metrics. Evaluate the
result on new images:

    keras-dyhead evaluate --model mine.keras --images others --annotations others.json
"""

import argparse
from pathlib import Path

from keras_dyhead.checkpoints import load_detector
from keras_dyhead.coco import load_coco
from keras_dyhead.detectors import DetectionPreprocessor


def main():
    """Loads, trains and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a .keras file or a published name")
    parser.add_argument("--images", required=True, help="folder of your images")
    parser.add_argument("--annotations", required=True, help="their COCO JSON file")
    parser.add_argument("--out", required=True, help=".keras file to write")
    parser.add_argument(
        "--image-size", type=int, default=512, help="side of the square input images"
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    if not args.out.endswith(".keras"):
        parser.error(f"--out must end in .keras. Received: {args.out}")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)

    detector = load_detector(args.model)
    size = detector.image_shape[:2]
    size = (args.image_size, args.image_size) if None in size else size  # some have a fixed size
    preprocessor = DetectionPreprocessor.from_config(
        detector.preprocessor.get_config() | {"image_size": size}
    )
    dataset = load_coco(
        args.images, args.annotations, args.batch_size, size, True, preprocessor=preprocessor
    )
    model = detector.with_classes(dataset.class_names)
    model.preprocessor = preprocessor  # the same in prediction and training
    model.compile()  # AdamW with a learning rate of 1e-4
    model.fit(dataset, epochs=args.epochs, verbose=2)
    model.save(args.out)
    print(f"written: {args.out}, for {', '.join(dataset.class_names)}")


if __name__ == "__main__":
    main()

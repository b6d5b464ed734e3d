"""Fine-tunes a trained detector on your own classes; all but the class scores is kept.

    python examples/finetune_own_data.py --model atss.keras --images photos \
        --annotations photos.json --out mine.keras

`atss.keras` comes from `keras-dyhead convert` or `keras-dyhead train`; the annotations are a COCO
JSON file. Measure the result on images it has not seen:

    keras-dyhead evaluate --model mine.keras --images others --annotations others.json
"""

import argparse

import keras

import keras_dyhead  # noqa: F401  (registers the detectors for load_model)
from keras_dyhead.coco import load_coco
from keras_dyhead.detectors import DetectionPreprocessor


def with_new_classes(detector, class_names):
    """Returns the detector for other classes, with the weights that do not depend on these."""
    classes = {"num_classes": len(class_names), "class_names": tuple(class_names)}
    model = type(detector).from_config(detector.get_config() | classes)
    trained = {weight.path: weight for weight in detector.weights}
    for weight in model.weights:
        source = trained.get(weight.path)
        if (
            source is not None
            and source.shape == weight.shape
            and "class_logits" not in source.path
        ):
            weight.assign(source)
    return model


def main():
    """Loads, trains and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a trained detector, a .keras file")
    parser.add_argument("--images", required=True, help="folder of your images")
    parser.add_argument("--annotations", required=True, help="their COCO JSON file")
    parser.add_argument("--out", required=True, help=".keras file to write")
    parser.add_argument(
        "--image-size", type=int, default=512, help="side of the square fitted into"
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    args = parser.parse_args()

    detector = keras.saving.load_model(args.model, compile=False)
    size = detector.image_shape[:2]
    size = (args.image_size, args.image_size) if None in size else size  # some are of one size
    preprocessor = DetectionPreprocessor.from_config(
        detector.preprocessor.get_config() | {"image_size": size}
    )
    dataset = load_coco(
        args.images, args.annotations, args.batch_size, size, True, preprocessor=preprocessor
    )
    model = with_new_classes(detector, dataset.class_names)
    model.preprocessor = preprocessor  # predict as trained
    model.compile(
        keras.optimizers.AdamW(args.learning_rate, weight_decay=1e-4, global_clipnorm=10.0)
    )
    model.fit(dataset, epochs=args.epochs, verbose=2)
    model.save(args.out)
    print(f"written: {args.out}, for {', '.join(dataset.class_names)}")


if __name__ == "__main__":
    main()

"""Runs an exported detector with ONNX Runtime, without TensorFlow, Keras or this package.

    keras-dyhead export atss.keras --format onnx --out atss.onnx
    python examples/onnx_inference.py atss.onnx street.jpg

The script needs onnxruntime, numpy and Pillow. The ONNX file includes preprocessing and decoding:
it takes RGB images of any size and returns boxes (left, top, right, bottom) in pixels of those
images.
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image


def main():
    """Prints the detections of each image."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help=".onnx file written by export_onnx")
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument("--score-threshold", type=float, default=0.3)
    args = parser.parse_args()

    session = onnxruntime.InferenceSession(
        args.model, providers=onnxruntime.get_available_providers()
    )
    metadata = session.get_modelmeta().custom_metadata_map
    names = json.loads(metadata.get("class_names", "null"))
    outputs = ["boxes", "labels", "confidence", "num_detections"]
    for path in args.images:
        with Image.open(path) as file:
            if file.mode.startswith("I"):  # 16 bits, which Pillow would clip to 255
                file = file.point(lambda value: value / 256).convert("L")
            image = np.asarray(file.convert("RGB"), "float32")
        boxes, labels, confidence, counts = session.run(outputs, {"images": image[None]})
        print(f"{path}: {image.shape[1]} x {image.shape[0]} pixels")
        for i in range(counts[0]):
            if confidence[0, i] >= args.score_threshold:
                name = names[labels[0, i]] if names else f"class {labels[0, i]}"
                box = " ".join(f"{side:.1f}" for side in boxes[0, i])
                print(f"  {confidence[0, i]:.3f}  {name}  {box}")


if __name__ == "__main__":
    main()

"""Serves an exported detector over HTTP with TensorFlow, without Keras or this package.

    keras-dyhead export atss.keras --out saved_model
    python examples/serve_http.py saved_model --port 8000
    curl --data-binary @street.jpg http://localhost:8000/

Send a JPEG or PNG file to get a JSON list. Each detection has a box (left, top, right, bottom in
pixels), a label, a confidence, and a class name if the model has class names.
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import tensorflow as tf

LARGEST_FILE = 50_000_000


class Detector:
    """A SavedModel of `export_saved_model` that detects objects in the bytes of a file."""

    def __init__(self, folder):
        self.model = tf.saved_model.load(folder)  # signatures do not keep the model alive
        names = Path(folder, "assets.extra", "class_names.txt")
        self.names = names.read_text("utf-8").splitlines() if names.exists() else None

    def __call__(self, file):
        """Returns a list of dictionaries, the most confident detection first."""
        found = self.model.signatures["serving_bytes"](tf.constant([file]))
        count = int(found["num_detections"][0])
        boxes, labels, confidence = (
            found[key][0, :count].numpy().tolist() for key in ("boxes", "labels", "confidence")
        )
        records = [
            {"box": box, "label": label, "confidence": score}
            for box, label, score in zip(boxes, labels, confidence, strict=True)
        ]
        if self.names:
            records = [record | {"name": self.names[record["label"]]} for record in records]
        return records


class Handler(BaseHTTPRequestHandler):
    """Answers POST requests with `server.detect`."""

    def do_POST(self):  # noqa: N802  (http.server's name)
        length = self.headers.get("Content-Length", "")
        length = int(length) if length.isdecimal() else 0
        if not 0 < length <= LARGEST_FILE:
            self.send_error(413, f"send an image file of 1 to {LARGEST_FILE} bytes")
            return
        try:
            body = json.dumps(self.server.detect(self.rfile.read(length))).encode()
        except tf.errors.InvalidArgumentError:
            self.send_error(400, "send a JPEG or PNG file")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("saved_model", help="folder written by export_saved_model")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 accepts other machines")
    parser.add_argument("--port", type=int, default=8000, help="0 selects a free port")
    args = parser.parse_args()
    server = ThreadingHTTPServer((args.host, args.port), Handler)
    server.detect = Detector(args.saved_model)
    print(f"http://{args.host}:{server.server_port}/", flush=True)
    server.serve_forever()

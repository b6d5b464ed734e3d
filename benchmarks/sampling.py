"""Times `deform_conv2d` and the DyHead tower against torchvision's op, in one run on one machine.

Each implementation runs in a process of its own, so that time to the first result and peak memory
are its own. The table shows ratios to the peer; `--out NAME` writes NAME.json and NAME.md.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BYTES = 2**20
CHANNELS = 256


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--map-size", type=int, default=64, help="side of the op's map (64)")
    parser.add_argument(
        "--image-size", type=int, default=512, help="side of the tower's image (512)"
    )
    parser.add_argument("--blocks", type=int, default=6, help="blocks of the tower (6)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="counted runs; the median is shown (5)"
    )
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(run_worker(args)))
        return
    results = {}
    for worker in WORKERS:
        print(f"running {worker} ...", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--worker", worker]
        for name in ("map_size", "image_size", "blocks", "repeats"):
            command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        results[worker] = json.loads(output.splitlines()[-1])
    check_agreement(results)
    table = markdown(args, results)
    print(table)
    if args.out:
        args.out.with_suffix(".md").write_text(table)
        args.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


def run_worker(args):
    """Measures one implementation; the first calls include tracing."""
    if args.worker.endswith("sparse products"):
        from keras_dyhead.ops import sparse_sampling

        with sparse_sampling():
            return measure(*WORKERS[args.worker](args), args.repeats)
    return measure(*WORKERS[args.worker](args), args.repeats)


def measure(forward, step, version, repeats):
    """Times first and later calls, and finds the peak memory above that of the built model."""
    before = peak_memory()
    result = {"version": version}
    result["first_forward_s"], outputs = timed(forward)
    result["checksum"] = float(sum(np.abs(o).mean(dtype="float64") for o in outputs))
    result["forward_s"] = statistics.median(timed(forward)[0] for _ in range(repeats))
    result["first_step_s"], _ = timed(step)
    result["step_s"] = statistics.median(timed(step)[0] for _ in range(repeats))
    result["peak_mib"] = peak_memory() - before
    return result


def timed(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def peak_memory():
    """High-water mark of this process, MiB (Linux counts KiB, macOS bytes)."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / BYTES


def op_arrays(args):
    """Input, offsets, mask and kernel of the single op, channels-last."""
    rng, n = np.random.default_rng(0), args.map_size
    shapes = ((1, n, n, CHANNELS), (1, n, n, 18), (1, n, n, 9), (3, 3, CHANNELS, CHANNELS))
    x, offsets, mask, kernel = (rng.normal(size=s).astype("float32") for s in shapes)
    return x, offsets, 1 / (1 + np.exp(-mask)), kernel / 48


def pyramid_arrays(args):
    """Five levels, strides 8 to 128, channels-last."""
    rng = np.random.default_rng(0)
    sizes = [-(-args.image_size // 2**level) for level in range(3, 8)]
    return [rng.normal(size=(1, n, n, CHANNELS)).astype("float32") for n in sizes]


def tower_state(args):
    """Seeded weights under their published names."""
    rng = np.random.default_rng(1)
    shapes = {
        **{f"DyConv.{i}.conv.weight": (CHANNELS, CHANNELS, 3, 3) for i in range(3)},
        **{f"DyConv.{i}.{n}": (CHANNELS,) for i in range(3) for n in ("conv.bias", "bn.bias")},
        **{f"DyConv.{i}.bn.weight": (CHANNELS,) for i in range(3)},
        "AttnConv.1.weight": (1, CHANNELS, 1, 1),
        "AttnConv.1.bias": (1,),
        "relu.fc.0.weight": (CHANNELS // 4, CHANNELS),
        "relu.fc.0.bias": (CHANNELS // 4,),
        "relu.fc.2.weight": (4 * CHANNELS, CHANNELS // 4),
        "relu.fc.2.bias": (4 * CHANNELS,),
        "offset.weight": (27, CHANNELS, 3, 3),
        "offset.bias": (27,),
    }
    return {
        f"dyhead_tower.{block}.{name}": (
            rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])) + name.endswith("bn.weight")
        ).astype("float32")
        for block in range(args.blocks)
        for name, shape in shapes.items()
    }


def keras_op(args):
    """Our op, compiled by `tf.function`."""
    import tensorflow as tf

    from keras_dyhead.ops import deform_conv2d

    tensors = [tf.constant(a) for a in op_arrays(args)]
    return tensorflow_functions(lambda training: [deform_conv2d(*tensors)], tensors)


def keras_tower(args, alignment="published"):
    """Our tower, compiled by `tf.function`."""
    import tensorflow as tf

    from keras_dyhead.checkpoints import load_tower
    from keras_dyhead.layers import DyHeadNeck

    pyramid = [tf.constant(a) for a in pyramid_arrays(args)]
    neck = DyHeadNeck(args.blocks, CHANNELS, alignment)
    neck.build([x.shape for x in pyramid])
    load_tower(neck, tower_state(args))
    variables = [v.value for v in neck.trainable_variables]
    return tensorflow_functions(
        lambda training: neck(pyramid, training=training), [*pyramid, *variables]
    )


def tensorflow_functions(function, sources):
    """Compiled forward and training step (loss and all gradients)."""
    import tensorflow as tf

    forward = tf.function(lambda: function(training=False))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch([s for s in sources if not isinstance(s, tf.Variable)])
            loss = tf.add_n([tf.reduce_sum(x * x) for x in function(training=True)])
        return tape.gradient(loss, sources)

    return (
        lambda: [x.numpy() for x in forward()],
        lambda: [g.numpy().ravel()[0] for g in step() if g is not None],
        f"TensorFlow {tf.__version__}",
    )


def gemm_op(args):
    """The matrix products of the op alone: the limit that no sampling can beat."""
    import tensorflow as tf

    x, _, _, kernel = op_arrays(args)
    columns = tf.constant(np.tile(x.reshape(-1, CHANNELS), 9))
    kernel = tf.constant(kernel.reshape(-1, CHANNELS))
    return tensorflow_functions(lambda training: [columns @ kernel], [columns, kernel])


def torch_op(args):
    """`torchvision.ops.deform_conv2d`."""
    import torch
    from torchvision.ops import deform_conv2d

    x, offsets, mask, kernel = op_arrays(args)
    tensors = [torch.tensor(a.transpose(0, 3, 1, 2).copy()) for a in (x, offsets, mask)]
    tensors.append(torch.tensor(kernel.transpose(3, 2, 0, 1).copy()))
    x, offsets, mask, kernel = tensors
    return torch_functions(
        lambda: [deform_conv2d(x, offsets, kernel, padding=1, mask=mask)], tensors
    )


def torch_tower(args):
    """The same tower written in PyTorch on torchvision's op."""
    import torch
    from torch_tower import Tower

    tower = Tower(args.blocks, CHANNELS)
    tower.load_state_dict({k: torch.tensor(v) for k, v in tower_state(args).items()})
    pyramid = [torch.tensor(a.transpose(0, 3, 1, 2).copy()) for a in pyramid_arrays(args)]
    return torch_functions(lambda: tower(pyramid), [*pyramid, *tower.parameters()])


def torch_functions(function, sources):
    """Forward without and training step with autograd."""
    import torch
    import torchvision

    torch.set_num_threads(os.cpu_count())

    def forward():
        with torch.no_grad():
            return [x.numpy() for x in function()]

    def step():
        for source in sources:
            source.requires_grad_(True)
            source.grad = None
        sum((x * x).sum() for x in function()).backward()

    version = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    return forward, step, version


def keras_tower_paper(args):
    """Our tower with the paper's alignment: more positions than the published one samples."""
    return keras_tower(args, alignment="paper")


WORKERS = {
    "op: keras_dyhead": keras_op,
    "op: keras_dyhead, sparse products": keras_op,
    "op: torchvision": torch_op,
    "op: GEMM alone": gemm_op,
    "tower: keras_dyhead": keras_tower,
    "tower: keras_dyhead, sparse products": keras_tower,
    "tower: keras_dyhead, paper alignment, sparse products": keras_tower_paper,
    "tower: torchvision": torch_tower,
}


def check_agreement(results):
    """Times of implementations that compute different things are no comparison."""
    for kind in ("op", "tower"):
        peer = results[f"{kind}: torchvision"]["checksum"]
        for name in (f"{kind}: keras_dyhead", f"{kind}: keras_dyhead, sparse products"):
            ours = results[name]["checksum"]
            if abs(ours - peer) > 1e-4 * abs(peer):
                raise SystemExit(f"{name}: outputs differ: mean magnitudes {ours} and {peer}")


def markdown(args, results):
    """The results as a table; ratios are the peer's figure over ours (larger is better for us)."""
    columns = ("forward_s", "step_s", "first_forward_s", "first_step_s", "peak_mib")
    sides = f"{args.map_size}x{args.map_size}", f"{args.image_size}x{args.image_size}"
    versions = [results[f"op: {name}"]["version"] for name in ("keras_dyhead", "torchvision")]
    lines = [
        f"Single op: {sides[0]}x{CHANNELS}, 3x3. Tower: {args.blocks} blocks, {CHANNELS} channels, "
        f"five levels of a {sides[1]} image. Batch 1, float32, {os.cpu_count()} CPU cores, "
        f"Python {platform.python_version()}, {', '.join(versions)}.",
        f"Median of {args.repeats}, one run. In brackets: torchvision's figure over the row's.",
        "",
        "| | forward | forward + backward | first forward | first training step | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        peer = results[name.split(":")[0] + ": torchvision"]
        cells = []
        for column in columns:
            value, ratio = result[column], peer[column] / max(result[column], 1e-9)
            text = f"{value:.0f} MiB" if column == "peak_mib" else f"{1e3 * value:.0f} ms"
            cells.append(f"{text} ({ratio:.1f}x)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

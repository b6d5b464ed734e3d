"""Packages for a GPU machine without a network: `python -m benchmarks.wheels`."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.runner import command

NEEDED = ("keras", "pycocotools", "pillow", "typer")
THERE = ("jax", "torch")
"""Packages on that machine, with their requirements such as NumPy."""

MOST_MIB = 60

app = command()


def needed(python: str) -> dict[str, str]:
    """Returns the needed packages by name, with the versions installed here.

    Args:
        python: Python version of the GPU machine, such as `"3.12"`.
    """
    there = _requirements(THERE, python)
    names = _requirements(NEEDED, python)
    return {name: metadata.version(name) for name in names if name not in there}


def _requirements(names, python) -> list[str]:
    """Returns the names and their direct and indirect requirements, without extras."""
    found, left, environment = [], list(names), {"python_version": python}
    while left:
        name = canonicalize_name(left.pop())
        if name not in found:
            found.append(name)
            requirements = map(Requirement, metadata.requires(name) or ())
            left += [r.name for r in requirements if not r.marker or r.marker.evaluate(environment)]
    return sorted(found)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder for the wheels.")] = Path("wheels"),
    python: Annotated[str, typer.Option(help="Python version of the GPU machine.")] = "3.12",
    newest: Annotated[int, typer.Option(help="Minor version of its glibc 2.")] = 28,
) -> None:
    """Download the wheels that the benchmarks need on a Linux x86-64 machine with JAX and PyTorch.

    TensorFlow, JAX, PyTorch and their requirements are left out. There, in a copy of this clone:

    python3 -m pip install --no-index --no-deps --target packages wheels/*.whl

    PYTHONPATH=packages python3 -m benchmarks.sampling --gpu --backend jax,torch
    --dtype float32,bfloat16 --size 512,800x1333 --batch 2 --minutes 6 --out benchmarks/gpu

    PYTHONPATH=packages python3 -m benchmarks.short_training --gpu --out benchmarks/short_training

    **Examples**

    python -m benchmarks.wheels --out wheels
    """
    options = ["--no-deps", "--only-binary=:all:", f"--python-version={python}", "--quiet"]
    options += [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(newest, 16, -1)]
    options += ["--platform=manylinux2014_x86_64", f"--dest={out}"]
    versions = [f"{name}=={version}" for name, version in needed(python).items()]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, *versions], check=True)
    mib = sum(wheel.stat().st_size for wheel in out.glob("*.whl")) / 2**20
    print(f"{out}: {len(versions)} wheels, {mib:.1f} MiB")
    raise typer.Exit(mib > MOST_MIB)


if __name__ == "__main__":
    app()

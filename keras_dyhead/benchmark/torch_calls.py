"""Forward pass and training step in PyTorch."""

import os

import torch


def torch_calls(function, sources):
    """Returns forward, step and version of `function(training)`, which computes from `sources`."""
    torch.set_num_threads(os.cpu_count())
    for source in sources:
        source.requires_grad_(True)

    def forward():
        with torch.no_grad():
            return [x.numpy() for x in function(False)]

    def step():
        for source in sources:
            source.grad = None
        sum((x * x).sum() for x in function(True)).backward()

    return forward, step, f"PyTorch {torch.__version__}"

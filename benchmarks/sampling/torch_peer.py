"""The peer: `torchvision.ops.deform_conv2d`, and the published tower built with it."""

import os

import torch
from torch import nn
from torch.nn import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def torch_calls(function, sources, num_inputs):
    """Returns forward pass, training step and version of `function(training)`.

    The step returns the gradients of the first `num_inputs` of `sources`.
    """
    torch.set_num_threads(os.cpu_count())
    if DEVICE == "cuda":
        torch.set_float32_matmul_precision("high")  # TensorFloat-32, like JAX and TensorFlow
    for source in sources:
        source.requires_grad_(True)

    def forward():
        with torch.no_grad():
            return _finished(function(False))

    def step():
        for source in sources:
            source.grad = None
        sum((x.float() ** 2).sum() for x in function(True)).backward()
        return _finished([source.grad for source in sources[:num_inputs]])

    return forward, step, f"PyTorch {torch.__version__}"


def _finished(tensors):
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return tensors


def _tensor(array, axes=(0, 3, 1, 2)):
    """Copies an array to the device, channels first."""
    return torch.tensor(array, device=DEVICE).permute(axes).contiguous()


def deform_conv2d(*arguments, **options):
    """Calls torchvision, which is imported here because only the peer needs it."""
    import torchvision.ops

    return torchvision.ops.deform_conv2d(*arguments, **options)


def torchvision_op(workload):
    """The operation."""
    *maps, kernel = workload.op_arrays()
    x, offsets, mask = map(_tensor, maps)
    kernel = _tensor(kernel, (3, 2, 0, 1))
    return _named(
        lambda _: [deform_conv2d(x, offsets, kernel, padding=1, mask=mask)],
        [x, offsets, mask, kernel],
        num_inputs=4,
    )


def torchvision_tower(workload):
    """The tower."""
    tower = Tower(workload.blocks, workload.channels)
    tower.load_state_dict({k: torch.tensor(v) for k, v in workload.tower_state().items()})
    tower.to(DEVICE)
    pyramid = [_tensor(array) for array in workload.pyramid()]
    return _named(lambda _: tower(pyramid), [*pyramid, *tower.parameters()], len(pyramid))


def _named(function, sources, num_inputs):
    import torchvision

    *calls, version = torch_calls(function, sources, num_inputs)
    return *calls, f"{version}, torchvision {torchvision.__version__}"


class Branch(nn.Module):
    """Deformable 3x3 convolution and its GroupNorm."""

    def __init__(self, channels, stride):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3)
        self.bn = nn.GroupNorm(16, channels)
        self.stride = stride

    def forward(self, x, offset, mask):
        sampled = deform_conv2d(
            x, offset, self.conv.weight, self.conv.bias, self.stride, padding=1, mask=mask
        )
        return self.bn(sampled)


class DynamicReLU(nn.Module):
    """Task-aware attention."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 4),
            nn.ReLU(),
            nn.Linear(channels // 4, 4 * channels),
            nn.Hardsigmoid(),
        )

    def forward(self, x):
        theta = self.fc(x.mean(dim=(2, 3)))[:, :, None, None] - 0.5
        a1, b1, a2, b2 = theta.chunk(4, dim=1)
        return torch.maximum(x * (2 * a1 + 1) + b1, x * (2 * a2) + b2)


class Block(nn.Module):
    """One DyHead block; parameters have the names of the published weights."""

    def __init__(self, channels):
        super().__init__()
        self.DyConv = nn.ModuleList([Branch(channels, stride) for stride in (1, 1, 2)])
        self.AttnConv = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 1, 1), nn.ReLU())
        self.relu = DynamicReLU(channels)
        self.offset = nn.Conv2d(channels, 27, 3, padding=1)

    def forward(self, pyramid):
        coarser, same, finer = self.DyConv
        outputs = []
        for level, x in enumerate(pyramid):
            field = self.offset(x)
            offset, mask = field[:, :18], field[:, 18:].sigmoid()
            branches = [same(x, offset, mask)]
            if level > 0:
                branches.append(finer(pyramid[level - 1], offset, mask))
            if level < len(pyramid) - 1:
                small = pyramid[level + 1]
                high = coarser(small, read_flat(offset, small), read_flat(mask, small))
                branches.append(
                    functional.interpolate(
                        high, size=x.shape[2:], mode="bilinear", align_corners=True
                    )
                )
            gates = [functional.hardsigmoid(self.AttnConv(branch)) for branch in branches]
            fused = sum(g * b for g, b in zip(gates, branches, strict=True)) / len(branches)
            outputs.append(self.relu(fused))
        return outputs


class Tower(nn.Module):
    """A stack of blocks."""

    def __init__(self, num_blocks, channels):
        super().__init__()
        self.dyhead_tower = nn.Sequential(*(Block(channels) for _ in range(num_blocks)))

    def forward(self, pyramid):
        return self.dyhead_tower(pyramid)


def read_flat(field, small):
    """Reads a field on the coarser level as published: as flat memory, per sample."""
    batch, channels = field.shape[:2]
    height, width = small.shape[2:]
    memory = field.reshape(batch, -1)[:, : channels * height * width]
    return memory.reshape(batch, channels, height, width)

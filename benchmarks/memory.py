"""Peak memory of this process on the host or on its GPU."""

import platform
import resource
from pathlib import Path


class PeakMemory:
    """Peak memory in MiB above the memory at construction.

    Measures resident memory on the host, and the memory of the framework's allocator on a GPU.
    Hosts other than Linux and JAX on GPUs cannot reset the peak: an earlier, higher peak counts.

    Args:
        gpu: Framework whose GPU memory is measured: `"jax"`, `"tensorflow"` or `"torch"`. Empty:
            host memory.
    """

    def __init__(self, gpu: str = ""):
        self._peak = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch, "": _host}[gpu]
        self._before = self._peak(forget=True)

    def mib(self) -> float:
        """Returns the peak so far."""
        return self._peak() - self._before


def _host(forget=False):
    if platform.system() != "Linux":
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    name = "VmRSS" if forget else "VmHWM"
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _jax(forget=False):
    import jax

    found = jax.local_devices()[0].memory_stats()
    return found["bytes_in_use" if forget else "peak_bytes_in_use"] / 2**20


def _tensorflow(forget=False):
    import tensorflow as tf

    if forget:
        tf.config.experimental.reset_memory_stats("GPU:0")
    found = tf.config.experimental.get_memory_info("GPU:0")
    return found["current" if forget else "peak"] / 2**20


def _torch(forget=False):
    import torch

    if forget:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    return torch.cuda.max_memory_allocated() / 2**20

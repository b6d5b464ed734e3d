"""All kinds of PyTorch files are read; damaged and dangerous ones are named and refused."""

import argparse
import collections
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from keras_dyhead.checkpoints import read_state_dict
from keras_dyhead.checkpoints.plain_values import INERT, Inert
from keras_dyhead.checkpoints.state_dict import read_checkpoint

ARRAYS = {
    "a.weight": np.arange(24, dtype="float32").reshape(2, 3, 4),
    "a.scale": np.float32(1.5),
    "a.num_batches_tracked": np.int64(7),
}


def tensors():
    return collections.OrderedDict((k, torch.tensor(v)) for k, v in ARRAYS.items())


def assert_arrays(state):
    assert list(state) == list(ARRAYS) and len(state) == len(ARRAYS)
    for name, array in ARRAYS.items():
        assert state[name].dtype == array.dtype and state[name].shape == array.shape
        np.testing.assert_array_equal(state[name], array)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "iteration": 90000, "__author__": "third party"},
        lambda state: {"state_dict": state, "meta": {"CLASSES": ("a", "b"), "time": "now"}},
    ],
    ids=["plain", "detectron2", "openmmlab"],
)
def test_pytorch_files_are_read_with_every_nesting_and_format(tmp_path, wrap, zipped):
    path = tmp_path / "x.pth"
    torch.save(wrap(tensors()), path, _use_new_zipfile_serialization=zipped)
    assert_arrays(read_state_dict(path))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_floats_of_other_precision_become_float32(tmp_path, dtype):
    torch.save({"w": torch.ones(3, dtype=getattr(torch, dtype)) * 1.5}, tmp_path / "x.pth")
    array = read_state_dict(tmp_path / "x.pth")["w"]
    assert array.dtype == "float32" and array.tolist() == [1.5] * 3


def test_training_records_of_mmengine_are_ignored(tmp_path):
    """Log histories and NumPy scalars in `meta` neither stop loading nor become objects."""
    code = """
import sys, types, numpy as np, torch
module = types.ModuleType("mmengine.logging.history_buffer")
class HistoryBuffer:
    def mean(self): pass
HistoryBuffer.__module__ = module.__name__
module.HistoryBuffer = HistoryBuffer
sys.modules.update({"mmengine": types.ModuleType("mmengine"),
    "mmengine.logging": types.ModuleType("mmengine.logging"), module.__name__: module})
buffer = HistoryBuffer()
buffer._log_history = np.array([1.0, 2.0])
buffer._statistics_methods = {"mean": HistoryBuffer.mean}
hub = {"log_scalars": {"train/loss": buffer}, "runtime_info": {"best": np.float64(0.433)}}
torch.save({"state_dict": {"w": torch.ones(2)}, "meta": {}, "message_hub": hub}, sys.argv[1])
"""
    path = tmp_path / "x.pth"
    subprocess.run([sys.executable, "-c", code, path], check=True)
    with pytest.raises(pickle.UnpicklingError, match="HistoryBuffer"):
        torch.load(path, weights_only=True)
    assert read_state_dict(path)["w"].tolist() == [1, 1]
    assert "mmengine" not in sys.modules


class CreatesFile:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


class RunsCommand(CreatesFile):
    """Runs a shell command when unpickled."""

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("payload", [CreatesFile, RunsCommand])
@pytest.mark.parametrize("place", ["file", "meta", "tensor", "bare pickle", "old file"])
def test_a_malicious_file_is_refused_and_its_code_not_run(tmp_path, payload, place):
    victim, path = tmp_path / "created", tmp_path / "evil.pth"
    evil = payload(victim)
    content = {
        "file": evil,
        "meta": {"state_dict": tensors(), "meta": {"hook": evil}},
        "tensor": {**tensors(), "b.weight": evil},
        "bare pickle": evil,
        "old file": {"model": tensors(), "optimizer": evil},
    }[place]
    if place == "bare pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=place != "old file")
    pattern = r"evil.pth was refused: besides tensors, it contains '\w+(\.open|\.system)?'"
    with pytest.raises(ValueError, match=pattern):
        read_state_dict(path)
    assert not victim.exists()
    pickle.loads(pickle.dumps(evil))  # what would have happened
    assert victim.exists()


def test_allowed_names_do_not_resolve_to_what_they_name():
    """No allowed name has any effect: `getattr` in a file is not `getattr`."""
    payload = pickle.PROTO + b"\x02" + b"cbuiltins\ngetattr\n(cbuiltins\ngetattr\nX\x04\x00\x00\x00"
    payload += b"nametR."
    with torch.serialization.safe_globals([(value, name) for name, value in INERT.items()]):
        found = torch._weights_only_unpickler.load(io.BytesIO(payload))
    assert type(found) is Inert


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint at all", "x.pth is damaged or not a PyTorch checkpoint"),
        (bytes(1000), "x.pth is damaged or not a PyTorch checkpoint"),
    ],
)
def test_a_file_that_is_not_a_checkpoint_is_named(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused_at_every_length(tmp_path, zipped):
    path = tmp_path / "x.pth"
    torch.save(tensors(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in range(1, len(whole) - 30, len(whole) // 12):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="x.pth"):
            read_state_dict(path)


def test_flipped_bytes_are_refused_or_only_change_values(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(tensors(), path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for position in random.integers(0, len(whole), 60):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            assert all(isinstance(v, np.ndarray) for v in read_state_dict(path).values())
        except ValueError as error:
            assert "x.pth" in str(error)


@pytest.mark.parametrize("content", [{}, {"meta": {"a": 1}}, {"state_dict": {}}, [1, 2]])
def test_a_file_without_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth contains no"):
        read_state_dict(tmp_path / "x.pth")


def test_a_pytorch_version_without_safe_loading_is_refused(tmp_path, monkeypatch):
    torch.save(tensors(), tmp_path / "x.pth")
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.5.1"))
    with pytest.raises(ImportError, match="needs PyTorch 2.6"):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"model.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"model.module.{name}",
        lambda name: f"teacher.{name}",
        lambda name: f"_forward_module.net.{name}",
        lambda name: f"averaged_model.module.{name}",
        lambda name: f"modelTeacher.module.{name}",
        lambda name: name.replace("a.", "a._orig_mod."),
        lambda name: name.replace("a.", "a._checkpoint_wrapped_module."),
    ],
)
def test_additions_of_training_tools_to_names_are_removed(tmp_path, rename):
    renamed = {rename(name): tensor for name, tensor in tensors().items()}
    torch.save({"state_dict": renamed}, tmp_path / "x.pth")
    assert_arrays(read_state_dict(tmp_path / "x.pth"))
    arrays = {rename(name): np.asarray(array) for name, array in ARRAYS.items()}
    assert_arrays(read_state_dict(arrays))
    save_file(arrays, tmp_path / "X.SAFETENSORS")
    found = read_state_dict(tmp_path / "X.SAFETENSORS")
    assert sorted(found) == sorted(ARRAYS)
    assert_arrays({name: found[name] for name in ARRAYS})


def test_a_name_that_only_resembles_a_wrapper_is_kept():
    state = {"scale_attn_module.1.weight": 1, "modeling.a": 2, "neck.model.a": 3, "ema_a": 4}
    assert read_state_dict(state) is state


def test_the_teacher_is_read_rather_than_its_student():
    other = {name: 0 * np.asarray(array) for name, array in ARRAYS.items()}
    state = {f"student.{name}": array for name, array in other.items()}
    state |= {f"teacher.{name}": array for name, array in ARRAYS.items()}
    assert_arrays(read_state_dict(state))
    assert_arrays(read_state_dict({"student": other, "teacher": tensors(), "epoch": 3}))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda tensor: torch.complex(tensor, tensor),
    ],
    ids=["sparse", "meta", "quantized", "complex"],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_tensor_without_plain_numbers_is_named(change):
    with pytest.raises(ValueError, match="tensor 'a.weight' has no plain numbers"):
        read_state_dict({"state_dict": {"a.weight": change(torch.ones(2, 3))}})


def ema_names(state):
    return {"ema_" + name.replace(".", "_"): 0 * tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state, zeros: {"state_dict": state | ema_names(state)},
        lambda state, zeros: {
            "state_dict": state,
            "ema_state_dict": {"module." + n: t for n, t in zeros.items()}
            | {"steps": torch.tensor(3)},
        },
        lambda state, zeros: {"state_dict": zeros, "ema_state_dict": state},
        lambda state, zeros: {"ema_state_dict": {"steps": torch.tensor(3)} | state, "meta": {}},
        lambda state, zeros: {"state_dict": zeros, "state_dict_ema": state},
        lambda state, zeros: {"model": zeros, "model_ema": state},
        lambda state, zeros: {"model": zeros, "ema": {"module": state, "updates": 9}},
        lambda state, zeros: (
            {"module." + n: t for n, t in state.items()} | {"n_averaged": torch.tensor(3)}
        ),
        lambda state, zeros: {"module": state, "epoch": 3},
        lambda state, zeros: {"model": state, "ema": {}, "model_ema": {"decay": 0.9}},
        lambda state, zeros: {"model_state_dict": state, "optimizer_state_dict": {"state": zeros}},
        lambda state, zeros: {"net": zeros, "net_ema": state},
        lambda state, zeros: {"model": zeros, "ema_model": {"state_dict": state}},
        lambda state, zeros: {"state_dict": zeros, "swa_model": state},
        lambda state, zeros: {"model": state, "semantic_head": zeros},
        lambda state, zeros: {
            "state_dict": {"model." + n: t for n, t in zeros.items()}
            | {"model_ema.module." + n: t for n, t in state.items()}
        },
        lambda state, zeros: zeros | {"ema." + n: t for n, t in state.items()},
    ],
    ids=[
        *("mmdet2", "mmengine", "ema", "alone", "timm", "detr", "rt-detr", "swa", "deepspeed"),
        *("averages not begun", "plain loop", "another name", "nested", "stochastic", "no average"),
        *("lightning", "beside"),
    ],
)
def test_averaged_weights_are_read_if_the_file_has_them(tmp_path, wrap):
    state = dict(tensors())
    zeros = {name: 0 * tensor for name, tensor in state.items()}
    torch.save(wrap(state, zeros), tmp_path / "X.PTH")
    assert_arrays(read_state_dict(tmp_path / "X.PTH"))
    assert_arrays(read_state_dict(wrap(state, zeros)))


def test_several_models_are_refused(tmp_path):
    torch.save({"generator": tensors(), "critic": tensors()}, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=r"x\.pth contains several models: \['generator', 'critic'\]"
    ):
        read_state_dict(tmp_path / "x.pth")


def test_a_mapping_loaded_from_a_file_is_read_like_the_file():
    loaded = {"state_dict": tensors(), "meta": {"CLASSES": ("ant", "bee")}}
    state, names = read_checkpoint(loaded)
    assert_arrays(state)
    assert names == ["ant", "bee"]


def test_command_line_arguments_and_paths_are_ignored(tmp_path):
    args = argparse.Namespace(lr=1e-4, out=Path("runs") / "a")
    torch.save({"model": tensors(), "args": args, "folder": Path("runs")}, tmp_path / "x.pth")
    assert_arrays(read_state_dict(tmp_path / "x.pth"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"meta": {"CLASSES": ("ant", "bee")}}, ["ant", "bee"]),
        ({"meta": {"CLASSES": "ant"}}, ["ant"]),
        ({"meta": {"classes": ["ant"]}}, ["ant"]),
        ({"meta": {"dataset_meta": {"classes": ("ant", "bee"), "palette": [1]}}}, ["ant", "bee"]),
        ({"meta": {"dataset_meta": {"CLASSES": ("ant",)}, "CLASSES": None}}, ["ant"]),
        ({"dataset_meta": {"classes": {1: "bee", 0: "ant"}}}, ["ant", "bee"]),
        ({"classes": [1, 2]}, ["1", "2"]),
        ({"meta": {"CLASSES": ()}}, None),
        ({"meta": {"CLASSES": None}}, None),
        ({"meta": {"CLASSES": [None]}}, None),
        ({"meta": "none"}, None),
        ({}, None),
    ],
)
def test_class_names_are_found(tmp_path, content, expected):
    torch.save({"state_dict": tensors()} | content, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth")[1] == expected


def test_safetensors_may_have_class_names(tmp_path):
    arrays = {name: np.asarray(array) for name, array in ARRAYS.items()}
    save_file(arrays, tmp_path / "x.safetensors", {"classes": '["ant", "bee"]'})
    assert read_checkpoint(tmp_path / "x.safetensors")[1] == ["ant", "bee"]

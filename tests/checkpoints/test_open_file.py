"""Checkpoints without PyTorch: safetensors, mappings, and files that are no checkpoints."""

import sys
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_dyhead.checkpoints import read_state_dict

ARRAYS = {
    "a.weight": np.arange(24, dtype="float32").reshape(2, 3, 4),
    "a.scale": np.float32(1.5),
    "a.num_batches_tracked": np.int64(7),
}


def test_safetensors_files_are_read_tensor_by_tensor(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({k: np.asarray(v) for k, v in ARRAYS.items()}, path)
    state = read_state_dict(path)
    assert set(state) == set(ARRAYS) and len(state) == 3 and "b" not in state
    for name, array in ARRAYS.items():
        assert state[name].dtype == array.dtype and state[name].shape == array.shape
        np.testing.assert_array_equal(state[name], array)
    with pytest.raises(KeyError):
        state["b"]


def test_safetensors_files_with_another_suffix_are_recognized(tmp_path):
    save_file({k: np.asarray(v) for k, v in ARRAYS.items()}, tmp_path / "pytorch_model.bin")
    assert set(read_state_dict(tmp_path / "pytorch_model.bin")) == set(ARRAYS)


def test_a_safetensors_dtype_that_numpy_lacks_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_tensors

    save_tensors({"a": torch.ones(2).to(torch.float8_e5m2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="'a' has a dtype that cannot be read"):
        read_state_dict(tmp_path / "x.safetensors")["a"]


def test_a_mapping_is_returned_unchanged():
    assert read_state_dict(ARRAYS) is ARRAYS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.pth is empty"),
        (b"<!DOCTYPE html>\n<html>404</html>", "x.pth is a web page.*the download went wrong"),
        (b"\n<html><body>", "x.pth is a web page"),
        (b"\xef\xbb\xbf<Error>NoSuchKey", "x.pth is a web page"),
        (b"PK\x03\x04" + bytes(300), "x.pth is truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "x.pth is a pointer of Git LFS"),
        (b'{"state_dict": {}}', "x.pth is a JSON file"),
        (b"\x89PNG\r\n" + bytes(30), "x.pth is an image"),
        (b"\x1f\x8b\x08" + bytes(30), "x.pth is a compressed file: unpack it"),
        (b"\x89HDF\r\n" + bytes(30), "x.pth is an HDF5 file"),
        (b"no checkpoint at all", "x.pth is damaged or not a PyTorch checkpoint"),
    ],
)
def test_a_failed_download_is_named(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [b"", bytes(64), b"\xff" * 64])
def test_a_damaged_safetensors_file_is_named(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        read_state_dict(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (("config.json", "model.weights.h5"), "is a Keras model.*load_model"),
        (("code/a.py", "constants.pkl", "data.pkl"), "is a TorchScript program"),
        (("a.npy",), "is a zip file without a checkpoint. It contains .'a.npy'."),
    ],
)
def test_zip_files_of_other_kinds_are_named(tmp_path, members, message):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as file:
        for name in members:
            file.writestr(name, "content")
    with pytest.raises(ValueError, match=f"(?s)x.pth {message}"):
        read_state_dict(tmp_path / "x.pth")


def test_a_missing_file_and_a_wrong_argument_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no file .*x.pth"):
        read_state_dict(tmp_path / "x.pth")
    with pytest.raises(ValueError, match="is a folder"):
        read_state_dict(tmp_path)
    with pytest.raises(TypeError, match="a path or a mapping"):
        read_state_dict(3)


@pytest.mark.parametrize(("suffix", "package"), [("pth", "torch"), ("safetensors", "safetensors")])
def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch, suffix, package):
    (tmp_path / f"x.{suffix}").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(64))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install '.\[convert\]'"):
        read_state_dict(tmp_path / f"x.{suffix}")

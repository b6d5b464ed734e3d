"""Pickles of NumPy arrays are read without running code."""

import collections
import os
import pickle

import numpy as np
import pytest

from keras_dyhead.checkpoints import read_state_dict

ARRAYS = {
    "a": np.arange(24, dtype="float32").reshape(2, 3, 4),
    "b": np.arange(6.0).reshape(2, 3).T,  # column-major
    "c": np.arange(3, dtype=">i4"),
    "d": np.array(2.5, "float16"),
    "e": np.zeros((0, 3), "float32"),
    "f": np.array([True, False]),
    "g": np.float32(1.5),
    "h": np.arange(8, dtype="float32")[::2],
}


@pytest.mark.parametrize(
    ("suffix", "protocol"),
    [*((".pkl", n) for n in range(pickle.HIGHEST_PROTOCOL + 1)), (".PKL", 4), (".pth", 4)],
)
def test_arrays_are_read_from_every_protocol(tmp_path, protocol, suffix):
    path = tmp_path / f"R-50{suffix}"
    content = {"model": collections.OrderedDict(ARRAYS), "__author__": "me", "heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol))
    state = read_state_dict(path)
    assert list(state) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert state[name].shape == array.shape
        np.testing.assert_array_equal(state[name], array)
        assert state[name].dtype == (array.dtype if array.dtype.kind != "f" else "float32")


def test_files_from_python_2_are_read(tmp_path):
    """In Python 2, names and bytes are both plain strings."""
    content = (
        b"\x80\x02}U\x05modelq\x00}U\x01aq\x01cnumpy.core.multiarray\n_reconstruct\n"
        b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
        + np.array([1.5, -2], "<f4").tobytes()
        + b"tbss."
    )
    (tmp_path / "x.pkl").write_bytes(content)
    assert read_state_dict(tmp_path / "x.pkl")["a"].tolist() == [1.5, -2]


def test_entries_other_than_arrays_of_numbers_are_left_out(tmp_path):
    content = {"a": np.ones(2), "text": np.array(["x"]), "objects": np.array([None, {}]), "b": [1]}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    assert list(read_state_dict(tmp_path / "x.pkl")) == ["a"]


class Call:
    """Makes the reader call a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("place", ["file", "model", "beside", "in an array"])
@pytest.mark.parametrize("name", ["system", "eval", "getattr", "open"])
def test_a_malicious_pickle_runs_nothing(tmp_path, protocol, place, name):
    victim = tmp_path / "created"
    evil = {
        "system": Call(os.system, f"touch {victim}"),
        "eval": Call(eval, f"open({str(victim)!r}, 'w')"),
        "getattr": Call(getattr, Call(open, str(victim), "w"), "name"),
        "open": Call(open, str(victim), "w"),
    }[name]
    content = {
        "file": evil,
        "model": {"model": {"a": np.ones(2), "b": evil}},
        "beside": {"model": {"a": np.ones(2)}, "hook": evil},
        "in an array": {"model": {"a": np.array([evil, None], dtype=object)}},
    }[place]
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match=r"evil.pkl was refused: besides tensors, it contains '"):
        read_state_dict(path)
    assert not victim.exists()
    pickle.loads(path.read_bytes())  # what would have happened
    assert victim.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"c_codecs\nencode\n(\x8c\x01ax\x8c\x06utf-16tR.",  # another codec
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(\x8c\x02O8tRB\x08\x00\x00\x00AAAAAAAAtR.",
        b"c_codecs\nencode\nN}\x8c\x0c__defaults__Ns\x86b.",  # sets attributes of a function
        b"ccollections\nOrderedDict\nN}\x8c\x04itemsNs\x86b.",  # ... of a class
        b"cnumpy\nload\n(\x8c\x01xtR.",
        b"\x82\x01.",  # an extension
        b"P1\n.",  # an object stored elsewhere
    ],
)
def test_opcodes_reach_nothing_but_arrays(tmp_path, opcodes):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + opcodes)
    with pytest.raises(ValueError, match=r"x.pkl (was refused|is damaged|contains no)"):
        read_state_dict(tmp_path / "x.pkl")
    assert list(collections.OrderedDict(a=1).items()) == [("a", 1)]


def test_a_truncated_pickle_is_named_at_every_length(tmp_path):
    whole = pickle.dumps({"model": ARRAYS})
    for length in range(2, len(whole) - 1, 37):
        (tmp_path / "x.pkl").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="x.pkl is damaged"):
            read_state_dict(tmp_path / "x.pkl")

"""Weight files: every wrapper that people save, and files that are no weights."""

import argparse
import collections
import io
import json
import pathlib
import pickle
import zipfile

import hub_files
import numpy as np
import pytest

from free_jax.errors import InputError
from free_jax.interop.tensors import read_tensors

STATE = hub_files.conv4_state()


def saved(path, content, **kwargs):
    torch = pytest.importorskip("torch")
    torch.save(content, path, **kwargs)
    return path


@pytest.mark.parametrize("layout", hub_files.LAYOUTS)
def test_wrappers_are_taken_off(tmp_path, layout):
    pytest.importorskip("torch")
    path = saved(tmp_path / "any name.pth.tar", hub_files.wrapped(layout, STATE))
    found = read_tensors(path).state
    assert found.keys() == STATE.keys()
    for key, value in STATE.items():
        tolerance = 1e-3 if layout == "half" else 0
        np.testing.assert_allclose(found[key], value, rtol=tolerance)
        assert found[key].dtype == value.dtype


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn"])
def test_safetensors_of_all_floats(tmp_path, dtype):
    state = hub_files.as_type(STATE, dtype)
    path = tmp_path / "x.safetensors"
    path.write_bytes(hub_files.safetensors_bytes(state, {"format": "pt"}))
    found = read_tensors(path)
    assert found.extra["metadata"] == {"format": "pt"}
    for key, value in state.items():
        np.testing.assert_array_equal(found.state[key], value.astype(STATE[key].dtype))


def test_table_chooses_between_averaged_and_last_weights(tmp_path):
    path = saved(tmp_path / "a.pth", hub_files.wrapped("ema", STATE))
    assert read_tensors(path).wrapper == "state_dict_ema"
    last = read_tensors(path, weights="model")
    assert last.wrapper == "state_dict" and not last.state["trunk.5.weight"].any()
    bare = saved(tmp_path / "b.pth", hub_files.wrapped("bare", STATE))
    with pytest.raises(InputError, match="no averaged weights"):
        read_tensors(bare, weights="ema")


def test_files_of_old_torch_and_plain_values_beside(tmp_path):
    content = hub_files.wrapped("namespace", STATE) | {
        "when": pathlib.PurePosixPath("runs/1"),
        "counts": collections.Counter("aab"),
        "best": np.float32(0.5),
    }
    path = saved(tmp_path / "a.pth", content, _use_new_zipfile_serialization=False)
    extra = read_tensors(path).extra
    assert extra["args"] == {"lr": 0.1, "out": "x"} and extra["best"] == 0.5
    assert extra["when"] == "runs/1" and extra["counts"] == {"a": 2, "b": 1}


class Canary:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return open, (self.trace, "w")


def _bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * (64 << 20))


def _torchscript(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"")
        archive.writestr("m/code/__torch__.py", "")
        archive.writestr("m/constants.pkl", b"")


def _header(entries, data=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


BAD = {
    "empty.pth": (b"", "is empty"),
    "page.pth": (b"<!DOCTYPE html><html>", "web page"),
    "pointer.safetensors": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
        "git lfs pull",
    ),
    "keras.pth": (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "Keras"),
    "noise.pth": (bytes(range(7, 255)), "cannot be read"),
    "noise.safetensors": (bytes(range(7, 255)), "no header"),
    "short.safetensors": (_header({"a": {}})[:12], "header says|cannot be read"),
    "huge.safetensors": ((1 << 60).to_bytes(8, "little") + b"{}", "header says it has"),
    "list.safetensors": (_header(b"{[]]"), "cannot be read"),
    "entry.safetensors": (_header({"a": {"dtype": "F32"}}), "damaged"),
    "type.safetensors": (
        _header({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, b"0" * 4),
        "type 'X9'",
    ),
    "large.safetensors": (
        _header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}),
        "does not fit",
    ),
    "negative.safetensors": (
        _header({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}),
        "damaged",
    ),
    "none.safetensors": (_header({}), "no tensors"),
    "metadata.safetensors": (_header({"__metadata__": [1]}), "__metadata__"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_weights(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_tensors(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_archives_that_are_no_weights(tmp_path):
    _bomb(tmp_path / "bomb.pth")
    _torchscript(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("a.jpg", b"x")
    for name, message in (
        ("bomb.pth", "unpacks to"),
        ("script.pt", "is TorchScript"),
        ("photos.pth", "without weights"),
    ):
        with pytest.raises(InputError, match=message):
            read_tensors(tmp_path / name)


def test_code_is_never_run_and_named(tmp_path):
    torch = pytest.importorskip("torch")
    trace = tmp_path / "trace"
    state = hub_files.tensors(STATE)
    saved(tmp_path / "beside.pth", {"state_dict": state, "x": Canary(trace)})
    saved(tmp_path / "alone.pth", Canary(trace))
    saved(tmp_path / "whole.pth", torch.nn.Linear(2, 2))
    saved(tmp_path / "in.pth", {"model": torch.nn.Linear(2, 2)})
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Canary(trace), 2))
    for name, message in (
        ("beside.pth", r"holds code.*(io|builtins|_io)\.open"),
        ("alone.pth", "whole pickled module"),
        ("whole.pth", r"whole pickled module \(torch.nn.modules.linear.Linear\)"),
        ("in.pth", r"holds code.*Linear"),
        ("raw.pth", "whole pickled module"),
    ):
        with pytest.raises(InputError, match=message):
            read_tensors(tmp_path / name)
    assert not trace.exists()


def test_tensors_without_values_of_their_own(tmp_path):
    torch = pytest.importorskip("torch")
    for tensor, message in (
        (torch.zeros(3, 3, device="meta"), "meta"),
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.zeros(1).expand(1 << 14, 1 << 14), "larger than the file"),
    ):
        path = saved(tmp_path / "a.pth", {"a": torch.zeros(2, 2), "b": tensor})
        with pytest.raises(InputError, match=message):
            read_tensors(path)
    for content, message in (
        ({"g": {"a": torch.ones(2, 2)}, "d": {"a": torch.ones(2, 2)}}, "2 networks"),
        ([1, 2], "holds a list"),
        ({"epoch": 3, "args": argparse.Namespace()}, "not a teacher"),
        ({"model": {}}, "not a teacher"),
    ):
        with pytest.raises(InputError, match=message):
            read_tensors(saved(tmp_path / "b.pth", content))


def test_shards_are_complete_and_stay_in_their_folder(tmp_path):
    keys = sorted(STATE)
    folder = tmp_path / "in"
    folder.mkdir()
    for i, part in enumerate((keys[:9], keys[9:])):
        (folder / f"m-{i}.safetensors").write_bytes(
            hub_files.safetensors_bytes({k: STATE[k] for k in part})
        )
    index = folder / "m.safetensors.index.json"

    def write(table):
        index.write_text(json.dumps({"weight_map": table}))
        return read_tensors(index).state

    table = {k: f"m-{int(k in keys[9:])}.safetensors" for k in keys}
    assert write(table).keys() == STATE.keys()
    for bad, message in (
        ({**table, "x": "m-7.safetensors"}, "1 of 3 files are missing"),
        ({**table, "x": "../m-0.safetensors"}, "only files beside"),
        ({**table, "x": "/etc/passwd"}, "only files beside"),
        ({**table, "x": 3}, "only files beside"),
        ({**table, "x": "m-0.safetensors"}, "not in the files"),
        ({}, "no weight_map"),
    ):
        with pytest.raises(InputError, match=message):
            write(bad)
    outside = tmp_path / "secret.safetensors"
    outside.write_bytes(hub_files.safetensors_bytes(STATE))
    (folder / "m-9.safetensors").symlink_to(outside)
    with pytest.raises(InputError, match="leads out of the folder"):
        write({**table, "x": "m-9.safetensors"})


def test_torch_is_asked_for(tmp_path, monkeypatch):
    import sys

    stream = io.BytesIO()
    pytest.importorskip("torch").save({"a": 1}, stream)
    (tmp_path / "a.pth").write_bytes(stream.getvalue())
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r'pip install "free_jax\[torch\]"'):
        read_tensors(tmp_path / "a.pth")

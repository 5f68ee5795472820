"""File formats: what is read, and what is refused in one line before anything is allocated or run."""

import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from safetensors.numpy import save_file

import rnndyn as rd

FIXTURES = Path(__file__).parent / "fixtures"
EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"


def gru(size=4, inputs=2, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = {
        "weight_ih": (3 * size, inputs),
        "weight_hh": (3 * size, size),
        "bias_ih": (3 * size,),
        "bias_hh": (3 * size,),
    }
    return {f"{name}_l0": rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def refused(path, match, **kwargs):
    """The error of a file, which has to be one line."""
    with pytest.raises(ValueError, match=match) as caught:
        rd.load_network(path, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(one, other):
    for name in ("weight_ih", "weight_hh", "bias"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_safetensors_and_npz_hold_the_same_network(tmp_path):
    weights = gru()
    save_file(weights, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **weights)
    cells = [rd.load_network(tmp_path / name).cell for name in ("w.safetensors", "w.npz")]
    same(*cells)
    # Sums of float32 biases are exact in float64.
    exact = weights["bias_ih_l0"].astype(float) + weights["bias_hh_l0"].astype(float)
    np.testing.assert_array_equal(np.asarray(cells[0].bias)[:8], exact[:8])
    np.testing.assert_array_equal(cells[0].bias_n, weights["bias_hh_l0"][8:].astype(float))
    assert rd.load_network(tmp_path / "w.npz", dtype="float32").cell.bias.dtype == np.float32


def test_the_model_of_pytorch_as_safetensors_is_that_of_the_npz():
    one, other = (rd.load_network(FIXTURES / f"torch_model.{suffix}") for suffix in ("npz", "safetensors"))
    for mine, its in zip(one.cell.cells, other.cell.cells, strict=True):
        same(mine, its)
    np.testing.assert_array_equal(one.readout.weight, other.readout.weight)
    np.testing.assert_array_equal(one.embedding.weight, other.embedding.weight)


def test_bfloat16_is_read_exactly():
    cell = rd.load_network(FIXTURES / "bfloat16.safetensors").cell
    original = rd.load_network(FIXTURES / "torch_two.npz", "encoder").cell
    # bfloat16 keeps eight bits.
    np.testing.assert_allclose(cell.weight_hh, original.weight_hh, rtol=2**-8)
    bits = np.asarray(cell.weight_hh, np.float32).view(np.uint32)
    assert (bits & 0xFFFF == 0).all()


def test_the_example_of_the_tutorial_has_the_fixed_points_of_the_reference():
    found = rd.load_network(EXAMPLES / "flipflop_gru16.safetensors")
    assert found.readout.weight.shape == (3, 16)
    assert (EXAMPLES / "flipflop_gru16.safetensors").stat().st_size < 200_000
    with np.load(Path(__file__).parent.parent / "data" / "flipflop_gru16.npz") as data:
        points, starts = data["ref_fixed_points"], data["initial_states"]
    f = rd.as_map(found)
    polished = rd.find_fixed_points(f, points, progress=False)
    assert len(polished.points) == 27
    assert int(polished.is_stable.sum()) == 8
    assert max(np.abs(polished.points - p).max(axis=1).min() for p in points) < 1e-9
    assert starts.shape[1] == f.state_size


def test_matlab_matrices():
    content = scipy.io.loadmat(FIXTURES / "leaky.mat")
    found = rd.load_network(FIXTURES / "leaky.mat", "network", cell="leaky", activation="relu")
    assert type(found.cell) is rd.LeakyCell
    assert (found.cell.dt, found.cell.tau, found.cell.state_variable) == (1.0, 10.0, "current")
    np.testing.assert_array_equal(found.cell.weight_hh, content["W_rec"].astype(float))
    np.testing.assert_array_equal(found.cell.bias, content["b_rec"][:, 0].astype(float))
    np.testing.assert_array_equal(found.readout.weight, content["W_out"].astype(float))
    # A field of a struct is a network of its own.
    names = [layer.name for layer in rd.inspect_checkpoint(FIXTURES / "leaky.mat", cell="vanilla").layers]
    assert sorted(names) == ["network", "trained"]


def test_matlab_7_3_is_said(tmp_path):
    path = tmp_path / "new.mat"
    path.write_bytes(
        b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + struct.pack("<H2s", 0x0200, b"IM") + bytes(512)
    )
    refused(path, "v7.3")


# ---- Damage


def test_a_truncated_safetensors_file(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(gru(), path)
    whole = path.read_bytes()
    for length in (len(whole) - 7, 60, 5, 0):
        path.write_bytes(whole[:length])
        refused(path, "cut short")


def test_a_header_of_three_gigabytes_is_refused_without_allocating_it(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 3 << 30) + b"{}")
    tracemalloc.start()
    message = refused(path, "cut short")
    assert "3221225472" in message
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    # A file that is long enough for it, and still none: sparse, so that it costs nothing.
    with path.open("r+b") as file:
        file.truncate((3 << 30) + 64)
    refused(path, "the format allows")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"data_offsets": [0, 10]}, "damaged"),
        ({"shape": [1 << 40, 1 << 40]}, "damaged"),
        ({"shape": [-3, 5]}, "damaged"),
        ({"data_offsets": [0]}, "damaged"),
        ({"dtype": 3}, "dtype 3"),
        ({"shape": None}, "damaged"),
    ],
)
def test_a_safetensors_header_that_lies(tmp_path, change, match):
    path = tmp_path / "w.safetensors"
    entry = {"dtype": "F32", "shape": [12, 2], "data_offsets": [0, 96], **change}
    hidden = {"dtype": "F32", "shape": [12, 4], "data_offsets": [96, 288]}
    header = json.dumps({"__metadata__": {"a": "b"}, "weight_ih_l0": entry, "weight_hh_l0": hidden}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(288))
    refused(path, match)


def test_bytes_that_are_none_of_it(tmp_path):
    for suffix in ("safetensors", "npz", "mat"):
        path = tmp_path / f"w.{suffix}"
        for content in (b"", b"PK\x03\x04 and no zip", bytes(300), b"\xff" * 300):
            path.write_bytes(content)
            refused(path, str(path))
    with pytest.raises(FileNotFoundError, match="no file"):
        rd.load_network(tmp_path / "none.npz")
    (tmp_path / "w.onnx").write_bytes(b"")
    refused(tmp_path / "w.onnx", r"known are \.safetensors, \.npz")


def test_a_truncated_npz(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, **gru())
    whole = path.read_bytes()
    for length in (len(whole) - 3, len(whole) // 2):
        path.write_bytes(whole[:length])
        refused(path, "damaged, cut short")
    # A byte of the data: the checksum of the zip archive tells.
    changed = bytearray(whole)
    changed[whole.index(b"weight_hh_l0") + 200] ^= 1
    path.write_bytes(changed)
    refused(path, "damaged, cut short|NaN")


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_an_npz_with_objects_in_it_runs_nothing(tmp_path):
    path, trace = tmp_path / "w.npz", tmp_path / "trace"
    np.savez(path, **{**gru(), "weight_hh_l0": np.array([Bomb(trace)], object)})
    message = refused(path, "weight_hh_l0")
    assert "shape" in message or "objects" in message
    np.savez(path, **gru(), note=np.array([Bomb(trace)], object))
    assert type(rd.load_network(path).cell) is rd.GRUCell
    np.savez(path, W_rec=np.array([[Bomb(trace), 1], [2, 3]], object), W_in=np.ones((2, 1)))
    refused(path, "W_rec: an array of Python objects", cell="leaky", alpha=0.1)
    assert not trace.exists()


# ---- PyTorch's own files (skipped where it is not installed)


def test_a_pytorch_file_without_pytorch_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pt").write_bytes(b"anything")
    refused(tmp_path / "w.pt", r"needs torch.*save_file\(model\.state_dict\(\)")


def test_a_pytorch_file():
    pytest.importorskip("torch")
    one, other = (rd.load_network(FIXTURES / f"torch_model.{suffix}") for suffix in ("npz", "pt"))
    for mine, its in zip(one.cell.cells, other.cell.cells, strict=True):
        same(mine, its)


def test_a_checkpoint_with_an_optimiser(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.GRU(2, 4)
    optimiser = torch.optim.Adam(module.parameters())
    module(torch.zeros(1, 2))[0].sum().backward()
    optimiser.step()
    path = tmp_path / "w.pt"
    torch.save({"epoch": 3, "model_state_dict": module.state_dict(), "optimizer": optimiser.state_dict()}, path)
    same(rd.load_network(path).cell, rd.from_torch(module).cell)


def test_a_pytorch_file_with_code_in_it_is_refused_and_the_code_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    path, trace = tmp_path / "w.pt", tmp_path / "trace"
    torch.save({"weight": Bomb(trace)}, path)
    refused(path, "its code was not run")
    path.write_bytes(pickle.dumps(Bomb(trace)))
    refused(path, str(path))
    torch.save(torch.nn.GRU(2, 4), path)
    refused(path, r"its code was not run.*model\.state_dict\(\)")
    torch.jit.script(torch.nn.GRU(2, 4)).save(path)
    refused(path, "TorchScript archive.*not run")
    assert not trace.exists()
    path.write_bytes(b"PK\x03\x04 and no zip")
    refused(path, str(path))


# ---- Keras's own files


def test_a_keras_file_without_keras_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    refused(FIXTURES / "keras_model.keras", r"needs keras.*np\.savez")
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(FIXTURES / "keras_model.weights.h5", "needs h5py")


def test_keras_files():
    pytest.importorskip("h5py")
    names = ["gru", "simple_rnn"]
    stored = rd.load_network(FIXTURES / "keras_model.npz", names, activation="relu")
    found = [rd.load_network(FIXTURES / "keras_model.weights.h5", names, activation="relu")]
    if pytest.importorskip("keras"):
        found.append(rd.load_network(FIXTURES / "keras_model.keras", names))
    for network in found:
        for mine, its in zip(stored.cell.cells, network.cell.cells, strict=True):
            same(mine, its)
        assert network.cell.cells[1].activation == "relu"
        np.testing.assert_array_equal(stored.readout.weight, network.readout.weight)
        np.testing.assert_array_equal(stored.embedding.weight, network.embedding.weight)


# ---- Importing


def test_importing_rnndyn_imports_no_framework():
    """A finder that refuses them: an import of one anywhere, guarded or not, ends the process."""
    lstm, gru = (str(FIXTURES / f"{name}.npz") for name in ("keras_lstm", "torch_gru"))
    code = (
        "import sys, importlib.abc\n"
        "class Wall(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'torch', 'keras', 'tensorflow', 'flax', 'haiku', 'h5py'}:\n"
        "            print('imported', name); sys.stdout.flush(); import os; os._exit(3)\n"
        "sys.meta_path.insert(0, Wall())\n"
        "import numpy as np, rnndyn as rd\n"
        f"print(rd.load_network({lstm!r}).cell.hidden_size)\n"
        "eye = {'kernel': np.eye(2)}\n"
        "print(rd.from_flax({'params': {'i': eye, 'h': eye}}).cell.hidden_size)\n"
        f"print(len(rd.to_torch(rd.from_torch(dict(np.load({gru!r}))))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["5", "2", "4"], done.stdout + done.stderr

"""The command `rnndyn` as a user meets it: help, one-line errors, exit codes, files."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rnndyn.portrait import portrait as portrait_module
from rnndyn.portrait.command import main

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "flipflop_gru16.safetensors"


def test_help_has_examples(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "rnndyn portrait weights.safetensors -o report/" in shown
    assert main(["portrait", "--help"]) == 0
    assert "--budget" in capsys.readouterr().out


def test_inspect_says_which_cell_a_file_becomes(capsys):
    assert main(["inspect", str(EXAMPLE)]) == 0
    shown = capsys.readouterr().out
    assert "GRU" in shown
    assert "weight_hh_l0" in shown


def test_convert_gives_the_weights_back(tmp_path, capsys):
    target = tmp_path / "copy.safetensors"
    assert main(["convert", str(EXAMPLE), "-o", str(target)]) == 0
    old = {name.split(".")[-1]: array for name, array in load_file(EXAMPLE).items() if "_l0" in name}
    new = load_file(target)
    np.testing.assert_array_equal(new["weight_hh_l0"], old["weight_hh_l0"])
    np.testing.assert_array_equal(new["weight_ih_l0"], old["weight_ih_l0"])
    # The biases of r and z only ever appear as a sum.
    number = 2 * old["weight_hh_l0"].shape[1]
    sums = [(w["bias_ih_l0"].astype(float) + w["bias_hh_l0"])[:number] for w in (old, new)]
    np.testing.assert_allclose(*sums, rtol=1e-15)


def damaged(tmp_path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(EXAMPLE.read_bytes()[:-100])
    return path


def lying_header(tmp_path):
    path = tmp_path / "huge.safetensors"
    path.write_bytes((3 * 2**30).to_bytes(8, "little") + b"{}")
    return path


def with_nan(tmp_path):
    tensors = load_file(EXAMPLE)
    name = next(name for name in tensors if name.endswith("weight_hh_l0"))
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] = np.nan
    path = tmp_path / "nan.safetensors"
    save_file(tensors, path)
    return path


def no_network(tmp_path):
    path = tmp_path / "conv.safetensors"
    save_file({"conv.weight": np.zeros((4, 3, 3), np.float32)}, path)
    return path


@pytest.mark.parametrize(
    ("make", "more"),
    [
        (lambda folder: folder / "missing.npz", []),
        (damaged, []),
        (lying_header, []),
        (with_nan, []),
        (no_network, []),
        (lambda folder: EXAMPLE, ["--cell", "lstm"]),
        (lambda folder: EXAMPLE, ["--input", "0,a,0"]),
        (lambda folder: EXAMPLE, ["--input", "0,1"]),
        (lambda folder: EXAMPLE, ["--states", "missing.npy"]),
        (lambda folder: EXAMPLE, ["--direction", "backward"]),
        (lambda folder: EXAMPLE, ["--budget", "-1"]),
        (lambda folder: EXAMPLE, ["--budget", "soon"]),
        (lambda folder: EXAMPLE, ["--colour", "red"]),
    ],
)
def test_what_is_wrong_is_one_line(make, more, tmp_path, capsys):
    code = main(["portrait", str(make(tmp_path)), "-o", str(tmp_path / "out"), *more])
    shown = capsys.readouterr()
    last = [line for line in shown.err.splitlines() if line.startswith("rnndyn: ")]
    assert code == 2
    assert len(last) == 1
    assert "Traceback" not in shown.err
    assert not (tmp_path / "out").exists()


def test_debug_shows_where(tmp_path):
    with pytest.raises(ValueError, match="path"):
        main(["inspect", str(damaged(tmp_path)), "--debug"])


def test_ctrl_c_writes_what_is_done(tmp_path, capsys, monkeypatch):
    def interrupt(self, budget, others):
        raise KeyboardInterrupt

    monkeypatch.setattr(portrait_module.Place, "find_points", interrupt)
    folder = tmp_path / "report"
    assert main(["portrait", str(EXAMPLE), "-o", str(folder)]) == 130
    shown = capsys.readouterr()
    assert "interrupted; the report holds what was done" in shown.err
    assert json.loads((folder / "portrait.json").read_text())["is_interrupted"]
    # A log that is no terminal gets one line for each stage.
    assert any(line.endswith("zero input: trajectories: done") for line in shown.err.splitlines())

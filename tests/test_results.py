import equinox as eqx
import numpy as np
import pytest

import rnndyn as rd
from rnndyn._archive import write_archive


class Inner(rd.Result):
    values: np.ndarray


class Outer(rd.Result):
    number: int
    share: float
    label: str | None
    inner: Inner
    several: tuple
    named: dict


def make():
    return Outer(3, float("nan"), None, Inner(np.arange(3.0)), (Inner(np.ones(1)), [1, "a"]), {"k": np.eye(2) * 1j})


def test_round_trip_without_pickle(tmp_path):
    path = make().save(tmp_path / "deep" / "result")
    assert path.name == "result.npz"
    loaded = rd.load(path)
    assert isinstance(loaded, Outer)
    assert np.isnan(loaded.share)
    assert eqx.tree_equal(eqx.tree_at(lambda r: r.share, loaded, 0.0), eqx.tree_at(lambda r: r.share, make(), 0.0))
    assert isinstance(loaded.several, tuple)
    with np.load(path, allow_pickle=False) as archive:
        assert len(archive.files) == 4


def test_to_dict_is_plain():
    data = make().to_dict()
    assert data["inner"]["values"].tolist() == [0, 1, 2]
    assert data["several"][1] == [1, "a"]


def test_print_is_a_short_table():
    text = str(make())
    assert text.splitlines()[0] == "Outer"
    assert "number" in text
    assert len(text.splitlines()) == 7


def test_results_are_frozen():
    with pytest.raises(AttributeError):
        make().number = 4


def test_what_cannot_be_saved_is_named(tmp_path):
    bad = Outer(1, 1.0, "x", Inner(np.zeros(1)), (lambda: 0,), {})
    with pytest.raises(ValueError, match=r"Outer\.several\[0\]: a function cannot be saved"):
        bad.save(tmp_path / "bad")


def test_foreign_and_newer_files_are_refused(tmp_path):
    np.savez(tmp_path / "foreign.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match="holds nothing saved by rnndyn"):
        rd.load(tmp_path / "foreign.npz")
    write_archive(tmp_path / "newer.npz", {"format": 99, "body": 0}, {})
    with pytest.raises(ValueError, match="Upgrade rnndyn"):
        rd.load(tmp_path / "newer.npz")

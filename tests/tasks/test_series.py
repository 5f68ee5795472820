"""Series: what is refused, what the scale remembers, and what windows hold."""

import jax
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.tasks import dynamical_systems as ds

VALUES = np.random.default_rng(0).normal(size=(3, 50, 2)) * [2.0, 5.0] + [1.0, -3.0]


def test_standardisation_is_undone_to_rounding():
    series = ds.as_series(VALUES, dt=0.1)
    scaled = series.standardize()
    flat = scaled.values.reshape(-1, 2)
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(flat.std(axis=0), 1, rtol=1e-14)
    np.testing.assert_allclose(scaled.in_units().values, VALUES, rtol=1e-14)
    train, test = series.split(1)
    assert (len(train), len(test)) == (2, 1)
    judged = test.standardize(train.standardize())
    np.testing.assert_allclose(judged.values, (VALUES[2:] - VALUES[:2].mean((0, 1))) / VALUES[:2].std((0, 1)))
    with pytest.raises(ValueError, match="standardised already"):
        scaled.standardize()


def test_delay_vectors():
    series = ds.as_series(np.arange(10.0)[:, None]).embed(3, 2)
    np.testing.assert_array_equal(series.values[0, 0], [4, 2, 0])
    np.testing.assert_array_equal(series.values[0, -1], [9, 7, 5])
    assert series.names == ("x0", "x0(t-2)", "x0(t-4)")
    with pytest.raises(ValueError, match="dimension, delay"):
        ds.as_series(np.arange(10.0)[:, None]).embed(6, 2)


def test_observing():
    series = ds.as_series(VALUES)
    np.testing.assert_array_equal(series.observe([1]).values[..., 0], VALUES[..., 1])
    np.testing.assert_allclose(series.standardize().observe([-1]).in_units().values[..., 0], VALUES[..., 1])
    angles = series.observe(lambda x: np.concatenate([np.cos(x), np.sin(x)], axis=-1))
    assert angles.num_variables == 4
    with pytest.raises(ValueError, match="before `standardize"):
        series.standardize().observe(np.cos)
    with pytest.raises(ValueError, match="which"):
        series.observe([2])


def test_cutting():
    first, later = ds.as_series(VALUES).cut(30, gap=5)
    np.testing.assert_array_equal(first.values, VALUES[:, :30])
    np.testing.assert_array_equal(later.values, VALUES[:, 35:])
    with pytest.raises(ValueError, match="gap"):
        ds.as_series(VALUES).cut(48, gap=1)
    with pytest.raises(ValueError, match="cut in time"):
        ds.as_series(VALUES[0]).split(1)


def with_nan():
    values = VALUES.copy()
    values[1, 7, 0] = np.nan
    return values


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (with_nan(), {}, "series 1 at step 7, variable 0"),
        (np.stack([np.arange(9.0), np.ones(9)], axis=1), {}, "x1 never changes"),
        (VALUES[0, :1], {}, "at least two samples"),
        ([VALUES[0], VALUES[1, :30]], {}, "30 to 50 samples"),
        ([VALUES[0], VALUES[1, :, :1]], {}, "same variables"),
        (VALUES[0, :, 0], {}, "values\\[:, None\\]"),
        ([["a", "b"]], {}, "expected numbers"),
        (VALUES, {"times": np.cumsum(np.r_[np.ones(20), 3.0, np.ones(29)])}, "after sample 19"),
        (VALUES, {"times": np.arange(3.0)}, "times"),
        (VALUES, {"dt": 0.0}, "dt"),
        (VALUES, {"names": ["only one"]}, "names"),
    ],
)
def test_bad_series_are_named(values, options, words):
    with pytest.raises(ValueError, match=words):
        ds.as_series(values, **options)


def test_reading_a_file(tmp_path):
    path = tmp_path / "series.csv"
    path.write_text("time,a,b\n" + "".join(f"{0.5 * t},{t * t},{-t}\n" for t in range(6)))
    series = ds.read_series(path, time_column="time", columns=["b", "a"])
    assert (series.names, series.dt) == (("b", "a"), 0.5)
    np.testing.assert_array_equal(series.values[0], [[-t, t * t] for t in range(6)])
    assert ds.read_series(path, time_column=0).names == ("a", "b")
    with pytest.raises(ValueError, match="no column 'c'"):
        ds.read_series(path, columns=["c"])
    path.write_text("1,2\n3,\n")
    with pytest.raises(ValueError, match="line 2"):
        ds.read_series(path)
    path.write_text("1,2\n3\n")
    with pytest.raises(ValueError, match=r"line 2 .* 1 entries"):
        ds.read_series(path)


def test_windows_are_stretches_of_the_series():
    values = np.arange(40.0)[:, None] + np.array([[0.0, 1000.0]])
    windows = ds.SeriesWindows(np.stack([values, values + 100]), 4, 64)
    batch = np.asarray(windows(jax.random.key(0)))
    assert batch.shape == (64, 5, 2)
    np.testing.assert_array_equal(np.diff(batch[..., 0], axis=1), 1)
    np.testing.assert_array_equal(batch[..., 1] - batch[..., 0], 1000)
    # Every place may be drawn, the last one too.
    assert set(batch[:, 0, 0] // 100) == {0, 1}
    many = np.asarray(ds.SeriesWindows(values, 4, 4000)(jax.random.key(1)))[:, 0, 0]
    assert set(many) == set(range(36))
    with pytest.raises(ValueError, match="num_steps"):
        ds.SeriesWindows(values, 40, 2)


def test_series_are_saved(tmp_path):
    series = ds.as_series(VALUES, dt=0.1).standardize()
    again = rd.load(series.save(tmp_path / "series.npz"))
    np.testing.assert_array_equal(again.in_units().values, series.in_units().values)
    assert again.names == series.names

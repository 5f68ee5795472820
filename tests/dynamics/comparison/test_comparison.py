"""A copy beside its system: Henon's map against itself, in other coordinates, and against maps that go astray."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon

import rnndyn as rd

START = np.array([0.1, 0.1])
WAVE = np.sin(0.3 * np.arange(400.0))[:, None] * [1.0, 0.5]
OPTIONS = {"num_steps": 4000, "num_transient": 500, "smoothing": 10.0}


@pytest.fixture(scope="module")
def itself():
    return rd.compare_dynamics(Henon(), Henon(), START, copy_states=np.array([0.2, -0.1]), **OPTIONS)


def assert_numbers(comparison):
    for row in comparison.measurements:
        for value in (row.system, row.system_error, row.copy, row.copy_error):
            assert value is None or np.isfinite(value), row


def test_the_system_is_as_good_as_identical_with_itself(itself):
    words = dict(zip((row.name for row in itself.measurements), itself.message))
    assert not itself.is_different, words
    assert sum(word.startswith("as good as identical") for word in words.values()) >= len(words) - 1
    assert itself.copy == rd.CopyVerdict.in_range
    assert_numbers(itself)


def test_numbers_of_henon_are_the_published_ones(itself):
    # Sprott (2003), "Chaos and Time-Series Analysis", appendix A: 0.41922, -1.62319, dimension 1.25827.
    assert itself["exponent 1"].system == pytest.approx(0.41922, abs=4 * itself["exponent 1"].system_error)
    # Volume shrinks by 0.3 everywhere.
    assert itself["exponent 1"].system + itself["exponent 2"].system == pytest.approx(np.log(0.3), abs=1e-6)
    dimension = itself["Kaplan-Yorke dimension"]
    assert dimension.system == pytest.approx(1.25827, abs=4 * dimension.system_error)
    # x = (0.6314, -1.1314) solves 1.4 x^2 + 0.7 x - 1 = 0.
    roots = np.sort(np.roots([1.4, 0.7, -1.0]))
    np.testing.assert_allclose(np.sort(itself.fixed_points.points[:, 0]), roots, atol=1e-12)
    assert itself.match.complete
    # A start that is 1e-6 off, 0.4 allowed: ln(4e5) Lyapunov times, give or take a few.
    assert itself["valid prediction time"].system == pytest.approx(np.log(4e5), rel=0.25)


class Turn(eqx.Module):
    """The rotation of the plane by an angle: its orbits keep their distances, whatever the last digits do."""

    angle: np.ndarray

    def __call__(self, x):
        c, s = jnp.cos(self.angle), jnp.sin(self.angle)
        return jnp.stack([c * x[0] - s * x[1], s * x[0] + c * x[1]])


def test_the_error_after_some_steps_is_that_of_closed_form():
    """Two rotations part by the difference of their angles: after three steps by a chord of three times as much."""
    system, copy = Turn(np.asarray(1.0)), Turn(np.asarray(1.01))
    found = rd.compare_dynamics(system, copy, np.array([1.0, 0.0]), error_steps=3, num_candidates=0, **OPTIONS)
    row = found["error after 3 steps"]
    # On the unit circle, whose two coordinates have standard deviations of the root of 1/2; those of 250 steps from
    # twenty states are right to a thousandth.
    assert row.copy == pytest.approx(2 * np.sin(0.03 / 2), rel=1e-3)
    assert row.message.startswith("different")
    # Of the system itself: 1e-6 standard deviations, which a rotation keeps.
    assert 2e-7 < row.system < 2e-6


def test_another_parameter_is_different():
    found = rd.compare_dynamics(Henon(), Henon(a=1.25), START, **OPTIONS)
    assert found.is_different
    for name in ("D_stsp", "D_H", "valid prediction time", "error after 10 steps", "exponent 1"):
        assert found[name].message.startswith("different"), name
    assert found["fixed points"].message.startswith("undecided")  # 0.05 standard deviations away
    assert_numbers(found)


@pytest.mark.parametrize(("a", "word"), [(2.5, "diverges"), (0.2, "settles")])
def test_a_copy_that_goes_astray_is_named(a, word, tmp_path):
    found = rd.compare_dynamics(Henon(), Henon(a=a), START, **OPTIONS)
    assert found.copy == getattr(rd.CopyVerdict, word)
    assert found.is_different
    assert f"The copy {word}." in str(found)
    assert found["D_stsp"].message.startswith("different")
    assert found["D_H"].copy is None
    assert found["error after 10 steps"].message.startswith("different")
    assert_numbers(found)
    back = rd.load(found.save(tmp_path / "comparison"))
    assert str(back) == str(found)


def test_a_copy_that_diverges_is_different_where_the_system_hardly_meets_itself():
    """Segments of 16 states in 27 000 cells have none in common: the null is as large as what the copy shows."""
    rng = np.random.default_rng(0)
    system, copy = rng.uniform(-1, 1, (2, 8, 16, 3))
    options = {"smoothing": 1.0, "num_candidates": 0}
    near = rd.compare_dynamics(system, copy, **options)
    assert near["D_stsp"].message.startswith("as good as identical")
    copy[:, 8:] = 1e6
    far = rd.compare_dynamics(system, copy, **options)
    assert far.copy == rd.CopyVerdict.diverges
    assert far["D_stsp"].message.startswith("different")
    assert far["D_stsp"].copy < far["D_stsp"].system + 2 * far["D_stsp"].system_error


@pytest.mark.parametrize("num_bins", [7, 2_000_000_000])
def test_visited_places_of_all_segments_are_compared_as_by_histograms(num_bins):
    """Eight series of each, one of the copy partly lost; also on a grid with more cells than an integer can count."""
    rng = np.random.default_rng(0)
    system, copy = rng.integers(-2, 3, (2, 8, 16, 3)).astype(float)
    copy[3, 5:] = 1e6
    found = rd.compare_dynamics(system, copy, smoothing=1.0, num_candidates=0, num_bins=num_bins)["D_stsp"]
    rows = system.reshape(-1, 3)
    lower, upper = rows.min(0) - 0.1 * rows.std(0, ddof=1), rows.max(0) + 0.1 * rows.std(0, ddof=1)

    def divergence(x, y):
        """Over the cells that either meets, as a dictionary of counts, and all others as one."""
        counts = []
        for series in (x, y):
            places = np.floor(num_bins * (series - lower) / (upper - lower))
            cells = [tuple(place) for place in places if ((place >= 0) & (place < num_bins)).all()]
            counts.append({cell: cells.count(cell) for cell in cells})
        met, number = set(counts[0]) | set(counts[1]), float(num_bins) ** 3
        total = [sum(count.values()) + 1e-5 * number for count in counts]
        share = lambda k, cell: (counts[k].get(cell, 0) + 1e-5) / total[k]
        empty = (number - len(met)) * 1e-5 / total[0] * np.log(total[1] / total[0])
        return sum(share(0, cell) * np.log(share(0, cell) / share(1, cell)) for cell in met) + empty

    null = [divergence(x, y) for i, x in enumerate(system) for j, y in enumerate(system) if i != j]
    cross = [divergence(x, y) for x in system for y in copy]
    # Where cells are many, all numbers are next to nothing.
    for value, expected in zip((found.system, found.copy), (null, cross)):
        assert value == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-12)
    assert found.system_error == pytest.approx(np.std(null, ddof=1), rel=1e-9, abs=1e-12)


def exchange(x):
    """A rotation of the circle cut open: two pieces of an interval change places, and no point stays."""
    return jnp.where(x < 0.3, x + 0.7, x - 0.3)


def test_a_copy_without_fixed_points_is_compared():
    options = {"num_steps": 1000, "smoothing": 2.0, "num_candidates": 8}
    found = rd.compare_dynamics(lambda x: 3.9 * x * (1 - x), exchange, np.array([0.1]), **options)
    row = found["fixed points"]
    assert (row.system, row.copy) == (2, 0)  # 0 and 1 - 1 / 3.9
    assert row.message.startswith("different")
    assert_numbers(found)
    alike = rd.compare_dynamics(exchange, exchange, np.array([0.1]), **options)["fixed points"]
    assert (alike.system, alike.copy) == (0, 0)
    assert alike.message.startswith("as good as identical")


class Turned(eqx.Module):
    """A map seen in a turned basis."""

    henon: Henon
    turn: np.ndarray

    def __call__(self, z):
        turn = jnp.asarray(self.turn, z.dtype)
        return turn @ self.henon(turn.T @ z)


@pytest.mark.slow
def test_a_copy_in_another_basis_is_observed(itself):
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = rd.compare_dynamics(
        Henon(),
        Turned(Henon(), turn),
        START,
        copy_states=turn @ np.array([0.2, -0.1]),
        copy_observation=lambda z: jnp.asarray(turn.T) @ z,
        encode=lambda x: jnp.asarray(turn) @ x,
        **OPTIONS,
    )
    assert not found.is_different
    assert found["D_stsp"].copy == pytest.approx(itself["D_stsp"].copy, rel=0.1)
    assert found.match.largest_distance < 1e-9


def test_recorded_series_are_compared_by_what_they_show():
    with_noise = np.random.default_rng(0)
    states = np.asarray(rd.trajectory(Henon(), jnp.asarray(START), 8000, num_transient=100))
    found = rd.compare_dynamics(states[:4000], states[4000:], smoothing=10.0)
    assert [row.name for row in found.measurements] == ["D_stsp", "D_H", "correlation dimension"]
    assert not found.is_different
    white = states[4000:] + 0.3 * with_noise.standard_normal((4000, 2))
    assert rd.compare_dynamics(states[:4000], white, smoothing=10.0)["D_stsp"].message.startswith("different")


BAD = np.ones((4000, 2)) * np.sin(np.arange(4000))[:, None]
BAD[7] = np.nan


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rd.compare_dynamics(Henon(), Henon()), "initial_states: f is a map"),
        (lambda: rd.compare_dynamics(WAVE, WAVE[:5], smoothing=1.0), "g: runs of 5 rows are cut into segments of 0"),
        (lambda: rd.compare_dynamics(WAVE[:5], WAVE, smoothing=1.0), "f: runs of 5 rows are cut into segments of 0"),
        (
            lambda: rd.compare_dynamics(WAVE, np.where(np.arange(400)[:, None] == 7, np.nan, WAVE), smoothing=1.0),
            "g: 1 rows hold NaN or infinity and finite rows come after them",
        ),
        (lambda: rd.compare_dynamics(BAD, Henon()), "f: 1 of 4000 rows hold NaN"),
        (lambda: rd.compare_dynamics(np.ones((400, 2)), Henon()), "f: 2 of 2 channels are constant"),
        (lambda: rd.compare_dynamics(np.sin(np.ones(5)), Henon()), "f: expected a map, or series"),
        (lambda: rd.compare_dynamics(BAD[8:, :1], BAD[8:]), "g: expected the 1 channels of f, got 2"),
        (lambda: rd.compare_dynamics(BAD[8:80], BAD[8:80]), "f: runs of 72 rows are cut into segments of 9, too short"),
        (lambda: rd.compare_dynamics(BAD[8:], Henon(), copy_observation=lambda x: x), "copy_states: g is observed"),
        (lambda: rd.compare_dynamics(BAD[8:], BAD[8:], dt=0.0), "dt: expected a positive"),
        (lambda: rd.compare_dynamics(BAD[8:], BAD[8:], cycle_periods=(0,)), "cycle_periods"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_cycles_are_matched_by_place_and_kind():
    """Two maps x' = a x (1 - x): at a = 3.9 the cycles of the copy are those of the system, at 3.5 others."""
    logistic = lambda a: Logistic(np.array(a))
    found = rd.compare_dynamics(
        logistic(3.9), logistic(3.9), np.array([0.3]), num_steps=2000, smoothing=5.0, cycle_periods=(2, 3)
    )
    for period in (2, 3):
        row = found[f"cycles of period {period}"]
        # f^2 has one cycle of period 2; f^3 two of period 3, all solutions of (f^p(x) - x) / (f(x) - x) = 0.
        assert row.system == row.copy == period - 1
        assert row.message.startswith("as good as identical")
    settled = rd.compare_dynamics(
        logistic(3.9), logistic(3.5), np.array([0.3]), num_steps=2000, smoothing=5.0, cycle_periods=(2, 3)
    )
    # At 3.5 the cycle of period 2 is elsewhere, and there is none of period 3 below 1 + sqrt(8).
    assert settled["cycles of period 3"].copy == 0
    assert settled["cycles of period 3"].message.startswith("different")
    assert not settled["cycles of period 2"].message.startswith("as good")


class Logistic(eqx.Module):
    a: np.ndarray

    def __call__(self, x):
        return self.a * x * (1 - x)


def tent_waves(slope, number, rng):
    """A wave whose maxima follow m' = slope (1 - |2 m - 1|) / 2: between them it comes down to zero."""
    heights = [0.3 + 0.1 * rng.random()]
    while len(heights) < number:
        heights.append(slope * (1 - abs(2 * heights[-1] - 1)) / 2 + 1e-3 * rng.random())
    hump = np.sin(np.pi * np.arange(16) / 16) ** 2
    return (1 + np.array(heights)[:, None] * hump).ravel()[:, None]


def test_the_return_map_tells_waves_apart():
    rng = np.random.default_rng(0)
    system, same, other = (tent_waves(slope, 400, rng) for slope in (1.8, 1.8, 1.6))
    row = rd.compare_dynamics(system, same, smoothing=5.0)["return map"]
    assert row.message.startswith("as good as identical")
    row = rd.compare_dynamics(system, other, smoothing=5.0)["return map"]
    assert row.message.startswith("different")
    # Half a slope apart at a height of one half, 0.1 of it in the mean, over a deviation of the heights of 0.2.
    assert 0.2 < row.copy < 1.0

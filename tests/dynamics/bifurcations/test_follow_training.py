"""Fixed points followed from checkpoint to checkpoint, against the closed form of one tanh unit."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import rnndyn as rd


class Unit(eqx.Module):
    """x' = tanh(w x + b)."""

    w: np.ndarray
    b: np.ndarray

    def __call__(self, x):
        return jnp.tanh(self.w * x + self.b)


def unit(w, b):
    return Unit(np.array(float(w)), np.array(float(b)))


CANDIDATES = np.linspace(-1, 1, 9)[:, None]


def on_segment(start, end, condition):
    """The place s on the line between two (w, b) where `condition` vanishes."""
    a, b = np.array(start), np.array(end)
    return brentq(lambda s: condition(*((1 - s) * a + s * b)), 0.0, 1.0, xtol=1e-15)


def fold(w, b):
    s = np.sqrt(max(1 - 1 / w, 0.0)) if w > 0 else 0.0
    return abs(b) - (w * s - np.arctanh(s))


def flip(w, b):
    s = np.sqrt(max(1 + 1 / w, 0.0)) if w < 0 else 0.0
    return abs(b) - (np.arctanh(s) - w * s) if w < -1 else abs(b) + 1 + w


@pytest.fixture(scope="module")
def history():
    path = [(0.5, 0.1), (1.5, 0.1), (2.5, 0.1), (2.5, 0.6), (2.5, 1.2), (-2.0, 0.3)]
    return path, rd.follow_training([unit(*wb) for wb in path], CANDIDATES, [0, 100, 200, 300, 400, 600])


def test_births_deaths_and_exchanges_of_stability(history):
    path, result = history
    events = [(event.kind, event.step, event.tracks) for event in result.events]
    assert [kind for kind, _, _ in events] == ["birth", "death", "flip"]
    expected = [
        100 * on_segment(path[0], path[1], fold),
        300 + 100 * on_segment(path[3], path[4], fold),
        400 + 200 * on_segment(path[4], path[5], flip),
    ]
    # A parameter located to 1e-10 on a segment of 100 steps.
    np.testing.assert_allclose([step for _, step, _ in events], expected, atol=1e-7)
    assert [tracks for _, _, tracks in events] == [(1, 2), (1, 2), (0,)]


def test_every_point_of_every_track_is_a_fixed_point(history):
    path, result = history
    assert [(track.first, track.last, track.begin, track.end) for track in result.tracks] == [
        (0, 5, "first checkpoint", "last checkpoint"),
        (1, 3, "birth", "death"),
        (1, 3, "birth", "death"),
    ]
    for track in result.tracks:
        for k, point in enumerate(track.points[:, 0, 0]):
            w, b = path[track.first + k]
            assert abs(np.tanh(w * point + b) - point) < 1e-13
            assert abs(track.multipliers[k, 0] - w * (1 - point**2)) < 1e-12
    assert result.at(2) == (0, 1, 2)
    assert result.at(5) == (0,)
    assert result.tracks[0].is_stable.tolist() == [True] * 5 + [False]
    # Of a pair born at a fold of a unit, one is stable and one is not.
    assert sorted(bool(track.is_stable.all()) for track in result.tracks[1:]) == [False, True]


def test_without_a_search_births_are_not_seen_but_deaths_are():
    maps = [unit(0.5, 0.1), unit(1.5, 0.1)]
    assert len(rd.follow_training(maps, CANDIDATES, search=False).tracks) == 1
    back = rd.follow_training(maps[::-1], CANDIDATES, search=False)
    assert [event.kind for event in back.events] == ["death"]
    assert len(back.tracks) == 3


@pytest.mark.slow
def test_a_doubled_cycle_is_born_and_dies_at_flips():
    path = [(-0.5, 0.2), (-2.0, 0.2), (-1.5, 0.2), (-1.1, 2.0)]
    history = rd.follow_training([unit(*wb) for wb in path], CANDIDATES, periods=(1, 2))
    trunk, doubled = history.tracks
    assert (doubled.period, doubled.first, doubled.last) == (2, 1, 2)
    assert (doubled.begin, doubled.end) == ("flip", "flip")
    assert doubled.is_stable.all()
    assert trunk.is_stable.tolist() == [True, False, False, True]
    assert [(event.kind, event.tracks) for event in history.events] == [("flip", (0, 1))] * 2
    expected = [on_segment(path[0], path[1], flip), 2 + on_segment(path[2], path[3], flip)]
    np.testing.assert_allclose([event.step for event in history.events], expected, atol=1e-9)


def test_a_history_prints_saves_and_loads(history, tmp_path):
    _, result = history
    assert "birth of 1, 2" in str(result)
    again = rd.load(result.save(tmp_path / "history"))
    assert isinstance(again, rd.FixedPointHistory)
    assert again.events[0].step == result.events[0].step


def test_bad_input_is_named():
    maps = [unit(0.5, 0.1), unit(1.5, 0.1)]
    with pytest.raises(ValueError, match="maps: their number"):
        rd.follow_training(maps[:1], CANDIDATES)
    with pytest.raises(ValueError, match="steps"):
        rd.follow_training(maps, CANDIDATES, np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="periods"):
        rd.follow_training(maps, CANDIDATES, periods=(0,))
    with pytest.raises(ValueError, match="candidates"):
        rd.follow_training(maps, CANDIDATES[:, 0])
    with pytest.raises(ValueError, match="same structure"):
        rd.follow_training([maps[0], Unit(np.ones(2), np.ones(2))], CANDIDATES)
    with pytest.raises(ValueError, match="plain function"):
        rd.follow_training([jnp.tanh, jnp.sin], CANDIDATES)

"""Orbit diagrams against what the logistic map is known to do."""

import numpy as np
import pytest
from dynamics.maps import Logistic

import rnndyn as rd


def logistic(x, p):
    return Logistic(p)(x)


@pytest.fixture(scope="module")
def diagram():
    parameters = np.array([0.5, 2.8, 3.2, 3.83, 4.0, 4.5])
    return rd.orbit_diagram(logistic, np.array([0.3]), parameters, num_states=60, num_steps=20_000)


def test_what_remains_is_the_attractor(diagram):
    assert diagram.states.shape == (6, 60, 1)
    # The fixed points 0 and 1 - 1/r; the 2-cycle; the 3-cycle in its window.
    np.testing.assert_allclose(diagram.states[0], 0, atol=1e-12)
    np.testing.assert_allclose(diagram.states[1], 1 - 1 / 2.8, atol=1e-12)
    r = 3.2
    both = (r + 1 + np.array([-1, 1]) * np.sqrt((r - 3) * (r + 1))) / (2 * r)
    np.testing.assert_allclose(np.unique(diagram.states[2].round(9)), both, atol=1e-8)
    assert len(np.unique(diagram.states[3].round(9))) == 3
    assert not np.isfinite(diagram.states[5]).any()


def test_exponents(diagram):
    # ln of the multiplier of the fixed point, half of that of the 2-cycle (4 + 2 r - r^2), ln 2 at r = 4.
    expected = [np.log(0.5), np.log(0.8), np.log(abs(4 + 2 * 3.2 - 3.2**2)) / 2]
    np.testing.assert_allclose(diagram.exponents[:3], expected, atol=1e-9)
    assert abs(diagram.exponents[4] - np.log(2)) < 5 * diagram.stderr[4] + 1e-3
    assert np.isnan(diagram.exponents[5])
    assert diagram.is_chaotic.tolist() == [False, False, False, False, True, False]
    assert [words.partition(":")[0] for words in diagram.message] == [*["regular"] * 4, "chaotic", "not finite"]


def test_each_parameter_may_have_its_own_start():
    diagram = rd.orbit_diagram(lambda x, p: x, np.array([[0.1], [0.7]]), np.array([1.0, 2.0]), num_states=2)
    np.testing.assert_array_equal(diagram.states[:, 0, 0], [0.1, 0.7])


def test_it_prints_saves_and_loads(diagram, tmp_path):
    assert "chaotic at 1" in str(diagram)
    assert "unbounded at 1" in str(diagram)
    again = rd.load(diagram.save(tmp_path / "orbits"))
    np.testing.assert_array_equal(again.states, diagram.states)


@pytest.mark.parametrize(
    ("x0", "parameters", "options", "message"),
    [
        (np.array([0.3]), np.array([]), {}, "parameters"),
        (np.array([0.3]), np.array([np.nan]), {}, "parameters"),
        (np.zeros((3, 1)), np.array([1.0, 2.0]), {}, "x0: expected one state, or 2"),
        (np.array([np.nan]), np.array([1.0]), {}, "x0"),
        (np.array([0.3]), np.array([1.0]), {"num_states": 0}, "num_states"),
        (np.array([0.3]), np.array([1.0]), {"num_states": 10, "num_steps": 5}, "num_steps"),
        (np.array([0.3]), np.array([1.0]), {"num_transient": -1}, "num_transient"),
    ],
)
def test_bad_input_is_named(x0, parameters, options, message):
    with pytest.raises(ValueError, match=message):
        rd.orbit_diagram(logistic, x0, parameters, **options)

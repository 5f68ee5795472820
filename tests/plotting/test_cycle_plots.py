"""Plots of cycles, circles and phase portraits are tested for what they draw."""

import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import rnndyn as rd
from rnndyn import plotting

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def rotor(x):
    """Two units turning by one radian, just past the Neimark-Sacker bifurcation."""
    cosine, sine = np.cos(1.0), np.sin(1.0)
    return jnp.tanh(1.1 * jnp.array([[cosine, -sine], [sine, cosine]]) @ x)


def flipping(x):
    """Two units that flip: x = 0 is unstable, (a, 0) and (0, a) are on saddles, (a, a) and (a, -a) on attractors."""
    return jnp.tanh(-2 * x)


@pytest.fixture(scope="module")
def two_cycles():
    starts = np.random.default_rng(0).uniform(-1, 1, (32, 2))
    return rd.find_cycles(flipping, starts, (1, 2), num_random=64, progress=False)


@pytest.fixture(scope="module")
def circle():
    return rd.find_invariant_circle(rotor, np.array([0.1, 0.0]), progress=False)


def test_every_cycle_is_drawn_under_its_period_and_stability(two_cycles):
    ax = plotting.plot_cycles(two_cycles, np.zeros((3, 5, 2)))
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["period 1, 2 unstable (1)", "period 2, stable (2)", "period 2, 1 unstable (2)"]
    # Three trajectories and five cycles; a polygon ends where it began.
    assert len(ax.lines) == 3 + 5
    stable = next(line for line in ax.lines if line.get_label() == labels[1])
    np.testing.assert_allclose(stable.get_xydata()[[0, 2]], two_cycles[2].points[0][[0, 0]])
    assert ax.get_xlabel() == "$x_1$"


def test_no_more_cycles_are_drawn_than_asked_for(two_cycles):
    assert len(plotting.plot_cycles(two_cycles[2], max_cycles=3).lines) == 3


def test_the_drawn_circle_is_invariant(circle):
    ax = plotting.plot_invariant_circle(circle, np.zeros((4, 2)), num_images=5)
    assert "0.159" in ax.get_title()  # close to 1 / 2 pi
    orbit = ax.lines[2].get_xydata()
    assert len(orbit) == 5
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2", "3", "4"]
    # The map was called in float32.
    np.testing.assert_allclose([rotor(x) for x in orbit[:-1]], orbit[1:], atol=1e-6)


def test_a_locked_orbit_is_drawn_as_its_cycle():
    locked = rd.find_invariant_circle(flipping, np.array([0.3, 0.2]), progress=False)
    ax = plotting.plot_invariant_circle(locked)
    assert ax.get_title() == "locked, period 2"
    assert len(ax.lines[0].get_xydata()) == 2


def test_phase_portrait_of_two_bistable_units():
    f = lambda x: jnp.tanh(2 * x)
    found = rd.find_fixed_points(f, np.random.default_rng(0).uniform(-1, 1, (64, 2)), progress=False)
    ax = plotting.plot_phase_portrait(f, (-1, -1), (1, 1), fixed_points=found, resolution=41, num_arrows=6)
    labels = ax.get_legend_handles_labels()[1]
    assert labels[-3:] == ["stable (4)", "saddle (4)", "unstable (1)"]
    assert {"stable manifold", "unstable manifold", "$F_1(x) = x_1$"} <= set(labels)
    # The manifolds of a saddle of two independent units are straight: the separatrices are the axes.
    stable = next(line for line in ax.lines if line.get_label() == "stable manifold").get_xydata()
    assert np.min(np.max(np.abs(stable), axis=0)) < 1e-6
    bare = plotting.plot_phase_portrait(f, (-1, -1), (1, 1), nullclines=False, field=False)
    assert len(bare.lines) == 0
    assert len(bare.collections) == 0


def test_bad_input(two_cycles, circle):
    with pytest.raises(ValueError, match="there are none to draw"):
        plotting.plot_cycles(two_cycles[2].select(np.zeros(4, bool)))
    escaping = rd.find_invariant_circle(lambda x: 2 * x, np.array([1.0, 0.0]), progress=False)
    with pytest.raises(ValueError, match="nothing to draw: the orbit leaves"):
        plotting.plot_invariant_circle(escaping)
    with pytest.raises(ValueError, match="lower < upper"):
        plotting.plot_phase_portrait(lambda x: x, (1, 1), (-1, -1))

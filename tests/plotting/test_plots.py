"""Plots are tested for what they draw, not how it looks; the figures of the studies are looked at."""

import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import rnndyn as rd
from rnndyn import plotting

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def portrait():
    """Two bistable units side by side: 4 stable points, 4 saddles, 1 repeller; and trajectories among them."""
    rng = np.random.default_rng(0)
    found = rd.find_fixed_points(lambda x: jnp.tanh(2 * x), rng.uniform(-1, 1, (64, 3)))
    return found, rng.uniform(-1, 1, (3, 20, 3))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_point_is_drawn_under_its_stability(portrait, dimensions):
    found, trajectories = portrait
    ax = plotting.plot_fixed_points(found, trajectories, dimensions=dimensions)
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["stable (8)", "1 unstable (12)", "2 unstable (6)", "3 unstable (1)"]
    # One line per trajectory; one per unstable direction: 12 x 1 + 6 x 2 + 1 x 3.
    assert len(ax.lines) == 3 + 27
    assert len(ax.collections) == 4
    assert "PC 1" in ax.get_xlabel()


def test_modes_and_trajectories_are_optional(portrait):
    ax = plotting.plot_fixed_points(portrait[0], dimensions=2, modes=False)
    assert len(ax.lines) == 0


def test_multipliers_are_drawn_where_they_are():
    ax = plotting.plot_multipliers(np.array([[2.0, 0.5j], [-1.5, 0.1]]), labels=["a", "b"])
    np.testing.assert_allclose(ax.lines[1].get_xydata(), [[2, 0], [0, 0.5]])
    assert ax.get_xlim()[1] > 2
    with pytest.raises(ValueError, match="labels: expected 2"):
        plotting.plot_multipliers(np.ones((2, 2)), labels=["a"])


def test_principal_components_of_a_known_ellipsoid():
    rng = np.random.default_rng(0)
    states = rng.standard_normal((4000, 4)) * [3, 1, 0.1, 0.01] + 5
    projection = plotting.principal_components(states.reshape(40, 100, 4), 2)
    # 4000 draws fix the axes to about 1 / sqrt(4000).
    np.testing.assert_allclose(np.abs(projection.axes), np.eye(2, 4), atol=0.05)
    np.testing.assert_allclose(projection.variance_fractions[:2], [0.9, 0.1], atol=0.01)
    np.testing.assert_allclose(projection(projection.mean), 0, atol=1e-12)
    assert projection(states).shape == (4000, 2)
    assert projection.label(0).startswith("PC 1 (9")


def test_training_curve():
    history = rd.training.History(
        losses=np.array([4.0, 2.0, 1.0]),
        grad_norms=np.ones(3),
        learning_rates=None,
        validation_steps=np.array([0, 3]),
        validation_losses=np.array([4.0, 1.0]),
        best_step=3,
        snapshot_steps=np.zeros(0, int),
        stopped="num_steps",
    )
    ax = plotting.plot_training(history, smooth=2)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[2, 3.0], [3, 1.5]])
    with pytest.raises(ValueError, match="smooth"):
        plotting.plot_training(history, smooth=4)


def test_line_attractor_and_speed():
    slow = rd.find_slow_points(lambda x: x * jnp.array([0.999, 0.5]), np.random.default_rng(0).uniform(-1, 1, (32, 2)))
    ax = plotting.plot_line_attractor(slow, np.zeros((5, 2)))
    assert len(ax.collections[-1].get_offsets()) == len(slow.manifold.points)
    with pytest.raises(ValueError, match="values: expected"):
        plotting.plot_line_attractor(slow, values=np.zeros(3))
    ax = plotting.plot_speed(lambda x: 0.5 * x, (-1, -1), (1, 1), points=np.zeros((1, 2)), resolution=20)
    # At a corner the speed is |x| / 2.
    np.testing.assert_allclose(ax.images[-1].get_array()[0, 0], np.log10(np.sqrt(2) / 2), rtol=1e-5)
    with pytest.raises(ValueError, match="lower < upper"):
        plotting.plot_speed(lambda x: x, (1, 1), (-1, -1))


def test_bad_input(portrait):
    with pytest.raises(ValueError, match="dimensions: expected 2 or 3"):
        plotting.plot_fixed_points(portrait[0], dimensions=4)
    nothing = portrait[0].select(np.zeros(len(portrait[0]), bool))
    with pytest.raises(ValueError, match="trajectories: there are no fixed points"):
        plotting.plot_fixed_points(nothing)
    with pytest.raises(ValueError, match="num_components"):
        plotting.principal_components(np.zeros((5, 2)), 3)

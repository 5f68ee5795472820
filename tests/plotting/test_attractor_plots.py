"""Basins and regime maps are tested for what they draw."""

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


def test_basins_have_the_colours_of_their_attractors():
    basins = rd.find_basins(lambda x: jnp.tanh(1.5 * x), (-1, -1), (1, 1), resolution=10, progress=False)
    ax = plotting.plot_basins(basins)
    image = ax.images[0]
    np.testing.assert_array_equal(image.get_array(), basins.labels)
    # Cells are centred on the grid points.
    np.testing.assert_allclose(image.get_extent(), np.array([-1, 1, -1, 1]) * (1 + 1 / 9))
    np.testing.assert_allclose(
        [line.get_xydata()[0] for line in ax.lines], [a.points[0] for a in basins.attractors.attractors]
    )
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["fixed point (25%)"] * 4
    patches = [patch.get_facecolor() for patch in ax.get_legend().get_patches()]
    shown = image.cmap(image.norm(np.arange(4)))
    np.testing.assert_allclose(patches, shown)
    assert len({tuple(color) for color in shown}) == 4


def test_regime_map():
    kinds = [["fixed point", "chaotic", "chaotic"], ["cycle", "cycle", "several"]]
    ax = plotting.plot_regime_map(kinds, [1, 2, 4], [0.1, 0.2], labels=("gain", "leak"))
    mesh = ax.collections[0]
    # Cells meet half-way.
    np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], [0.5, 1.5, 3, 5])
    order = list(plotting.REGIME_COLORS)
    assert [order[i] for i in mesh.get_array().ravel()] == [name for row in kinds for name in row]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["fixed point", "cycle", "chaotic", "several"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("gain", "leak")


def test_bad_input():
    with pytest.raises(ValueError, match="kinds: expected one name"):
        plotting.plot_regime_map([["cycle"]], [1, 2], [1])
    with pytest.raises(ValueError, match="first: expected increasing"):
        plotting.plot_regime_map([["cycle", "cycle"]], [2, 1], [1])
    with pytest.raises(ValueError, match="no colour for 'strange'"):
        plotting.plot_regime_map([["strange"]], [1], [1])

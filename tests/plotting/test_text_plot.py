"""Text is written where it belongs, and the colour behind a character is that of its value."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from rnndyn import plotting

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_characters_and_colours_share_their_cells():
    text = "ab\ncdefg\nh"
    axes = plotting.plot_text(text, np.arange(len(text)), num_lines=5, width=4)
    cells = {label.get_text(): label.get_position() for label in axes.texts}
    assert "".join(cells) == "abcdefgh"
    shade = np.asarray(axes.images[0].get_array().filled(np.nan))
    for character, (x, y) in cells.items():
        assert shade[int(y), int(x)] == text.index(character)
    assert cells["g"][1] > cells["f"][1]  # the fifth character of a line of four is on the next one
    assert np.sum(np.isfinite(shade)) == 8


def test_what_does_not_fit_is_left_out():
    axes = plotting.plot_text("a\nb\nc", num_lines=2, width=3)
    assert [label.get_text() for label in axes.texts] == ["a", "b"]
    assert not axes.images


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="values: expected one for each of 3"):
        plotting.plot_text("abc", np.ones(2))
    with pytest.raises(ValueError, match="width"):
        plotting.plot_text("abc", width=0)

"""A portrait says what independent programs find, says how sure it is, and what it had no time for."""

import importlib.util
import json
import math
import re
from pathlib import Path

import equinox as eqx
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.portrait import portrait as portrait_module
from rnndyn.portrait._budget import Budget

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "flipflop_gru16.safetensors"


class Ulam(eqx.Module):
    """x -> 4 x (1 - x): chaotic on [0, 1] with exponent ln 2; 0 and 3/4 stand still, with multipliers 4 and -2."""

    def __call__(self, x):
        return 4 * x * (1 - x)


@pytest.fixture(scope="module")
def flipflop():
    """The portrait of a network that keeps three bits."""
    return rd.portrait(rd.load_network(EXAMPLE), budget=1000.0, progress=False)


@pytest.fixture(scope="module")
def ulam():
    states = np.random.default_rng(1).uniform(0.05, 0.95, (40, 1))
    return rd.portrait(Ulam(), states=states, budget=1000.0, progress=False, title="Ulam")


def claims(portrait, topic):
    return [s.claim for s in portrait.sentences if s.topic == topic]


def numpy_gru(x, u, weights):
    """PyTorch's GRU, plainly."""
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    gi = weights["weight_ih_l0"] @ u + weights["bias_ih_l0"]
    gh = weights["weight_hh_l0"] @ x + weights["bias_hh_l0"]
    n = len(x)
    r, z = sigmoid(gi[:n] + gh[:n]), sigmoid(gi[n : 2 * n] + gh[n : 2 * n])
    return (1 - z) * np.tanh(gi[2 * n :] + r * gh[2 * n :]) + z * x


@pytest.mark.slow
def test_three_bits_are_eight_proved_memories(flipflop):
    """Right: 27 fixed points, 8 stable (an independent NumPy search, 27 of 27 by interval arithmetic)."""
    first = flipflop.sentences[0]
    assert first.claim.startswith("27 fixed points: 8 stable, 12 with one unstable direction")
    assert first.strength_name == "proved"
    assert "27 of 27 proved to exist, the stability of 27 proved" in first.evidence
    assert "index sum is 1" in first.scope
    assert "512 of 512 states end on 8 stable fixed points" in claims(flipflop, "attractors")
    assert not flipflop.missing


def test_the_memories_stand_still_in_plain_numpy(flipflop):
    from safetensors.numpy import load_file

    stored = load_file(EXAMPLE)
    weights = {name.split(".")[-1]: array.astype(float) for name, array in stored.items() if "_l0" in name}
    points = flipflop.places[0].fixed_points
    assert len(points) == 27
    for x in points.points:
        np.testing.assert_allclose(numpy_gru(x, np.zeros(3), weights), x, atol=1e-14)  # a few roundings
    for x in flipflop.places[0].states[:20]:
        for _ in range(400):
            x = numpy_gru(x, np.zeros(3), weights)
        distances = np.abs(points.points[points.is_stable] - x).max(axis=1)
        assert distances.min() < 1e-6  # 0.757^400: nothing is left of the way


def test_sentences_agree_with_the_numbers_behind_them(flipflop):
    time = next(s for s in flipflop.sentences if s.topic == "time constants")
    points = flipflop.places[0].fixed_points
    radius = np.abs(points.multipliers[points.is_stable]).max()
    told = float(re.search(r"1/e in ([\d.]+) steps", time.claim)[1])
    assert told == pytest.approx(-1 / math.log(radius), rel=1e-3)  # four digits are printed
    driven = next(s for s in flipflop.sentences if s.topic == "exponents")
    assert "forgets" in driven.claim
    assert float(flipflop.conditional.exponents[0]) < 0


def test_the_chaotic_map(ulam):
    """Right: ln 2, two repelling fixed points, one 2-cycle, two 3-cycles, three 4-cycles."""
    assert claims(ulam, "fixed points") == ["2 fixed points: 2 with one unstable direction"]
    assert any("chaotic attractor" in claim for claim in claims(ulam, "attractors"))
    assert claims(ulam, "cycles") == [
        "Cycles: 1 of period 2 (0 stable), 2 of period 3 (0 stable), 3 of period 4 (0 stable)"
    ]
    told = [re.search(r"largest exponent ([\d.]+) ± ([\d.e-]+)", c.lower()) for c in claims(ulam, "exponents")]
    assert told
    for match in told:
        # Three standard errors as printed, which have one digit.
        assert abs(float(match[1]) - math.log(2)) < 3 * 1.5 * float(match[2]) + 5e-4
    assert ulam.memory is None
    assert "reach" not in str(ulam)


def test_a_folder_holds_numbers_picture_and_page(flipflop, tmp_path):
    folder = flipflop.save(tmp_path / "report")
    assert sorted(p.name for p in folder.iterdir()) == [
        "index.html",
        "portrait.json",
        "portrait.npz",
        "portrait.png",
    ]
    said = json.loads((folder / "portrait.json").read_text())
    assert said["places"][0]["fixed_points"]["num_certified"] == 27
    assert [s["claim"] for s in said["sentences"]] == [s.claim for s in flipflop.sentences]
    back = rd.load(folder / "portrait.npz")
    assert str(back) == str(flipflop)
    np.testing.assert_array_equal(back.places[0].fixed_points.points, flipflop.places[0].fixed_points.points)
    page = (folder / "index.html").read_text()
    assert all(s.claim.split(":")[0] in page for s in flipflop.sentences)
    # Everything the page needs is in it: no image, style or script is fetched.
    assert not re.search(r"""<(script|img|link)[^>]+(src|href)=["']https?:""", page)


def test_text_from_outside_is_escaped_in_the_page(ulam, tmp_path):
    bad = eqx.tree_at(lambda p: p.title, ulam, "<script>alert(1)</script>")
    assert "<script>alert" not in (bad.save(tmp_path) / "index.html").read_text()
    assert "<script>alert" not in bad._repr_html_()


def test_no_time_is_said(ulam):
    states = ulam.places[0].states
    late = rd.portrait(Ulam(), states=states, budget=1e-9, progress=False)
    assert late.sentences == ()
    assert late.missing == late.stages
    assert all("no time was left" in stage.outcome for stage in late.stages)
    assert "not done: trajectories" in str(late)


def test_ctrl_c_keeps_what_is_done(ulam, monkeypatch):
    def interrupt(self, budget, share):
        raise KeyboardInterrupt

    monkeypatch.setattr(portrait_module.Place, "settle", interrupt)
    cut = rd.portrait(Ulam(), states=ulam.places[0].states, budget=1000.0, progress=False)
    assert cut.is_interrupted
    assert claims(cut, "fixed points") == ["2 fixed points: 2 with one unstable direction"]
    assert cut.places[0].attractors is None
    assert "interrupted" in str(cut)


def test_only_refusals_are_taken_down():
    lines = []
    budget = Budget(100.0, lines.append)

    def refuse():
        raise ValueError("f: it has no interval rule.")

    assert budget.run("proofs", "zero input", refuse) is None
    assert budget.stages[0].outcome == "refused: f: it has no interval rule."
    assert budget.run("costly", "zero input", lambda: 1, estimate=1e6) is None
    assert "expected to take" in budget.stages[1].outcome
    assert budget.run("cheap", "zero input", lambda: 1) == 1
    assert len(lines) == 3
    with pytest.raises(ZeroDivisionError):
        budget.run("fault", "zero input", lambda: 1 / 0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"network": 3}, "network: expected a cell"),
        ({"network": Ulam()}, "states: a plain map does not tell"),
        ({"network": Ulam(), "states": np.zeros((2, 1)), "inputs": [[0.0]]}, "inputs: the map given has no input"),
        ({"network": Ulam(), "states": np.zeros((2, 1)), "drive": [[0.0]]}, "drive: the map given has no input"),
        ({"network": "gru", "inputs": np.zeros((2, 5))}, r"inputs: expected rows to hold, shape \(M, 3\)"),
        ({"network": "gru", "states": np.zeros((2, 5))}, "states"),
        ({"network": "gru", "states": np.full((2, 16), np.nan)}, "states"),
        ({"network": "gru", "drive": np.zeros((5, 3))}, "drive: expected a sequence of at least 110"),
        ({"network": "gru", "budget": 0.0}, "budget: expected seconds above 0"),
        ({"network": lambda state, input: state}, "states: a plain function"),
    ],
)
def test_wrong_arguments_are_named(arguments, told):
    if isinstance(arguments["network"], str):
        arguments = arguments | {"network": rd.load_network(EXAMPLE)}
    with pytest.raises(ValueError, match=told):
        rd.portrait(progress=False, **arguments)


def test_results_as_tables(flipflop):
    """Without pandas and xarray the methods say what to install; with them they hold the same numbers."""
    points = flipflop.places[0].fixed_points
    for method, library in ((points.to_dataframe, "pandas"), (points.to_xarray, "xarray")):
        if importlib.util.find_spec(library) is None:
            with pytest.raises(ImportError, match=r"rnndyn\[tables\]"):
                method()
    pandas, xarray = (importlib.util.find_spec(name) is not None for name in ("pandas", "xarray"))
    if pandas:
        frame = points.to_dataframe()
        assert len(frame) == 27
        np.testing.assert_array_equal(frame["x3"], points.points[:, 3])
        np.testing.assert_array_equal(frame["num_unstable"], points.num_unstable)
        with pytest.raises(ValueError, match="is one item"):
            flipflop.to_dataframe()
    if xarray:
        data = points.to_xarray()
        assert data["points"].dims == ("K", "N")
        np.testing.assert_array_equal(data["multipliers"], points.multipliers)


def test_a_notebook_shows_the_verdict(flipflop):
    shown = flipflop._repr_html_()
    assert "27 fixed points" in shown
    assert "proved" in shown
    assert "<pre>" in flipflop.places[0].fixed_points._repr_html_()


def test_a_search_that_was_left_out_does_not_look_quick():
    """What it would take is asked of the last search that ran: else the costly stages after it look free."""
    starts = np.random.default_rng(0).uniform(0.1, 0.9, (16, 1))
    place = portrait_module.Place("the map", None, Ulam(), starts, "")
    place._search(Budget(1000.0, lambda line: None), np.zeros((0, 1)), 16, max_rounds=1)
    before = place._seconds_of_search
    assert before > 0
    place._search(Budget(1e-9, lambda line: None), np.zeros((0, 1)), 16, max_rounds=1)
    assert place._seconds_of_search == before
    assert len(place.fixed_points) == 2

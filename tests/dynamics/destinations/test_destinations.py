"""Where states, branches and pulses are proved to lead, against closed forms and plain iteration."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
import rnndyn.plotting
from rnndyn.dynamics.destinations.verdicts import BallVerdict, DestinationVerdict

X = 0.957504024079
"""The positive root of x = tanh(2 x)."""


def double_well(x):
    """Two bits that do not know of each other: x = tanh(2 x), four memories, four saddles, one summit."""
    return jnp.tanh(2 * x)


def polished(x):
    for _ in range(200):
        x = np.tanh(2 * x)
    return x


MEMORIES = polished(np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]]))
SADDLES = polished(np.array([[0.0, -1], [0, 1], [-1, 0], [1, 0]]))


@pytest.fixture(scope="module")
def balls():
    return rd.prove_trapping_balls(double_well, MEMORIES)


def test_the_ball_of_a_double_well_is_nearly_as_large_as_contraction_allows(balls):
    # |2 / cosh(2 x)^2| < 1 where |x| > arccosh(sqrt 2) / 2; the metric of a diagonal map is the Euclidean one.
    largest = X - np.arccosh(np.sqrt(2)) / 2
    assert balls.proved.all()
    assert len(balls) == 4
    assert np.all(balls.inner_radii < largest)
    assert np.all(balls.inner_radii > 0.9 * largest)
    assert np.all(balls.outer_radii < largest)


def test_every_state_of_a_ball_is_taken_into_it_and_nearer_to_the_memory(balls):
    rng = np.random.default_rng(0)
    for k in range(4):
        directions = rng.normal(size=(200, 2))
        unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        states = balls.centers[k] + balls.radii[k] * unit @ balls.factors[k].T
        images = np.tanh(2 * states)
        before, after = (
            np.linalg.norm((s - balls.centers[k]) @ np.linalg.inv(balls.factors[k]).T, axis=1) for s in (states, images)
        )
        assert np.all(after <= balls.rates[k] * before * (1 + 1e-12))


def test_states_end_on_the_side_where_they_start(balls):
    rng = np.random.default_rng(1)
    states = rng.uniform(-3, 3, (300, 2))
    states[:4] = [[1e-12, 1], [-1e-12, 1], [1e-12, -1e-12], [0.0, 1.0]]
    basins = rd.certify_basins(double_well, balls, states, progress=False)
    expected = 2 * (states[:, 0] > 0) + (states[:, 1] > 0)
    assert basins.proved[:3].all()
    assert basins.proved[4:].all()
    np.testing.assert_array_equal(basins.labels[basins.proved], expected[basins.proved])
    # A state of the boundary ends in no memory, and no proof says so.
    assert basins.labels[3] == -1
    assert rd.results.is_verdict(basins.result, DestinationVerdict.blurred, DestinationVerdict.not_arrived)[3]
    assert "boundary" in basins.reasons[3]
    assert not any(basins.reasons[k] for k in np.flatnonzero(basins.proved))
    soon = rd.certify_basins(double_well, balls, states[4:8] * 1e-3, max_steps=1, progress=False)
    assert np.all(soon.labels == -1)
    assert "max_steps" in soon.message[0]
    # Each says where it is: the second unit has not left zero, so the ball of the nearest corner is X / radius away.
    for k, state in enumerate(states[4:8]):
        x = np.tanh(2e-3 * state)
        corner = 2 * int(x[0] > 0) + int(x[1] > 0)
        away = np.linalg.norm(x - MEMORIES[corner]) / (balls.inner_radii * soon.multiples)[corner]
        found = re.search(r"after 1 steps is .* radii wide, (\S+) radii from .* memory (\d): raise", soon.reasons[k])
        assert found, soon.reasons[k]
        assert int(found[2]) == corner
        assert float(found[1]) == pytest.approx(away, rel=0.01)


def test_the_branches_of_the_saddles_are_the_sides_of_the_square(balls):
    found = rd.certify_connections(double_well, SADDLES, balls, progress=False)
    assert found.proved.all()
    np.testing.assert_array_equal(found.labels[:, 0] - found.labels[:, 1], [2, 2, 1, 1])
    assert {tuple(edge) for edge in found.edges.tolist()} == {(0, 2), (1, 3), (0, 1), (2, 3)}
    np.testing.assert_allclose(found.multipliers, 2.0, rtol=1e-12)


def alternating(x):
    """A memory that is a 2-cycle of its first unit; the fixed point between has the multiplier -2."""
    return jnp.stack([-jnp.tanh(2 * x[0]), 0.5 * x[1] + 0.1 * x[0]])


def test_cycles_are_memories_and_saddles_may_flip():
    x = float(polished(np.array(1.0)))
    y = -0.1 * x / 1.5  # y' = y / 2 + x / 10 with y' = -y
    cycle = np.array([[[x, y], [-x, -y]]])
    balls = rd.prove_trapping_balls(alternating, cycle)
    assert balls.periods.tolist() == [2]
    assert balls.successors.tolist() == [1, 0]
    states = np.array([[2.0, 1.0], [-0.3, 0.4], [1e-9, 0.0]])
    basins = rd.certify_basins(alternating, balls, states, progress=False)
    assert basins.labels.tolist() == [0, 0, 0]
    for state, row, steps in zip(states, basins.entered, basins.steps):
        for _ in range(steps):
            state = np.array([-np.tanh(2 * state[0]), 0.5 * state[1] + 0.1 * state[0]])
        # The phase too: in the ball that was entered, not in the other.
        assert np.sign(state[0]) == np.sign(balls.centers[row, 0])
    found = rd.certify_connections(alternating, np.zeros((1, 2)), balls, progress=False)
    assert found.proved.all()
    assert found.labels.tolist() == [[0, 0]]
    np.testing.assert_allclose(found.multipliers, -2.0)


def gated(x, u):
    return jnp.tanh(2 * x + u)


def test_pulses_set_the_bits_that_they_push(balls):
    pulses = np.array([[4.0, 0], [-4, 0], [0, 4], [0, -4], [0, 0]])
    table = rd.certify_transitions(gated, balls, pulses, progress=False)
    assert table.proved.all()
    bits = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    for k in range(4):
        for s, pulse in enumerate(pulses):
            after = np.where(pulse > 0, 1, np.where(pulse < 0, 0, bits[k]))
            assert table.labels[k, s] == 2 * after[0] + after[1]
    # A pulse to the boundary of two basins: some states of the ball go either way.
    to_the_edge = rd.certify_transitions(
        gated, balls, np.array([[-2 * X, 0]]), progress=False, num_shares=2, max_steps=60
    )
    assert (to_the_edge.labels[2:] == -1).all()


def test_what_is_no_memory_is_refused(balls):
    with pytest.raises(ValueError, match="row 1 is unstable"):
        rd.prove_trapping_balls(double_well, np.stack([MEMORIES[0], SADDLES[0]]))
    with pytest.raises(ValueError, match="row 0 is no fixed point"):
        rd.prove_trapping_balls(double_well, np.array([[0.5, 0.5]]))
    with pytest.raises(ValueError, match="rows 0 and 2 are the same"):
        rd.prove_trapping_balls(double_well, MEMORIES[[0, 1, 0]])
    with pytest.raises(ValueError, match="NaN"):
        rd.certify_basins(double_well, balls, np.array([[np.nan, 0]]))
    with pytest.raises(ValueError, match="2 entries"):
        rd.certify_basins(double_well, balls, np.zeros((1, 3)))
    with pytest.raises(ValueError, match="NaN"):
        rd.certify_transitions(gated, balls, np.array([[np.nan, 0]]))
    with pytest.raises(ValueError, match="width"):
        rd.certify_transitions(gated, balls, np.zeros((1, 2)), rest=np.zeros(3))


def test_saddles_need_one_unstable_direction(balls):
    with pytest.raises(ValueError, match="row 0 has 2 unstable directions"):
        rd.certify_connections(double_well, np.zeros((1, 2)), balls)
    with pytest.raises(ValueError, match="row 0 has 0 unstable directions"):
        rd.certify_connections(double_well, MEMORIES[:1], balls)

    def spiral(x):
        return jnp.tanh(jnp.asarray([[1.2, -0.9], [0.9, 1.2]]) @ x)

    with pytest.raises(ValueError, match="complex unstable pair"):
        rd.certify_connections(spiral, np.zeros((1, 2)), balls)


def test_a_map_without_interval_rules_is_named_and_a_neutral_point_gets_no_ball():
    with pytest.raises(NotImplementedError, match="sort"):
        rd.prove_trapping_balls(lambda x: 0.5 * jnp.sort(x), np.zeros((1, 2)))
    # x - x^3 attracts to zero, but slower than any rate.
    neutral = rd.prove_trapping_balls(lambda x: x - x**3, np.zeros((1, 2)))
    assert not neutral.proved.any()
    assert rd.results.is_verdict(neutral.result, BallVerdict.not_contracting).all()
    assert "multiplier has the modulus 1 " in neutral.reasons[0]
    nothing = rd.certify_basins(lambda x: x - x**3, neutral, np.ones((3, 2)) * 0.1)
    assert (nothing.labels == -1).all()


def test_results_print_and_are_saved(balls, tmp_path):
    basins = rd.certify_basins(double_well, balls, np.array([[1.0, 1], [-1, 1]]), progress=False)
    for result, word in ((basins, "2 of 2 states"), (balls, "4 of 4 proved")):
        assert word in str(result)
        again = rd.load(result.save(tmp_path / "result"))
        assert str(again) == str(result)


def test_balls_of_another_map_are_refused(balls):
    with pytest.raises(ValueError, match="another map"):
        rd.certify_basins(lambda x: jnp.tanh(2 * x + 0.3), balls, np.zeros((1, 2)))


def test_the_wiring_is_drawn_with_a_line_for_each_pair(balls):
    found = rd.certify_connections(double_well, SADDLES, balls, progress=False)
    ax = rd.plotting.plot_wiring(found, places=MEMORIES, names=["a", "b", "c", "d"])
    assert len(ax.lines) == 4
    assert [text.get_text() for text in ax.texts] == ["a", "b", "c", "d"]
    assert "8 of 8 branches" in str(found)
    with pytest.raises(ValueError, match="names"):
        rd.plotting.plot_wiring(found, names=["a"])


def test_a_second_program_agrees_about_an_lstm():
    rng = np.random.default_rng(0)
    cell = rd.LSTMCell.from_weights(rng.normal(size=(12, 2)), 0.5 * rng.normal(size=(12, 3)), rng.normal(size=12))
    f = rd.as_map(cell, np.array([0.3, -0.2]))
    points = rd.find_fixed_points(f, 0.1 * rng.normal(size=(8, 6)), progress=False)
    basins = rd.certify_basins(f, points.points[points.is_stable], rng.normal(size=(20, 6)), progress=False)
    assert basins.proved.all()
    check = rd.check_basins(basins, cell, np.array([0.3, -0.2]))
    assert check.accepted, check.reason
    # The same certificate about the cell with another input is false.
    assert not rd.check_basins(basins, cell).accepted
    with pytest.raises(ValueError, match="cell"):
        rd.check_basins(basins, f)

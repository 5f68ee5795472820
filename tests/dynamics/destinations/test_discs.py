"""States followed as discs in the metric of their memory, against pairs of states and a closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.dynamics.destinations import _journeys as journeys
from rnndyn.dynamics.destinations._arrivals import find_arrivals
from rnndyn.dynamics.destinations._discs import Discs, Stations, carried
from rnndyn.dynamics.numerics.drivers import let_in
from rnndyn.dynamics.proofs.krawczyk import interval_precision

SIZE = 12


@pytest.fixture(scope="module")
def turning():
    """0.97 times a rotation: distances shrink by 3 % in a step, and boxes grow by the sums of moduli."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0]
    assert np.abs(0.97 * rotation).sum(axis=1).min() > 2
    matrix = jnp.asarray(0.97 * rotation)
    return lambda x: matrix.astype(x.dtype) @ x


def test_states_that_boxes_lose_arrive_when_the_closed_form_says_so(turning):
    balls = rd.prove_trapping_balls(turning, np.zeros((1, SIZE)))
    states = np.random.default_rng(1).normal(size=(40, SIZE))
    with interval_precision():
        f = let_in(turning, states[0])
        arrivals = find_arrivals(f, balls, 4)
        stations = Stations(f, balls, arrivals.rows)
        found = journeys.follow_discs(f, states, np.zeros(40, int), 1e-5, arrivals.targets, stations, 400)
    assert np.all(found.ends == journeys.ARRIVED)
    # The metric of a rotation is a multiple of the Euclidean one, so that |F^t x| = 0.97^t |x| tells when x arrives.
    largest = arrivals.targets.radii[0] * np.linalg.norm(balls.factors[0], 2)
    expected = np.ceil(np.log(np.linalg.norm(states, axis=1) / largest) / -np.log(0.97))
    assert expected.min() > 60
    np.testing.assert_array_equal(found.steps, expected)


def test_a_step_takes_a_disc_to_the_closed_form_and_no_digit_less(turning):
    balls = rd.prove_trapping_balls(turning, np.zeros((1, SIZE)))
    states = balls.radii[0] * np.random.default_rng(2).normal(size=(10, SIZE)) @ balls.factors[0].T
    distances, rounding = balls.radii[0] * np.linspace(0.1, 1, 10), balls.radii[0] * np.linspace(0.2, 0, 10)
    with interval_precision():
        stations = Stations(let_in(turning, states[0]), balls, np.arange(1))
        found = carried(stations, Discs(states, np.zeros(10, int), distances), rounding)
    # The metric is a multiple of the Euclidean one, to some 1e-8, in which the map shrinks every distance by 0.97.
    exact = 0.97 * distances + rounding
    assert np.all(found >= exact)
    np.testing.assert_allclose(found, exact, rtol=1e-7)


def curved(x):
    """A contraction around a point that is not the origin, curved everywhere."""
    turn = jnp.asarray([[0.6, -0.9, 0.2], [0.8, 0.5, -0.3], [0.1, 0.4, 0.7]], x.dtype)
    return jnp.tanh(turn @ x + jnp.asarray([0.4, -0.2, 0.1], x.dtype))


def test_no_two_states_of_a_disc_are_taken_further_apart_than_its_station_says():
    center = np.zeros(3)
    with interval_precision():
        for _ in range(500):
            center = np.asarray(curved(jnp.asarray(center)))
    balls = rd.prove_trapping_balls(curved, center[None])
    rng = np.random.default_rng(2)
    factor, inverse = balls.factors[0], np.linalg.inv(balls.factors[0])
    unit = lambda shape: (v := rng.normal(size=shape)) / np.linalg.norm(v, axis=-1, keepdims=True)
    middles = balls.centers[0] + 3 * balls.radii[0] * unit((30, 3)) @ factor.T
    distances = balls.radii[0] * rng.uniform(0.1, 1, 30)
    with interval_precision():
        stations = Stations(let_in(curved, center), balls, np.arange(1))
        stretches = stations.stretches(Discs(middles, np.zeros(30, int), distances))
        again = stations.stretches(Discs(middles[::-1], np.zeros(30, int), distances[::-1]))
        too_large = stations.stretches(Discs(middles, np.zeros(30, int), 3 * balls.radii[0] + distances))
    assert np.isfinite(stretches).all()
    np.testing.assert_array_less(again, np.inf)
    assert np.all(too_large == np.inf)
    ends = middles + distances[:, None] * unit((200, 30, 3)) @ factor.T
    turn = np.array([[0.6, -0.9, 0.2], [0.8, 0.5, -0.3], [0.1, 0.4, 0.7]])
    image = lambda x: np.tanh(x @ turn.T + np.array([0.4, -0.2, 0.1]))
    length = lambda v: np.linalg.norm(v @ inverse.T, axis=-1)
    seen = length(image(ends[1:]) - image(ends[:-1])) / length(ends[1:] - ends[:-1])
    assert np.all(seen.max(axis=0) <= stretches * (1 + 1e-12))
    assert np.median(seen.max(axis=0) / stretches) > 0.5


def test_a_wrong_home_proves_nothing_false():
    def double_well(x):
        return jnp.tanh(2 * x)

    memories = np.full((2, 1), 0.957504024079) * np.array([[-1.0], [1.0]])
    with interval_precision():
        for _ in range(100):
            memories = np.asarray(double_well(jnp.asarray(memories)))
    balls = rd.prove_trapping_balls(double_well, memories)
    states = np.linspace(0.01, 2, 20)[:, None]
    with interval_precision():
        f = let_in(double_well, states[0])
        stations = Stations(f, balls, np.arange(2))
        wrong = journeys.follow_discs(f, states, np.zeros(20, int), 1e-5, balls.targets()[0], stations, 50)
    assert np.all(wrong.balls == -1)

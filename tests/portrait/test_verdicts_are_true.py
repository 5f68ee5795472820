"""Every sentence of a portrait against an independent program, for quiet, trained-like and chaotic networks."""

import re

import numpy as np
import pytest

import rnndyn as rd

SIZE = 12


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def vanilla(gain, rng):
    w = gain / np.sqrt(SIZE) * rng.standard_normal((SIZE, SIZE))
    cell = rd.VanillaCell.from_weights(rng.standard_normal((SIZE, 2)) / 2, w, np.zeros(SIZE))
    return cell, lambda x: np.tanh(x @ w.T), SIZE


def gru(gain, rng):
    w = gain / np.sqrt(SIZE) * rng.standard_normal((3 * SIZE, SIZE))
    b = 0.1 * rng.standard_normal(3 * SIZE)
    cell = rd.GRUCell.from_weights(rng.standard_normal((3 * SIZE, 2)) / 2, w, b, np.zeros(SIZE))

    def step(x):
        r, z, n = np.split(x @ w.T, 3, axis=-1)
        r, z = sigmoid(r + b[:SIZE]), sigmoid(z + b[SIZE : 2 * SIZE])
        return (1 - z) * np.tanh(r * n + b[2 * SIZE :]) + z * x

    return cell, step, SIZE


def lstm(gain, rng):
    w = gain / np.sqrt(SIZE) * rng.standard_normal((4 * SIZE, SIZE))
    cell = rd.LSTMCell.from_weights(rng.standard_normal((4 * SIZE, 2)) / 2, w, np.zeros(4 * SIZE))

    def step(x):
        h, c = np.split(x, 2, axis=-1)
        i, f, g, o = np.split(h @ w.T, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return np.concatenate([sigmoid(o) * np.tanh(c), c], axis=-1)

    return cell, step, 2 * SIZE


def memories(gain, rng):
    """A network made to keep two patterns (Hopfield): what training for a memory gives, without the training."""
    patterns = np.sign(rng.standard_normal((2, SIZE)))
    w = gain * patterns.T @ patterns / SIZE
    return rd.VanillaCell.from_weights(np.zeros((SIZE, 2)), w, np.zeros(SIZE)), lambda x: np.tanh(x @ w.T), SIZE


def numeric_jacobian(step, x, h=1e-6):
    units = np.eye(len(x))
    return np.array([(step(x + h * e) - step(x - h * e)) / (2 * h) for e in units]).T


def largest_exponent(step, x, rng, num_steps=20000):
    """Two nearby orbits, pulled together again at every step."""
    for _ in range(1000):
        x = step(x)
    d = rng.standard_normal(len(x))
    d *= 1e-7 / np.linalg.norm(d)
    total = 0.0
    for _ in range(num_steps):
        y, x = step(x + d), step(x)
        d = y - x
        length = np.linalg.norm(d)
        total += np.log(length / 1e-7)
        d *= 1e-7 / length
    return total / num_steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "gain"),
    [(vanilla, 0.7), (vanilla, 3.0), (gru, 1.0), (gru, 6.0), (lstm, 1.0), (lstm, 6.0), (memories, 1.8)],
)
def test_every_sentence(make, gain):
    rng = np.random.default_rng(7)
    cell, step, size = make(gain, rng)
    portrait = rd.portrait(cell, budget=600.0, progress=False)
    place = portrait.places[0]
    points = place.fixed_points
    for sentence in portrait.sentences:
        assert sentence.evidence

    # Fixed points: they stand still, and have as many unstable directions as is said.
    for k, x in enumerate(points.points):
        assert np.abs(step(x) - x).max() < 1e-12
        mu = np.abs(np.linalg.eigvals(numeric_jacobian(step, x)))
        # Differences of 1e-6 give eight digits of a multiplier: none of these is so close to 1.
        assert int((mu > 1).sum()) == points.num_unstable[k]
    first = next(s for s in portrait.sentences if s.topic == "fixed points")
    assert len(points) == (1 if first.claim.startswith("One ") else int(re.match(r"\d+", first.claim)[0]))
    # No stable fixed point is missed that many orbits end on.
    ends = rng.uniform(-1, 1, (300, size))
    for _ in range(6000):
        ends = step(ends)
    still = np.abs(step(ends) - ends).max(axis=1) < 1e-10
    known = points.points[points.is_stable]
    for x in ends[still]:
        assert len(known)
        assert np.abs(known - x).max(axis=1).min() < 1e-6

    # Attractors: the share of orbits that end on fixed points is what a plain program finds.
    found = place.attractors
    fixed = np.isin(found.labels, [i for i, a in enumerate(found.attractors) if a.kind == "fixed point"]).mean()
    orbits = place.states[: len(found.labels)].copy()
    for _ in range(6000):
        orbits = step(orbits)
    plain = (np.abs(step(orbits) - orbits).max(axis=1) < 1e-8).mean()
    assert abs(fixed - plain) < 0.03  # orbits that are slow at the end of one of the programs

    # Chaos: the exponent said to be positive is, and by that much.
    for attractor in found.attractors:
        if attractor.kind == "chaotic":
            plain = largest_exponent(step, attractor.final_state.copy(), rng)
            error = 4 * np.hypot(attractor.exponents_stderr[0], 0.05 * plain)
            assert abs(attractor.exponents[0] - plain) < error
        if attractor.kind == "cycle":
            x = attractor.points[0]
            for _ in range(attractor.period):
                x = step(x)
            np.testing.assert_allclose(x, attractor.points[0], atol=1e-9)

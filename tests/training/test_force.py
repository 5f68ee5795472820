"""Recursive least squares against ridge regression, and FORCE learning against a loop of plain NumPy."""

import jax
import numpy as np
import pytest

import rnndyn as rd

RNG = np.random.default_rng(0)


def ridge(features, targets, alpha, start=0.0):
    """The minimum of |W r - y|^2 + alpha |W - W_0|^2 by the normal equations."""
    gram = features.T @ features + alpha * np.eye(features.shape[1])
    return np.linalg.solve(gram, features.T @ targets + alpha * np.asarray(start).T).T


@pytest.mark.parametrize("start", [False, True])
def test_recursive_least_squares_is_ridge_regression(start):
    features, targets = RNG.standard_normal((40, 6)), RNG.standard_normal((40, 2))
    weight = RNG.standard_normal((2, 6)) if start else np.zeros((2, 6))
    with jax.enable_x64(True):
        result = rd.training.recursive_least_squares(features, targets, alpha=0.7, weight=weight if start else None)
    np.testing.assert_allclose(result.weight, ridge(features, targets, 0.7, weight), atol=1e-10)
    gram = features.T @ features + 0.7 * np.eye(6)
    np.testing.assert_allclose(result.inverse, np.linalg.inv(gram), atol=1e-10)
    # The error of each step is that of the regression of all steps before.
    before = ridge(features[:25], targets[:25], 0.7, weight)
    np.testing.assert_allclose(result.errors[25], before @ features[25] - targets[25], atol=1e-10)


def network(size, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((size, 3)), 1.5 * rng.standard_normal((size, size)) / np.sqrt(size), np.zeros(size)


def test_force_is_the_loop_that_its_paper_tells():
    size, steps, alpha = 12, 60, 2.0
    weights = network(size, 1)
    targets = np.stack([np.sin(np.arange(steps) / 5), np.cos(np.arange(steps) / 7)], axis=1)
    inputs, x0 = RNG.standard_normal((steps, 1)), RNG.standard_normal(size)
    with jax.enable_x64(True):
        cell = rd.LeakyCell.from_weights(*weights, dt=0.1, tau=1.0, state_variable="current")
        result = rd.training.force(cell, targets, inputs=inputs, state=x0, alpha=alpha, update_every=2)
    x, readout, z = x0, np.zeros((2, size)), np.zeros(2)
    seen, outputs, changes = [], [], []
    for step in range(steps):
        x = 0.9 * x + 0.1 * (weights[0] @ np.concatenate([inputs[step], z]) + weights[1] @ np.tanh(x))
        z = readout @ np.tanh(x)
        outputs.append(z)
        before = readout
        if step % 2 == 1:
            seen.append((np.tanh(x), targets[step]))
            readout = ridge(*map(np.array, zip(*seen)), alpha)
        changes.append(np.linalg.norm(readout - before))
    np.testing.assert_allclose(result.outputs, outputs, atol=1e-9)
    np.testing.assert_allclose(result.weight, readout, atol=1e-9)
    np.testing.assert_allclose(result.weight_changes, changes, atol=1e-9)
    np.testing.assert_allclose(result.final_state, x, atol=1e-9)
    np.testing.assert_allclose(result.errors, np.array(outputs) - targets, atol=1e-9)


def test_the_closed_loop_is_the_cell_with_the_readout_in_its_weights():
    size = 12
    weights = network(size, 2)
    cell = rd.LeakyCell.from_weights(*weights, dt=0.1, tau=1.0, state_variable="current")
    readout = RNG.standard_normal((3, size))
    closed = rd.LeakyCell.from_weights(
        np.zeros((size, 0)), weights[1] + weights[0] @ readout, weights[2], dt=0.1, tau=1.0, state_variable="current"
    )
    x = RNG.standard_normal(size)
    expected = cell(x, np.float32(readout @ np.tanh(x)))
    np.testing.assert_allclose(closed(x, np.zeros(0)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha: expected a positive number, got 0.0"),
        ({"weight": np.zeros((2, 3))}, "weight: expected shape"),
        ({"targets": np.zeros(4)}, "expected shapes"),
        ({"targets": np.zeros((5, 2))}, "expected shapes"),
    ],
)
def test_recursive_least_squares_refuses(arguments, message):
    settings = {"targets": np.zeros((4, 2)), **arguments}
    with pytest.raises(ValueError, match=message):
        rd.training.recursive_least_squares(np.zeros((4, 5)), settings.pop("targets"), **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "inputs: the cell takes 3 inputs, of which the last 2"),
        ({"inputs": np.zeros((4, 2))}, "inputs: the cell takes"),
        ({"inputs": np.zeros((4, 1)), "update_every": 0}, "update_every"),
        ({"inputs": np.zeros((4, 1)), "alpha": -1.0}, "alpha: expected a positive number"),
    ],
)
def test_force_refuses(arguments, message):
    cell = rd.LeakyCell.from_weights(*network(5, 0), dt=0.1, tau=1.0)
    with pytest.raises(ValueError, match=message):
        rd.training.force(cell, np.zeros((4, 2)), **arguments)

"""Minibatches: every epoch shows every example once, in an order that the key fixes."""

import itertools

import jax
import numpy as np
import pytest

from rnndyn.training import Minibatches

KEY = jax.random.key(0)
DATA = {"x": np.arange(10), "y": 10 * np.arange(10)[:, None]}


def epochs(batches, num):
    drawn = [batch["x"] for batch in itertools.islice(batches, num * batches.num_batches)]
    return np.concatenate(drawn).reshape(num, -1)


def test_every_epoch_is_a_new_permutation():
    shown = epochs(Minibatches(DATA, 5, key=KEY), 20)
    assert (np.sort(shown, axis=1) == np.arange(10)).all()
    assert len(np.unique(shown, axis=0)) == 20


def test_examples_left_over_are_dropped_for_an_epoch_only():
    batches = Minibatches(DATA, 4, key=KEY)
    shown = epochs(batches, 30)
    assert batches.num_batches == 2
    assert shown.shape == (30, 8)
    assert all(len(set(epoch)) == 8 for epoch in shown)
    assert set(shown.ravel()) == set(range(10))


def test_arrays_stay_together():
    batch = next(iter(Minibatches(DATA, 3, key=KEY)))
    assert batch["y"].shape == (3, 1)
    assert np.array_equal(batch["y"][:, 0], 10 * batch["x"])


def test_key_fixes_the_order():
    shown = epochs(Minibatches(DATA, 5, key=KEY), 5)
    assert np.array_equal(shown, epochs(Minibatches(DATA, 5, key=KEY), 5))
    assert not np.array_equal(shown, epochs(Minibatches(DATA, 5, key=jax.random.key(1)), 5))


def test_every_iteration_begins_anew():
    batches = Minibatches(DATA, 5, key=KEY)
    assert np.array_equal(epochs(batches, 3), epochs(batches, 3))


@pytest.mark.parametrize(
    ("data", "batch_size", "message"),
    [
        (DATA, 0, "batch_size: expected 1 to 10"),
        (DATA, 11, "batch_size: expected 1 to 10 .* got 11"),
        ((np.ones(3), np.ones(4)), 2, "data: expected arrays with one common leading axis"),
        (1.0, 1, "data: expected arrays with one common leading axis"),
        ((), 1, "data: expected arrays with one common leading axis"),
    ],
)
def test_bad_input(data, batch_size, message):
    with pytest.raises(ValueError, match=message):
        Minibatches(data, batch_size, key=KEY)

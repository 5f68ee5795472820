"""The adding task: the marked numbers added by hand, and the error of a constant answer."""

import jax
import numpy as np
import pytest

import rnndyn as rd


@pytest.mark.parametrize("num_steps", [2, 7, 50])
def test_last_target_is_the_sum_of_the_two_marked_numbers(num_steps):
    batch = rd.tasks.batches("adding", 50, num_steps=num_steps)(jax.random.key(0))
    for inputs, targets, mask in zip(*(np.asarray(leaf) for leaf in batch)):
        marked = [t for t, (_, mark) in enumerate(inputs.tolist()) if mark == 1]
        assert len(marked) == 2
        assert marked[0] < num_steps // 2 <= marked[1]
        assert set(inputs[:, 1].tolist()) <= {0.0, 1.0}
        assert targets[:, 0].tolist() == [0.0] * (num_steps - 1) + [float(inputs[marked[0], 0] + inputs[marked[1], 0])]
        assert mask.tolist() == [0.0] * (num_steps - 1) + [1.0]


def test_a_constant_answer_errs_by_a_sixth():
    batch = rd.tasks.batches("adding", 4000, num_steps=10)(jax.random.key(1))
    errors = (np.asarray(batch.targets, float)[:, -1, 0] - 1) ** 2
    # Variance of the sum of two uniform numbers is 1/6; five standard errors of the mean.
    assert abs(errors.mean() - 1 / 6) < 5 * errors.std() / np.sqrt(4000)


def test_marks_are_spread_over_their_halves():
    batch = rd.tasks.batches("adding", 4000, num_steps=7)(jax.random.key(2))
    chances = np.asarray(batch.inputs)[:, :, 1].mean(axis=0)
    expected = np.array([1 / 3] * 3 + [1 / 4] * 4)
    # Five binomial standard errors.
    assert (np.abs(chances - expected) < 5 * np.sqrt(expected * (1 - expected) / 4000)).all()


def test_too_short_a_sequence_is_refused():
    with pytest.raises(ValueError, match="num_steps: expected at least 2, got 1"):
        rd.tasks.adding(key=jax.random.key(0), num_steps=1)

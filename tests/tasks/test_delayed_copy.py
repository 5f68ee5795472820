"""The delayed-copy task: read as a tape with a cue."""

import jax
import numpy as np
import pytest

import rnndyn as rd


@pytest.mark.parametrize(("length", "delay", "num_symbols"), [(5, 20, 8), (1, 0, 2), (3, 1, 4)])
def test_answers_repeat_the_symbols_from_the_cue_on(length, delay, num_symbols):
    options = {"length": length, "delay": delay, "num_symbols": num_symbols}
    batch = rd.tasks.batches("delayed_copy", 20, **options)(jax.random.key(0))
    for inputs, targets, mask in zip(*(np.asarray(leaf) for leaf in batch)):
        tape, answers, cues = [], [], []
        for t, row in enumerate(inputs.tolist()):
            assert sum(row) in (0, 1)
            if 1 in row and row.index(1) < num_symbols:
                tape.append(row.index(1))
            elif 1 in row:
                cues.append(t)
            if mask[t]:
                answers.append(targets[t].tolist().index(1))
                assert targets[t].sum() == 1
            else:
                assert not targets[t].any()
        assert cues == [length + delay]
        assert mask.tolist() == [0.0] * (length + delay) + [1.0] * length
        assert len(tape) == length
        assert answers == tape


def test_symbols_occur_equally_often():
    batch = rd.tasks.batches("delayed_copy", 1000, length=4, delay=0, num_symbols=5)(jax.random.key(0))
    counts = np.asarray(batch.targets).sum(axis=(0, 1))
    assert counts.sum() == 4000
    # Five binomial standard errors.
    assert np.abs(counts - 800).max() < 5 * np.sqrt(4000 * 0.2 * 0.8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length: expected at least 1"),
        ({"delay": -1}, "delay: expected at least 0"),
        ({"num_symbols": 1}, "num_symbols: expected at least 2"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        rd.tasks.delayed_copy(key=jax.random.key(0), **options)

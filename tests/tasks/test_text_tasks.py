"""The synthetic texts, read back word by word in plain Python."""

import jax
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.tasks.text_integration import VALENCES


@pytest.mark.parametrize("num_classes", [2, 4])
def test_text_integration_names_the_class_with_the_largest_score(num_classes):
    batch = rd.tasks.batches("text_integration", 40, num_classes=num_classes, num_steps=15)(jax.random.key(0))
    num_undecided = 0
    for inputs, targets, mask in zip(*map(np.asarray, batch)):
        scores = [0] * num_classes
        for word in inputs.argmax(axis=1):
            scores[word // 5] += VALENCES[word % 5]
        assert mask[:-1].sum() == 0
        if scores.count(max(scores)) > 1:
            num_undecided += 1
            assert mask[-1] == 0
        else:
            assert mask[-1] == 1
            assert (targets.argmax(axis=1) == scores.index(max(scores))).all()
    # Ties happen, and not most of the time.
    assert 0 < num_undecided < 20


def test_negation_turns_the_next_two_words_around():
    batch = rd.tasks.batches("negation", 60, num_steps=20, modifier_probability=0.3)(jax.random.key(1))
    for inputs, targets, mask in zip(*map(np.asarray, batch)):
        words = inputs.argmax(axis=1)
        score = 0
        for t, word in enumerate(words):
            if word < 5:
                score += -VALENCES[word] if 5 in words[max(t - 2, 0) : t] else VALENCES[word]
        assert mask[-1] == (score != 0)
        if score:
            assert (targets[:, 0] == (score > 0)).all()
    share = np.mean(np.asarray(batch.inputs).argmax(axis=2) == 5)
    # 1200 draws fix 0.3 to 0.013.
    assert abs(share - 0.3) < 0.05


def test_negation_in_texts_of_different_lengths():
    batch = rd.tasks.batches("negation", 200, num_steps=12, min_words=3)(jax.random.key(1))
    lengths = []
    for inputs, targets, mask in zip(*map(np.asarray, batch)):
        length = int(inputs.sum())
        lengths.append(length)
        assert (inputs[:length].sum(axis=1) == 1).all()
        assert (inputs[length:] == 0).all()
        words = inputs[:length].argmax(axis=1)
        signs = [-1 if 5 in words[max(t - 2, 0) : t] else 1 for t in range(length)]
        score = sum(sign * VALENCES[word] for sign, word in zip(signs, words) if word < 5)
        assert np.flatnonzero(mask).tolist() == ([length - 1] if score else [])
        if score:
            assert (targets[:, 0] == (score > 0)).all()
    assert set(lengths) == set(range(3, 13))
    with pytest.raises(ValueError, match="min_words: expected 1 to 12"):
        rd.tasks.negation(key=jax.random.key(0), num_steps=12, min_words=13)


def test_every_step_is_one_word():
    for name, width in (("text_integration", 15), ("negation", 6)):
        trial = rd.tasks.find_task(name).generate(key=jax.random.key(2))
        assert trial.inputs.shape == (40, width)
        np.testing.assert_array_equal(trial.inputs.sum(axis=1), 1)


def test_bad_input():
    with pytest.raises(ValueError, match="num_classes: expected at least 2"):
        rd.tasks.text_integration(key=jax.random.key(0), num_classes=1)
    with pytest.raises(ValueError, match="modifier_probability"):
        rd.tasks.negation(key=jax.random.key(0), modifier_probability=1.5)
    with pytest.raises(ValueError, match="num_steps"):
        rd.tasks.negation(key=jax.random.key(0), num_steps=0)

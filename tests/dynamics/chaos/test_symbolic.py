"""Entropies, cycle means and separated paths of small graphs, against closed forms."""

import numpy as np
import pytest

from rnndyn.dynamics.chaos.symbolic import entropy_bound, least_cycle_mean, tells_paths_apart

# 0 covers itself and 1; 1 covers 2; 2 covers 0.
LOOP = np.array([[0, 0], [0, 1], [1, 2], [2, 0]])


def test_the_entropy_of_a_loop_is_the_root_of_its_polynomial():
    # 1 = 1/x + 1/x^3, a root by Cardano's formula to 30 digits (mpmath).
    assert entropy_bound(LOOP, 3) == pytest.approx(np.log(1.465571231876768), abs=1e-11)
    assert entropy_bound(LOOP, 3) < np.log(1.465571231876768)


def test_the_entropy_of_a_full_shift_is_log_two_and_of_a_circle_none():
    assert entropy_bound(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), 2) == pytest.approx(np.log(2), abs=1e-11)
    assert entropy_bound(np.array([[0, 1], [1, 2], [2, 0]]), 3) <= 0.0


def test_the_least_cycle_mean_is_that_of_the_worst_cycle():
    # Cycles: 0 alone with mean 5, and 0 1 2 with mean (1 + 2 + 6) / 3.
    assert least_cycle_mean(LOOP, [5.0, 1.0, 2.0, 6.0], 3) == pytest.approx(3.0, abs=1e-9)


def test_paths_are_told_apart_only_where_disjoint_sets_tell_them():
    apart = np.eye(3, dtype=bool)
    assert tells_paths_apart(LOOP, apart)
    beginning = apart.copy()
    beginning[0, 1] = beginning[1, 0] = True  # 2 lies apart from both, one step later
    assert tells_paths_apart(LOOP, beginning)
    assert not tells_paths_apart(LOOP, np.ones((3, 3), bool))


def test_paths_that_part_and_meet_again_unseen_are_one():
    edges = np.array([[0, 1], [0, 2], [1, 0], [2, 0]])
    overlap = np.eye(3, dtype=bool)
    assert tells_paths_apart(edges, overlap)
    overlap[1, 2] = overlap[2, 1] = True
    assert not tells_paths_apart(edges, overlap)

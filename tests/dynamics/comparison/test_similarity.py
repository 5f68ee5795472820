"""Similarity of dynamics and of representations, on linear systems of known operators and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import subspace_angles

import rnndyn as rd
from rnndyn.dynamics.comparison._procrustes_over_fields import angles, random_turns, scaled

RNG = np.random.default_rng(0)
NUM_TRIALS, NUM_STEPS = 16, 60


def turn(size, width=None):
    return np.linalg.qr(RNG.standard_normal((width or size, size)))[0]


def oscillators(frequencies, seed, basis=None, decay=0.97):
    """Trials of damped oscillations with noise, seen in some basis: `(B, T, 2 pairs)`."""
    rng = np.random.default_rng(seed)
    size = 2 * len(frequencies)
    matrix = np.zeros((size, size))
    for k, w in enumerate(frequencies):
        matrix[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[np.cos(w), -np.sin(w)], [np.sin(w), np.cos(w)]]
    x, states = rng.standard_normal((NUM_TRIALS, size)) * (1 + np.arange(size)), []
    for _ in range(NUM_STEPS):
        x = decay * x @ matrix.T + 0.1 * rng.standard_normal(x.shape)
        states.append(x)
    states = np.stack(states, axis=1)
    return states if basis is None else states @ basis.T + 3.0


def fields(matrices):
    return jax.vmap(scaled)(jnp.asarray(matrices), jnp.zeros((*matrices.shape[:2], 0)))


@pytest.fixture(scope="module")
def compared():
    slow, fast = (0.2, 0.9), (0.5, 1.4)
    networks = [
        oscillators(slow, 1),
        oscillators(slow, 2, turn(4, 9)),  # in a random basis of another space, other starts and noise
        oscillators(slow, 3, turn(4)),
        oscillators(fast, 4, turn(4)),
    ]
    return rd.dynamical_similarity(networks, num_delays=1, rank=4)


def test_conjugate_systems_are_at_the_null_and_others_above_it(compared):
    bar = np.quantile(compared.null_distances, 0.99)
    alike = compared.distances[:3, :3][np.triu_indices(3, 1)]
    assert np.all(alike < bar)
    assert np.all(compared.p_values[:3, :3] > 0.01)
    assert np.all(compared.distances[3, :3] > bar)
    np.testing.assert_allclose(compared.p_values[3, :3], 1 / 101)
    assert np.all(compared.spectral_distances[3, :3] > 3 * compared.spectral_distances[:3, :3].max())
    assert "pairs with p <= 0.01   3 of 6" in str(compared)


def test_eigenvalues_are_those_of_the_system(compared):
    expected = 0.97 * np.exp(1j * np.array([0.2, -0.2, 0.9, -0.9]))
    for values in compared.eigenvalues[:3]:
        gaps = np.min(np.abs(values[:, None] - expected), axis=1)
        assert np.all(gaps < 0.02)  # noise of a tenth


def test_the_search_finds_the_turn_between_conjugate_operators(x64):
    a = RNG.standard_normal((20, 6, 6))
    turns = np.stack([turn(6) for _ in a])
    b = turns @ a @ turns.transpose(0, 2, 1)
    found = np.asarray(angles(fields(a), fields(b), random_turns(4, 6, 0)))
    assert np.all(found < 1e-6)


def test_the_angle_of_normal_operators_is_that_of_their_eigenvalues(x64):
    # Of symmetric operators the best turn matches sorted eigenvalues (Hoffman & Wielandt).
    first, second = (m + m.T for m in RNG.standard_normal((2, 6, 6)))
    values = [np.linalg.eigvalsh(m) / np.linalg.norm(m) for m in (first, second)]
    found = float(angles(fields(first[None]), fields(second[None]), random_turns(4, 6, 0))[0])
    assert found == pytest.approx(np.arccos(values[0] @ values[1]), abs=1e-7)


def test_inputs_tell_driven_networks_apart():
    rng = np.random.default_rng(5)
    matrix = 0.9 * turn(4)
    gains = [rng.standard_normal((4, 2)), rng.standard_normal((4, 2))]

    def driven(gain, basis):
        drive = rng.standard_normal((NUM_TRIALS, NUM_STEPS, 2))
        x, states = rng.standard_normal((NUM_TRIALS, 4)), []
        for t in range(NUM_STEPS):
            states.append(x)
            x = x @ matrix.T + drive[:, t] @ gain.T
        return np.stack(states, axis=1) @ basis.T, drive

    networks, inputs = zip(driven(gains[0], np.eye(4)), driven(gains[0], turn(4)), driven(2 * gains[1], turn(4)))
    found = rd.dynamical_similarity(networks, inputs=inputs, num_delays=1, rank=4)
    # The linear fit is exact but for the whitening, which differs with the draws of the inputs.
    assert found.distances[0, 1] < 0.2
    assert found.distances[0, 2] > 2 * found.distances[0, 1]
    expected = np.sort_complex(np.linalg.eigvals(matrix))
    np.testing.assert_allclose(np.sort_complex(found.eigenvalues[0]), expected, atol=1e-8)


def test_eigenvalues_that_are_there_have_small_residuals():
    # Two damped oscillations without noise; six coordinates of which noise of the observation makes two.
    rng = np.random.default_rng(6)
    clean = oscillators((0.3, 1.1), 7, decay=0.999)
    noisy = np.concatenate([clean, 2.0 * rng.standard_normal((NUM_TRIALS, NUM_STEPS, 2))], axis=2)
    found = rd.koopman_spectrum(noisy, num_delays=1, rank=6, tol=0.2)
    expected = 0.999 * np.exp(1j * np.array([0.3, -0.3, 1.1, -1.1]))
    resolved = found.eigenvalues[~found.is_spurious]
    assert len(resolved) == 4
    assert np.all(np.min(np.abs(resolved[:, None] - expected), axis=1) < 0.01)
    assert np.all(found.residuals[found.is_spurious] > 0.9)  # white noise is not predicted at all
    assert str(found).count("spurious") == 2
    # The residual by its definition, step by step.
    states = noisy - noisy.mean((0, 1))
    _, axes = np.linalg.eigh(np.einsum("bti,btj->ij", states, states))
    now, after = (part.reshape(-1, 6) @ axes for part in (states[:, :-1], states[:, 1:]))
    values, functions = np.linalg.eig(np.linalg.lstsq(now, after, rcond=None)[0])
    for value, g in zip(values, functions.T):
        residual = np.linalg.norm(after @ g - value * (now @ g)) / np.linalg.norm(now @ g)
        k = np.argmin(np.abs(found.eigenvalues - value))
        assert found.residuals[k] == pytest.approx(residual, abs=1e-8)


STATES = [RNG.standard_normal((80, n)) for n in (3, 5, 4)]
STATES.append(STATES[0] @ turn(3, 6).T * 2.5 + 1.0)


def centred(k):
    return STATES[k] - STATES[k].mean(0)


def test_representations_are_compared_as_plain_numpy_does():
    procrustes, correlations, kernels = rd.procrustes_distance(STATES), rd.cca(STATES), rd.cka(STATES)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        x, y = centred(i), centred(j)
        nuclear = np.linalg.norm(x.T @ y, "nuc") / np.linalg.norm(x) / np.linalg.norm(y)
        assert procrustes[i, j] == pytest.approx(np.arccos(nuclear), abs=1e-9)
        assert correlations[i, j] == pytest.approx(np.mean(np.cos(subspace_angles(x, y))), abs=1e-9)
        kernel = np.sum((x @ x.T) * (y @ y.T)) / np.linalg.norm(x @ x.T) / np.linalg.norm(y @ y.T)
        assert kernels[i, j] == pytest.approx(kernel, abs=1e-9)


def test_a_turned_and_scaled_representation_is_the_same():
    assert rd.procrustes_distance(STATES)[0, 3] == pytest.approx(0, abs=1e-7)
    assert rd.cca(STATES)[0, 3] == pytest.approx(1, abs=1e-9)
    assert rd.cka(STATES)[0, 3] == pytest.approx(1, abs=1e-9)


def test_svcca_leaves_out_small_directions():
    signal = RNG.standard_normal((200, 2)) @ np.diag([3.0, 2.0])
    noisy = [np.concatenate([signal @ turn(2), 1e-2 * RNG.standard_normal((200, 4))], axis=1) for _ in range(2)]
    assert rd.svcca(noisy)[0, 1] == pytest.approx(1, abs=1e-3)
    assert rd.cca(noisy)[0, 1] < 0.6


def test_clustering_by_labels():
    rng = np.random.default_rng(0)
    places = np.concatenate([rng.standard_normal((6, 2)), rng.standard_normal((6, 2)) + 20])
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    labels = ["a"] * 6 + ["b"] * 6
    found = rd.label_clustering(distances, labels)
    assert found.statistic == pytest.approx(1, abs=1e-12)
    assert found.p_value < 0.02  # 2 of 924 splits into halves are the right one
    mixed = rd.label_clustering(distances, ["a", "b"] * 6)
    assert abs(mixed.statistic) < 0.3
    assert mixed.p_value > 0.05
    # Within the halves the labels a, b in turn say nothing, whatever the halves are.
    assert rd.label_clustering(distances, ["a", "b"] * 6, within=labels).p_value > 0.02


BAD = oscillators((0.2, 0.9), 1)
BAD[2, 5, 1] = np.nan
GOOD = oscillators((0.2, 0.9), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rd.dynamical_similarity([GOOD, BAD]), r"trajectories\[1\]: 1 of 960 rows hold NaN"),
        (lambda: rd.dynamical_similarity([GOOD]), "trajectories: expected at least two networks"),
        (lambda: rd.dynamical_similarity([GOOD, GOOD[:, :50]]), r"trajectories\[1\]: expected 16 trials of 60 steps"),
        (lambda: rd.dynamical_similarity([GOOD, GOOD * [1, 1, 0, 1]]), r"trajectories\[1\]: 1 of 4 channels are const"),
        (lambda: rd.dynamical_similarity([GOOD, GOOD], num_delays=60), "trajectories: 60 steps are too short for 60"),
        (lambda: rd.dynamical_similarity([GOOD, GOOD], num_delays=1, rank=5), "rank: 5 coordinates are asked of 1"),
        (lambda: rd.dynamical_similarity([GOOD, GOOD], inputs=[GOOD]), "inputs: expected those of 2 networks, got 1"),
        (lambda: rd.dynamical_similarity([GOOD[0, 0], GOOD]), r"trajectories\[0\]: expected trials of shape"),
        (
            lambda: rd.koopman_spectrum(np.repeat(GOOD, 2, axis=2), num_delays=1, rank=6),
            "has 4 independent coordinates",
        ),
        (lambda: rd.koopman_spectrum(GOOD, tol=0.0), "tol: expected a positive"),
        (lambda: rd.cka([STATES[0], STATES[1][:50]]), r"states\[1\]: expected the 80 situations"),
        (lambda: rd.cca([STATES[0], np.ones((80, 2))]), r"states\[1\]: the states do not vary"),
        (lambda: rd.procrustes_distance([STATES[0][0]]), r"states\[0\]: expected shape \(S, N\)"),
        (lambda: rd.svcca(STATES, variance=0.0), "variance: expected a share"),
        (lambda: rd.label_clustering(np.ones((3, 2)), "abc"), "distances: expected a finite square"),
        (lambda: rd.label_clustering(np.ones((3, 3)), list("ab")), "labels: expected one for each of 3"),
        (lambda: rd.label_clustering(np.ones((3, 3)), list("aaa")), "labels: expected pairs of one label"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

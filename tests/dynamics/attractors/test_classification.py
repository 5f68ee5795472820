"""What one orbit settles on: forty labelled cases, and those that must stay undecided."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon, Logistic

import rnndyn as rd

GOLDEN = (np.sqrt(5) - 1) / 2


class Rotor(eqx.Module):
    """x -> tanh(W x), W a rotation times a gain: a fixed point up to gain 1, an invariant circle beyond."""

    weights: np.ndarray

    def __call__(self, x):
        return jnp.tanh(self.weights @ x)


class TurningCircle(eqx.Module):
    """z -> e^{2 pi i rho} z (1 + c (1 - |z|^2)) seen through a shear: the unit circle turns by rho exactly.

    Its normal multiplier is 1 - 2 c.
    """

    rho: np.ndarray
    contraction: np.ndarray

    def __call__(self, state):
        x, y = state[0], state[1] - 0.4 * state[0] ** 2
        growth = 1 + self.contraction * (1 - x**2 - y**2)
        cosine, sine = jnp.cos(2 * jnp.pi * self.rho), jnp.sin(2 * jnp.pi * self.rho)
        x, y = growth * (cosine * x - sine * y), growth * (sine * x + cosine * y)
        return jnp.stack([x, y + 0.4 * x**2])


def logistic(r):
    return Logistic(np.array(r, float)), np.array([0.3])


def henon(a):
    return Henon(np.array(a, float)), np.array([0.1, 0.1])


def rotor(gain, turns):
    cosine, sine = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    return Rotor(gain * np.array([[cosine, -sine], [sine, cosine]])), np.array([0.4, 0.1])


def turning_circle(rho, contraction):
    return TurningCircle(np.array(rho), np.array(contraction)), np.array([0.5, 0.2])


def superstable(guess, period):
    """The parameter near `guess` at which the critical point 1/2 has the given period: its multiplier is 0.

    Secant steps on f^p(1/2) - 1/2, in plain Python.
    """

    def defect(r):
        x = 0.5
        for _ in range(period):
            x = r * x * (1 - x)
        return x - 0.5

    a, b = guess, guess + 1e-8
    for _ in range(20):
        if defect(b) == defect(a):
            break
        a, b = b, b - defect(b) * (b - a) / (defect(b) - defect(a))
    assert abs(b - guess) < 1e-5
    return b


# (name, map and start, kind, period). Where labels come from:
# superstable: the critical point is periodic, so the cycle exists and attracts almost every orbit (Singer's theorem).
# band merging: the critical point falls on an unstable cycle (Misiurewicz), so there is an absolutely continuous
# invariant measure with a positive exponent: chaos is proved. r^3 - 2 r^2 - 4 r - 8 = 0 for the last merging.
# Hénon: flips at a = 0.3675, 0.9125 (closed forms), 1.02586, 1.05113, 1.05656 (reference computation).
CASES = [
    ("logistic 2.9", logistic(2.9), "fixed point", 1),
    ("logistic superstable 1", logistic(2.0), "fixed point", 1),
    ("logistic, mu = -0.9999", logistic(2.9999), "fixed point", 1),
    ("logistic, 2-cycle with mu = 0.9998", logistic(3.00005), "cycle", 2),
    ("logistic superstable 2", logistic(1 + np.sqrt(5)), "cycle", 2),
    ("logistic, doubling hidden at 1e-3", logistic(1 + np.sqrt(6) + 1e-5), "cycle", 4),
    ("logistic superstable 4", logistic(superstable(3.49856170, 4)), "cycle", 4),
    ("logistic superstable 8", logistic(superstable(3.55464086, 8)), "cycle", 8),
    ("logistic superstable 16", logistic(superstable(3.56666738, 16)), "cycle", 16),
    ("logistic superstable 32", logistic(superstable(3.56924353, 32)), "cycle", 32),
    ("logistic superstable 3", logistic(superstable(3.83187406, 3)), "cycle", 3),
    ("logistic superstable 5", logistic(superstable(3.73891491, 5)), "cycle", 5),
    ("logistic superstable 6", logistic(superstable(3.62755753, 6)), "cycle", 6),
    ("logistic superstable 7", logistic(superstable(3.70177, 7)), "cycle", 7),
    ("logistic 4", logistic(4.0), "chaotic", None),
    ("logistic, bands merge 2 to 1", logistic(3.6785735104283224), "chaotic", None),
    ("logistic, bands merge 4 to 2", logistic(3.592572184106978), "chaotic", None),
    ("logistic, bands merge 8 to 4", logistic(3.574804938759208), "chaotic", None),
    ("logistic, intermittency before period 3", logistic(3.8284), "chaotic", None),
    ("logistic, after the window of period 3", logistic(3.857), "chaotic", None),
    ("logistic, between windows", logistic(3.7), "chaotic", None),
    ("logistic 4.1 escapes", logistic(4.1), "unbounded", None),
    ("Henon 0.3", henon(0.3), "fixed point", 1),
    ("Henon 0.8", henon(0.8), "cycle", 2),
    ("Henon 1.0", henon(1.0), "cycle", 4),
    ("Henon 1.04", henon(1.04), "cycle", 8),
    ("Henon 1.055", henon(1.055), "cycle", 16),
    ("Henon 1.4", henon(1.4), "chaotic", None),
    ("Henon 2 escapes", henon(2.0), "unbounded", None),
    ("spiral 0.9999, golden", rotor(0.9999, GOLDEN), "fixed point", 1),
    ("spiral 0.9999, almost a quarter turn", rotor(0.9999, 0.2499), "fixed point", 1),
    ("spiral 0.99", rotor(0.99, GOLDEN), "fixed point", 1),
    ("a quarter turn locks", rotor(1.1, 0.25), "cycle", 4),
    ("circle of radius 0.09", rotor(1.002, GOLDEN), "invariant circle", None),
    ("circle, golden", rotor(1.05, GOLDEN), "invariant circle", None),
    ("circle, nine degrees a step", rotor(1.01, GOLDEN / 25), "invariant circle", None),
    ("turning circle, golden", turning_circle(GOLDEN, 0.1), "invariant circle", None),
    ("turning circle, golden / 4", turning_circle(GOLDEN / 4, 0.3), "invariant circle", None),
    ("turning circle, normal multiplier 0.9998", turning_circle(1 - GOLDEN, 1e-4), "invariant circle", None),
    ("turning circle near a third", turning_circle(1 / 3 + 1e-3 * GOLDEN, 0.2), "invariant circle", None),
]


@pytest.fixture(scope="module")
def verdicts():
    return {name: rd.classify_attractor(*case) for name, case, _, _ in CASES}


@pytest.mark.slow
def test_no_case_has_a_wrong_name(verdicts):
    assert len(CASES) == 40
    wrong, undecided = [], []
    for name, _, kind, period in CASES:
        verdict = verdicts[name]
        if verdict.kind == "undecided":
            undecided.append(name)
        elif (verdict.kind, verdict.period) != (kind, period):
            wrong.append((name, verdict.label))
    assert not wrong
    assert len(undecided) <= 2


def test_every_verdict_comes_with_its_evidence(verdicts):
    for name, verdict in verdicts.items():
        if verdict.is_periodic:
            # Newton's method ends at the rounding floor, and the orbit has come within 1e-6 of the scale.
            assert verdict.residual < 1e-14, name
            assert np.max(np.abs(verdict.multipliers)) < 1, name
            assert verdict.distance <= 1e-6, name
            assert len(verdict.points) == verdict.period, name
        elif verdict.kind == "chaotic":
            assert verdict.exponents[0] > 5 * verdict.exponents_stderr[0] > 0, name
            assert verdict.birkhoff_digits < 6, name
        elif verdict.kind == "invariant circle":
            assert verdict.birkhoff_digits > 8, name
            assert verdict.circle is not None, name
            assert verdict.residual < 1e-10, name


def test_multipliers_in_closed_form(verdicts):
    # The 2-cycle of the logistic map: mu = 4 + 2 r - r^2; its fixed point: 2 - r.
    r = 3.00005
    assert verdicts["logistic, 2-cycle with mu = 0.9998"].multipliers[0] == pytest.approx(4 + 2 * r - r**2, abs=1e-9)
    assert verdicts["logistic, mu = -0.9999"].multipliers[0] == pytest.approx(-0.9999, abs=1e-12)
    np.testing.assert_allclose(np.abs(verdicts["spiral 0.9999, golden"].multipliers), 0.9999, rtol=1e-12)


def test_exponents_agree_with_closed_forms(verdicts):
    # ln 2 for r = 4.
    verdict = verdicts["logistic 4"]
    assert abs(verdict.exponents[0] - np.log(2)) < 5 * verdict.exponents_stderr[0]
    # A fixed point: ln |mu|.
    assert verdicts["logistic 2.9"].exponents[0] == pytest.approx(np.log(0.9), abs=1e-12)


def test_rotation_numbers_in_closed_form(verdicts):
    for name, rho in [
        ("turning circle, golden", 1 - GOLDEN),
        ("turning circle, golden / 4", GOLDEN / 4),
        ("turning circle, normal multiplier 0.9998", 1 - GOLDEN),
        ("turning circle near a third", 1 / 3 + 1e-3 * GOLDEN),
    ]:
        assert verdicts[name].rotation_number == pytest.approx(rho, abs=1e-11), name


class Leaking(eqx.Module):
    """The logistic map at r = 4 with a hole below 1, of width `hole`; what falls through it goes to 3/2."""

    hole: np.ndarray

    def __call__(self, x):
        return jnp.where(x > 1, 0.75 + 0.5 * x, jnp.where(x > 1 - self.hole, 2.0, 4 * x * (1 - x)))


def test_a_chaotic_transient_is_no_attractor():
    """The invariant density 1 / (pi sqrt(x (1 - x))) puts 2 sqrt(h) / pi into the hole: 33 000 steps on average."""
    verdict = rd.classify_attractor(Leaking(np.array(2.2e-9)), np.array([0.3]))
    assert verdict.kind == "fixed point"
    assert verdict.points[0, 0] == pytest.approx(1.5, abs=1e-14)
    # It was taken for chaos first: the verdict came after the second look.
    assert verdict.num_steps > 2**18


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (rotor(1.0, GOLDEN), "multiplier on the unit circle"),
        (logistic(3.0), "multiplier on the unit circle"),
        (logistic(1 + np.sqrt(8)), "multiplier on the unit circle"),
        ((logistic(4.0)[0], np.array([0.75])), "fixed point that is unstable"),
    ],
)
def test_what_cannot_be_decided_says_why(case, reason):
    verdict = rd.classify_attractor(*case)
    assert verdict.kind == "undecided"
    assert reason in verdict.reason


def test_a_period_beyond_the_longest_is_not_guessed():
    f, x0 = logistic(superstable(3.56924353, 32))
    verdict = rd.classify_attractor(f, x0, max_period=16, max_map_steps=2**14)
    assert verdict.kind == "undecided"
    assert "longer than max_period = 16" in verdict.reason


def test_a_torus_is_no_circle():
    weights = np.zeros((4, 4))
    weights[:2, :2] = rotor(1.05, GOLDEN)[0].weights
    weights[2:, 2:] = rotor(1.1, np.sqrt(2) / 5)[0].weights
    verdict = rd.classify_attractor(Rotor(weights), np.array([0.4, 0.1, 0.3, 0.2]), max_map_steps=2**15)
    assert verdict.kind == "undecided"
    assert "quasi-periodic" in verdict.reason


def test_saved_and_printed(verdicts, tmp_path):
    verdict = verdicts["turning circle, golden"]
    again = rd.load(verdict.save(tmp_path / "circle"))
    assert isinstance(again, rd.ClassifiedAttractor)
    assert str(again) == str(verdict)
    assert "cycle of period 3" in str(verdicts["logistic superstable 3"])


def test_bad_input():
    f = lambda x: 0.5 * x
    with pytest.raises(ValueError, match="x0: expected one state"):
        rd.classify_attractor(f, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="x0: it holds NaN"):
        rd.classify_attractor(f, np.array([np.nan]))
    with pytest.raises(ValueError, match="max_map_steps: expected at least 4096"):
        rd.classify_attractor(f, np.ones(1), max_map_steps=10)
    with pytest.raises(ValueError, match="max_period"):
        rd.classify_attractor(f, np.ones(1), max_period=0)
    with pytest.raises(ValueError, match="f: expected it to keep the shape"):
        rd.classify_attractor(lambda x: jnp.concatenate([x, x]), np.ones(1))

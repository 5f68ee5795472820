"""Phase shifts by a pulse: closed forms, and a published network."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.results import is_verdict

RHO = (np.sqrt(5) - 1) / 20


def clock(z):
    """The radial isochron clock as a map: z -> e^{2 pi i rho} z (1.2 - .2 |z|^2); the phase is the angle."""
    cosine, sine = np.cos(2 * np.pi * RHO), np.sin(2 * np.pi * RHO)
    return (1.2 - 0.2 * z @ z) * jnp.stack([cosine * z[0] - sine * z[1], sine * z[0] + cosine * z[1]])


def wrapped(turns):
    return (turns + 0.5) % 1.0 - 0.5


@pytest.fixture(scope="module")
def circle():
    return rd.find_invariant_circle(clock, np.array([0.8, 0.1]), progress=False)


@pytest.mark.parametrize(("kick", "winding"), [(0.4, 1), (1.2, 0)])
def test_radial_isochron_clock(circle, kick, winding):
    """A kick along the first axis leads to the angle of z + kick: type 1 resetting below 1, type 0 beyond."""
    found = rd.phase_response(clock, circle, np.array([kick, 0.0]))
    x, y = circle.curve(found.phases).T
    right = (np.angle(x + kick + 1j * y) - np.angle(x + 1j * y)) / (2 * np.pi)
    np.testing.assert_allclose(wrapped(found.shifts - right), 0, atol=1e-8)
    assert found.converged
    assert found.winding_number == winding


def test_a_pulse_that_takes_time(circle):
    """Two steps of the map itself are no pulse at all; two steps of rest delay by two."""
    nothing = rd.phase_response(clock, circle, lambda z: clock(clock(z)), phases=8, duration=2)
    np.testing.assert_allclose(nothing.shifts, 0, atol=1e-9)
    rest = rd.phase_response(clock, circle, lambda z: z, phases=8, duration=2)
    np.testing.assert_allclose(rest.shifts, -2 * RHO, atol=1e-9)
    assert rest.mean_shift == pytest.approx(-2 * RHO, abs=1e-9)
    assert rest.concentration == pytest.approx(1, abs=1e-12)


def test_stuart_landau_with_twisted_isochrons():
    """dz/dt = (1 + 2i) z - (1 + i/2) |z|^2 z: the cycle |z| = 1 turns at 3/2, and the phase is arg z - ln|z| / 2."""

    def field(z):
        size = z @ z
        return jnp.stack([z[0] - 2 * z[1] - size * (z[0] - 0.5 * z[1]), z[1] + 2 * z[0] - size * (z[1] + 0.5 * z[0])])

    cycle = rd.find_limit_cycle(field, np.array([1.0, 0.2]))
    assert cycle.period == pytest.approx(2 * np.pi / 1.5, rel=1e-10)
    found = rd.phase_response(field, cycle, np.array([0.3, 0.1]), phases=np.arange(16) / 16)
    z = cycle.points[::16] @ [1, 1j]
    phase = lambda z: np.angle(z) - 0.5 * np.log(np.abs(z))
    right = (phase(z + 0.3 + 0.1j) - phase(z)) / (2 * np.pi)
    np.testing.assert_allclose(wrapped(found.shifts - right), 0, atol=1e-7)


@pytest.mark.slow
def test_published_phase_code_network():
    """Mean shifts by an input of 5 held for two steps, one channel at a time: -.112, 1.902, -2.272 rad (published)."""
    data = np.load(Path(__file__).parent.parent / "data" / "phase_code_100.npz")
    weights, inputs, bias = (data[name].astype(float) for name in ("weight_hh", "weight_ih", "bias"))
    f = lambda x: jnp.tanh(weights @ x + bias)
    circle = rd.find_invariant_circle(f, np.full(100, 0.1), num_transient=8192, progress=False)
    assert circle.rotation_number == pytest.approx(0.031138569689905, abs=1e-12)
    # By plain NumPy: 2048 states of the orbit, pulsed, followed for 3000 steps, their phases read off the angle in the
    # plane of the two largest principal components by linear interpolation between 2048 states.
    by_numpy, published = (-0.1123, 1.9025, -2.2696), (-0.112, 1.902, -2.272)
    for channel in range(3):
        pulsed = lambda x, u=5 * inputs[:, channel]: jnp.tanh(weights @ x + bias + u)
        found = rd.phase_response(f, circle, lambda x, pulsed=pulsed: pulsed(pulsed(x)), duration=2)
        assert 2 * np.pi * found.mean_shift == pytest.approx(by_numpy[channel], abs=1e-3), channel
        # The published means are over the phases of simulated trials, here all phases count alike: the third differs.
        assert 2 * np.pi * found.mean_shift == pytest.approx(published[channel], abs=3e-3), channel


def test_what_does_not_come_back_is_nan(circle):
    found = rd.phase_response(clock, circle, np.array([100.0, 0.0]), phases=4, max_map_steps=64)
    assert np.isnan(found.shifts).all()
    assert not found.converged
    assert not np.any(is_verdict(found.result, rd.PhaseVerdict.returned))
    assert found.winding_number is None


def test_bad_arguments_are_refused(circle):
    with pytest.raises(ValueError, match="perturbation: expected finite numbers of shape"):
        rd.phase_response(clock, circle, np.zeros(3))
    with pytest.raises(ValueError, match="perturbation"):
        rd.phase_response(clock, circle, np.array([np.nan, 0]))
    with pytest.raises(ValueError, match="phases"):
        rd.phase_response(clock, circle, np.zeros(2), phases=np.array([np.nan]))
    with pytest.raises(ValueError, match="duration"):
        rd.phase_response(clock, circle, np.zeros(2), duration=-1)
    lost = rd.find_invariant_circle(lambda z: 0.5 * z, np.array([0.8, 0.1]), progress=False)
    with pytest.raises(ValueError, match="circle: expected one that was found"):
        rd.phase_response(clock, lost, np.zeros(2))

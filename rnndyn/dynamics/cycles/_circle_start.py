"""A first invariant circle from the frequencies of an orbit, for Newton's method to start from."""

from collections.abc import Callable

import numpy as np

from rnndyn.dynamics.cycles._circle_newton import Circle
from rnndyn.dynamics.numerics.birkhoff import bump_weights, fourier_averages, leading_frequencies, refined_frequency
from rnndyn.dynamics.numerics.evaluation import orbits_from


def first_circle(f: Callable, orbit: np.ndarray, max_modes: int) -> Circle | None:
    """The circle of the frequency, among the strongest and their halves and thirds, that explains the orbit best.

    The strongest line of a spectrum may be a harmonic of the rotation number.
    """
    lines = leading_frequencies(orbit, 3)
    if lines.size == 0:
        return None
    orbit, lines, stride = _spread_out(f, orbit, lines)
    guesses = [(line + turn) / part for line in lines for part in (1, 2, 3) for turn in range(part)]
    # A half of the right frequency explains as much: it must do clearly better to be preferred.
    # Below this the curve is a circle of few harmonics, and rounding would choose among its multiple covers.
    floor = 1e-10 * float(np.max(np.ptp(orbit, axis=0)))
    misfits = [
        max(_fit(orbit, stride * rho, 16)[1], floor) * (1 if order % 6 == 0 else 2) for order, rho in enumerate(guesses)
    ]
    rho = guesses[int(np.argmin(misfits))]
    amplitudes, misfit = _fit(orbit, stride * rho, 16)
    while 2 * (len(amplitudes) - 1) <= min(max_modes, len(orbit) // 16):
        more, lower = _fit(orbit, stride * rho, 2 * (len(amplitudes) - 1))
        if lower > 0.5 * misfit:
            break
        amplitudes, misfit = more, lower
    num = 4 * (len(amplitudes) - 1)
    padded = np.zeros((num // 2 + 1, orbit.shape[1]), complex)
    padded[: len(amplitudes)] = amplitudes
    return Circle(np.fft.irfft(padded, num, axis=0) * num, float(rho))


def _fit(orbit: np.ndarray, rho: float, num_modes: int) -> tuple[np.ndarray, float]:
    """Amplitudes of the orbit at the multiples of a frequency, and the root mean square of what they leave."""
    modes, steps = np.arange(num_modes + 1), np.arange(len(orbit))
    amplitudes = fourier_averages(orbit, rho * modes)
    waves = np.exp(2j * np.pi * rho * np.outer(steps, modes))
    waves[:, 1:] *= 2
    squares = np.sum((np.real(waves @ amplitudes) - orbit) ** 2, axis=1)
    # The averages see the middle of the orbit more than its ends.
    return amplitudes, float(np.sqrt(bump_weights(len(orbit)) @ squares))


def _spread_out(f: Callable, orbit: np.ndarray, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """An orbit of the same length that goes around the circle, with the number of steps between its points.

    Near a resonance q rho = m the points of a short orbit lie on q arcs, and harmonics q apart look alike. Every
    s-th point of a longer orbit turns s times as far, and tells the frequencies s times as accurately.
    """
    num_steps, size = orbit.shape
    orders = np.arange(1, 17)
    detuning = float(np.min(np.abs(orders * lines[0] - np.round(orders * lines[0]))))
    # Sixteen turns of the arcs separate the harmonics; 2^20 steps, or 128 MiB, are the limit.
    longest = min(2**20, 2**24 // size) // num_steps
    stride = int(min(np.ceil(16 / (num_steps * max(detuning, 1e-12))), longest))
    if stride <= 1:
        return orbit, lines, 1
    longer = np.asarray(orbits_from(f, orbit[-1:], stride * num_steps))[0, stride - 1 :: stride]
    refined = [line + (refined_frequency(longer, stride * line) - stride * line) / stride for line in lines]
    return longer, np.array(refined), stride

"""Sentences on how perturbations and gradients grow; see `_verdict.py` for what they all keep to."""

import math

from rnndyn.dynamics.growth.jacobian_products import MemoryHorizon
from rnndyn.dynamics.growth.lyapunov import LyapunovSpectrum
from rnndyn.portrait.sentences import Sentence, Strength

_SURE = 2.0
"""Standard errors that a sign has to be away from zero to be told."""


def spectrum_sentence(spectrum: LyapunovSpectrum, place: str) -> Sentence:
    """The exponents on an attractor that is neither point nor cycle."""
    first, error = float(spectrum.exponents[0]), float(spectrum.stderr[0])
    sure = bool(spectrum.converged)
    text = f"largest exponent {first:.4g} ± {error:.1g} nats per step"
    if not sure:
        claim, strength = f"The exponents did not converge ({text})", Strength.undecided
    else:
        claim, strength = text[0].upper() + text[1:], Strength.measured
        if bool(spectrum.is_zero[0]):
            claim += ", not distinguishable from zero"
    dimension = f"Kaplan-Yorke dimension {float(spectrum.kaplan_yorke_dimension):.3g} ± "
    dimension += f"{float(spectrum.kaplan_yorke_stderr):.1g}"
    return Sentence(
        "exponents",
        place,
        claim,
        f"{dimension}; {spectrum.message}",
        "one orbit; error bars of one standard error",
        strength,
    )


def conditional_sentence(spectrum: LyapunovSpectrum, drive: str) -> Sentence:
    """Whether the network forgets where it started when it is driven."""
    first, error = float(spectrum.exponents[0]), float(spectrum.stderr[0])
    evidence = f"largest conditional exponent {first:.4g} ± {error:.1g} nats per step; {spectrum.message}"
    scope = f"under {drive}, one sequence"
    if not bool(spectrum.converged) or not abs(first) > _SURE * error:
        claim = "Whether the driven network forgets its initial state is not settled"
        return Sentence("exponents", drive, claim, evidence, scope, Strength.undecided)
    if first < 0:
        claim = "Driven, it forgets its initial state: nearby states come together"
    else:
        claim = "Driven, it is chaotic: nearby states separate under the same input"
    return Sentence("exponents", drive, claim, evidence, scope, Strength.measured)


def memory_sentence(memory: MemoryHorizon, drive: str) -> Sentence:
    """How far back a gradient reaches."""
    far, rate = float(memory.horizon), float(memory.exponent)
    evidence = (
        f"growth rate of gradients {rate:.4g} ± {float(memory.exponent_stderr):.1g} nats per step; {memory.message}"
    )
    scope = f"under {drive}; the typical gradient of random losses, not of a particular one"
    known = str(memory.message).startswith("converged")
    if not math.isfinite(far):
        if math.isnan(far):
            return Sentence("memory", drive, "The reach of gradients is not known", evidence, scope, Strength.undecided)
        claim = f"Gradients do not fall to 1/e within {int(memory.lags[-1])} steps"
        return Sentence("memory", drive, claim, evidence, scope, Strength.measured if known else Strength.undecided)
    beyond = " (extrapolated)" if bool(memory.extrapolated) else ""
    claim = f"A typical gradient has fallen to 1/e after {far:.3g} steps back{beyond}"
    return Sentence("memory", drive, claim, evidence, scope, Strength.measured if known else Strength.undecided)

"""What a portrait says: claims in words, each with its evidence, its scope, and how strong it is."""

import equinox as eqx

from rnndyn.results import Result


class Strength(eqx.Enumeration):
    """How much stands behind a sentence; `Strength[strength]` is the message.

    - `proved`: by interval arithmetic, all rounding errors included.
    - `measured`: a number with its residual or error bar.
    - `sampled`: true of the states that were tried; others may differ.
    - `undecided`: the evidence does not settle it.
    """

    proved = "proved: by interval arithmetic, all rounding errors included"
    measured = "measured: with a residual or an error bar"
    sampled = "sampled: true of the states that were tried"
    undecided = "undecided: the evidence does not settle it"


class Sentence(Result):
    """One claim of a portrait.

    - `topic`: what it is about: `"fixed points"`, `"attractors"`, `"time constants"`, `"slow manifold"`, `"cycles"`,
        `"exponents"` or `"memory"`.
    - `place`: under which input it holds, in words.
    - `claim`: what is claimed.
    - `evidence`: what the claim rests on, with numbers.
    - `scope`: what the evidence does not cover.
    - `strength`: how much that is.
    """

    topic: str
    place: str
    claim: str
    evidence: str
    scope: str
    strength: Strength

    @property
    def strength_name(self) -> str:
        """`"proved"`, `"measured"`, `"sampled"` or `"undecided"`."""
        return strength_name(self.strength)

    def table(self) -> str:
        rest = "; ".join(part for part in (self.evidence, self.scope) if part)
        return f"{self.claim}. [{self.strength_name}] {rest}."


def strength_name(strength: Strength) -> str:
    """The first word of the message of a `Strength`."""
    return str(Strength[strength]).partition(":")[0]

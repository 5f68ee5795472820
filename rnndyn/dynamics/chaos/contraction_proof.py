"""What was proved of the contraction of a driven map, or what stood in the way."""

from typing import Any

import numpy as np
from jaxtyping import Float

from rnndyn._verdicts import verdict_words
from rnndyn.dynamics.chaos.verdicts import ContractionVerdict
from rnndyn.results import Judged, is_verdict


class ContractionProof(Judged):
    """What was proved of the contraction of a driven map.

    **Fields:**

    - `rate`: rho, per step; at least 1 or infinite where nothing is proved. log rho bounds the conditional exponents.
    - `margin`: by which share the rate lies above what the matrix inequality gives without rounding, so that an
      independent evaluation can show it.
    - `metric` P (N, N) and `multipliers` of the gains (m,).
    - `center` (N,), `reach` (N,): the box of states c ± reach, or the box around the ellipsoid.
    - `generators` G (N, M): what the inputs of the last steps have done, one column for each input and step.
    - `axes` A (N, N): slopes were bounded on the set c + G w + A y, |w_k| <= 1, |y| <= 1; no columns for a box.
      `radius`: the tube of all c + G w + d with |d|_P <= radius is kept; infinite for a box.
    - `lower`, `upper`: the box of inputs. `counterexample`: an input (I,) that, held, lets nearby states separate,
      those that it leads to or those near one that it keeps, or no entries. `reason`: what stood in the way.
    - `core`: where every state of a box contracts, the proof of a smaller rate in a tube that is kept: every
      trajectory approaches those in it. `None` where there is none.
    """

    rate: float
    margin: float
    metric: Float[np.ndarray, "N N"]
    multipliers: Float[np.ndarray, " m"]
    center: Float[np.ndarray, " N"]
    reach: Float[np.ndarray, " N"]
    generators: Float[np.ndarray, "N M"]
    axes: Float[np.ndarray, "N _"]
    radius: float
    lower: Float[np.ndarray, " I"]
    upper: Float[np.ndarray, " I"]
    counterexample: Float[np.ndarray, " _"]
    result: ContractionVerdict
    reason: str
    core: "ContractionProof | None"

    @property
    def exponent_bound(self) -> float:
        """An upper bound of every conditional exponent: the log of the rate, in the core where there is one."""
        return float(np.log(self.rate if self.core is None else self.core.rate))

    @property
    def proved(self) -> bool:
        """Whether every input of the box contracts."""
        return bool(is_verdict(self.result, ContractionVerdict.everywhere, ContractionVerdict.in_tube))

    def table(self) -> str:
        if not self.proved:
            return f"ContractionProof: {self.reason}"
        where = f"a tube of radius {self.radius:.3g} (P)" if np.isfinite(self.radius) else "every state of the box"
        return (
            "ContractionProof: every input of the box contracts\n"
            f"  rate                        {self.rate:.6f} a step\n"
            f"  largest conditional exponent <= {self.exponent_bound:.4f}\n"
            f"  for                         {where}"
        )


def refused(
    size: int, low: np.ndarray, high: np.ndarray, bad: np.ndarray, verdict: Any, numbers: str
) -> ContractionProof:
    """Nothing is proved: the verdict, and the numbers of the case."""
    none, flat = np.zeros(size), np.zeros((size, 0))
    return ContractionProof(
        rate=np.inf,
        margin=0.0,
        metric=np.zeros((size, size)),
        multipliers=np.zeros(0),
        center=none,
        reach=none,
        generators=flat,
        axes=flat,
        radius=np.inf,
        lower=low,
        upper=high,
        counterexample=bad,
        result=verdict,
        reason=f"{verdict_words(verdict)}{numbers}",
        core=None,
    )

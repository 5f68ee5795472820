"""What was proved of the chaos of a map, or what stood in the way."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from rnndyn._verdicts import verdict_words
from rnndyn.dynamics.chaos.verdicts import HorseshoeVerdict
from rnndyn.results import Judged, is_verdict


class ChaosProof(Judged):
    """What was proved of the chaos of a map.

    **Fields:**

    - `entropy_bound`: a lower bound of the topological entropy (nats a step); 0 where nothing is proved.
    - `exponent_bound`: a lower bound of the largest Lyapunov exponent of every orbit in the horseshoe, from cones that
      every step maps into one another; 0 where the cones do not show it.
    - `cones` (M,): the slopes k of the cones |q| <= k |p| of each set; NaN where there are none.
    - `centers` (M, N), `axes` (M, N, N): the h-sets c + A z. `num_unstable`: u.
    - `edges` (E, 2): the covering relations, from set to set; `expansions`, `contractions` (E,): claimed bounds of
      |p'| on |p| = 1 from below, of |q'| from above; `growths` (E,): of |p'| / |p| on the cones, from below (-inf
      where there are no cones).
    - `margins` (E, 3): by how much these claims are weaker than what their formulas give without rounding: at least
      what outward rounding took from the proof several times over, so that an independent evaluation can show them.
    - `num_pieces` (M,): into how many pieces each set was cut to show them.
    - `saddle`: the points (p, N) of the saddle, first sets of all; `loop_lengths`: steps from the saddle and back.
    - `result`, a `HorseshoeVerdict`, and `reason`: what stood in the way, with the numbers of the case.
    """

    entropy_bound: float
    exponent_bound: float
    cones: Float[np.ndarray, " M"]
    num_unstable: int
    saddle: Float[np.ndarray, "p N"]
    loop_lengths: Int[np.ndarray, " L"]
    centers: Float[np.ndarray, "M N"]
    axes: Float[np.ndarray, "M N N"]
    num_pieces: Int[np.ndarray, " M"]
    edges: Int[np.ndarray, "E 2"]
    expansions: Float[np.ndarray, " E"]
    contractions: Float[np.ndarray, " E"]
    growths: Float[np.ndarray, " E"]
    margins: Float[np.ndarray, "E 3"]
    result: HorseshoeVerdict
    reason: str

    @property
    def proved(self) -> bool:
        """Whether there is a horseshoe."""
        return bool(is_verdict(self.result, HorseshoeVerdict.horseshoe))

    def table(self) -> str:
        if not self.proved:
            return f"ChaosProof: {self.reason}"
        exponent = f">= {self.exponent_bound:.4f}" if self.exponent_bound > 0 else "open"
        return (
            "ChaosProof: a horseshoe exists\n"
            f"  topological entropy   >= {self.entropy_bound:.4f} nats a step\n"
            f"  largest exponent on it   {exponent}\n"
            f"  saddle                   period {len(self.saddle)}, {self.num_unstable} unstable\n"
            f"  loops                    {', '.join(map(str, self.loop_lengths))} steps, "
            f"{len(self.centers)} sets, {len(self.edges)} covering relations"
        )


def refused(verdict: Any, size: int, numbers: str) -> ChaosProof:
    """Nothing is proved: the verdict, and the numbers of the case."""
    none, zero = np.zeros((0, size)), np.zeros(0)
    return ChaosProof(
        entropy_bound=0.0,
        exponent_bound=0.0,
        cones=zero,
        num_unstable=0,
        saddle=none,
        loop_lengths=np.zeros(0, int),
        centers=none,
        axes=np.zeros((0, size, size)),
        num_pieces=np.zeros(0, int),
        edges=np.zeros((0, 2), int),
        expansions=zero,
        contractions=zero,
        growths=zero,
        margins=np.zeros((0, 3)),
        result=verdict,
        reason=f"{verdict_words(verdict)}: {numbers}",
    )

"""How a flow is integrated: by which solver, to which tolerances, in how many steps."""

from typing import Any

import diffrax
import equinox as eqx


class Method(eqx.Module):
    """How to integrate: a diffrax solver, or by default the method of Dormand & Prince and, from where that has used up
    its steps, extrapolation of the linearly implicit Euler method, for stiff systems.

    Tolerances are per step and component; `atol` is one number or one for each component. `num_probes` tangent vectors
    go along where only the state is asked for: without them, nothing keeps the steps short beside an equilibrium, where
    the computed map is then not the flow but whatever such steps make of it. `reverse` asks for loops
    that can be differentiated backwards.
    """

    solver: diffrax.AbstractSolver | None
    rtol: Any
    atol: Any
    max_steps: int = eqx.field(static=True)
    num_probes: int = eqx.field(static=True, default=2)
    reverse: bool = eqx.field(static=True, default=False)

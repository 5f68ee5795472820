"""What comparisons of dynamics say of themselves."""

import equinox as eqx


class DimensionVerdict(eqx.Enumeration):
    """Whether a correlation dimension can be believed; `DimensionVerdict[result]` is the message."""

    converged = "converged"
    discrete = "discrete: a finite set of points (a fixed point, or a cycle of a map), of dimension 0"
    no_scaling = "no scaling: under two octaves of radii hold enough pairs; take a longer series"
    not_finite = "not finite: the series holds NaN or infinity"

"""What comparisons of dynamics say of themselves."""

import equinox as eqx


class DimensionVerdict(eqx.Enumeration):
    """Whether a correlation dimension can be believed; `DimensionVerdict[result]` is the message."""

    converged = "converged"
    discrete = "discrete: a finite set of points (a fixed point, or a cycle of a map), of dimension 0"
    no_scaling = "no scaling: under two octaves of radii hold enough pairs; take a longer series"
    not_finite = "not finite: the series holds NaN or infinity"


class LikenessVerdict(eqx.Enumeration):
    """Whether a copy differs from its system in one measure; `LikenessVerdict[result]` is the message."""

    identical = "as good as identical: within two spreads of what the system shows against itself"
    different = "different: more than four spreads beyond what the system shows against itself"
    undecided = "undecided: between two and four spreads; take longer runs"
    not_measured = "not measured"


class CopyVerdict(eqx.Enumeration):
    """What the runs of a copy come to; `CopyVerdict[result]` is the message."""

    in_range = "stays where its system is"
    diverges = "diverges: a run leaves the range of its system a hundredfold, or the floating-point range"
    settles = "settles: its runs end on points, those of its system do not"


class KoopmanVerdict(eqx.Enumeration):
    """Whether an eigenvalue of a matrix is one of the dynamics; `KoopmanVerdict[result]` is the message."""

    resolved = "resolved: its eigenfunction obeys its equation within the tolerance"
    spurious = "spurious: its eigenfunction misses its equation by more than the tolerance"

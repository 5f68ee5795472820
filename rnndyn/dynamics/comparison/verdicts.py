"""What comparisons of dynamics say of themselves."""

import equinox as eqx


class DimensionVerdict(eqx.Enumeration):
    """Whether a correlation dimension can be believed; `DimensionVerdict[result]` is the message.

    - `converged`: at least two octaves of radii hold enough pairs, and the dimension is their slope.
    - `discrete`: the series visits finitely many points, and its dimension is 0 without any slope.
    - `no_scaling`: there is no such range of radii. Take a longer series, or one with less noise.
    - `not_finite`: the series holds NaN or infinity. Look at where it comes from; the dimension is NaN.
    """

    converged = "converged"
    discrete = "discrete: a finite set of points (a fixed point, or a cycle of a map), of dimension 0"
    no_scaling = "no scaling: under two octaves of radii hold enough pairs; take a longer series"
    not_finite = "not finite: the series holds NaN or infinity"


class LikenessVerdict(eqx.Enumeration):
    """Whether a copy differs from its system in one measure; `LikenessVerdict[result]` is the message.

    The null of a measure is the system against itself (other starts, two halves), its spread the standard deviation.

    - `identical`: no further from the system than two spreads beyond the null. It is no proof: longer runs see more.
    - `different`: beyond four spreads.
    - `undecided`: in between. Take longer runs, or more of them.
    - `not_measured`: the measure does not exist for what was given (exponents of a recorded series, for one); the row
        says why.
    """

    identical = "as good as identical: within two spreads of what the system shows against itself"
    different = "different: more than four spreads beyond what the system shows against itself"
    undecided = "undecided: between two and four spreads; take longer runs"
    not_measured = "not measured"


class CopyVerdict(eqx.Enumeration):
    """What the runs of a copy come to; `CopyVerdict[result]` is the message.

    - `in_range`: they stay where the system's states are; the measures mean what they say.
    - `diverges`: a run leaves that range a hundredfold or overflows. The numbers of the measures are finite
        all the same; what cannot be measured of such runs is `None`.
    - `settles`: its runs end on points, and those of the system do not.
    """

    in_range = "stays where its system is"
    diverges = "diverges: a run leaves the range of its system a hundredfold, or the floating-point range"
    settles = "settles: its runs end on points, those of its system do not"


class KoopmanVerdict(eqx.Enumeration):
    """Whether an eigenvalue of a matrix is one of the dynamics; `KoopmanVerdict[result]` is the message.

    - `resolved`: the eigenfunction obeys its equation on the data, to the tolerance that was asked for.
    - `spurious`: it does not: an eigenvalue of the matrix alone. Take more data, more delays, or do not read it.

    Reference: M. J. Colbrook & A. Townsend (2024), "Rigorous data-driven computation of spectral properties of Koopman
    operators for dynamical systems".
    """

    resolved = "resolved: its eigenfunction obeys its equation within the tolerance"
    spurious = "spurious: its eigenfunction misses its equation by more than the tolerance"

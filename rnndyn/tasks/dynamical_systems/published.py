"""What others have published about a system, with how far it can be trusted."""

from typing import NamedTuple


class Published(NamedTuple):
    """Invariants of a system at its default parameters, per unit of time (per step, for a map)."""

    exponents: tuple[float, ...]
    """Lyapunov exponents, descending; all of them, or the first ones."""
    tolerance: float
    """By how much each may be off: the digits that were printed, or what their author says."""
    source: str
    """Who published them; or that nobody did, and how they were computed. Those of Sprott (2003) are of his appendix of
    common chaotic systems, quoted from memory; the tests compute each anew, to `tolerance` and some standard errors."""
    kaplan_yorke_dimension: float | None = None
    """The Kaplan-Yorke dimension, where it was published or all exponents were."""
    dimension_tolerance: float | None = None
    """By how much that may be off."""

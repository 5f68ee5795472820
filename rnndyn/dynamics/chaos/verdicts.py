"""What the proofs of chaos and of contraction say they have shown, or what stood in the way."""

import equinox as eqx


class HorseshoeVerdict(eqx.Enumeration):
    """Whether a horseshoe was proved; `HorseshoeVerdict[result]` is the message.

    Proved:

    - `horseshoe`: covering relations hold whose graph has positive entropy.

    Not proved, and nothing is disproved by it:

    - `no_saddle`: no hyperbolic fixed point or cycle with an unstable direction lies near the states.
    - `no_return`: the states never come back to a saddle that they left. So it is for orbits that settle on a fixed
      point, cycle or circle.
    - `not_transversal`: they do, but no orbit that leaves a saddle and comes back to it was found by Newton's method,
      or where one was, its stable and unstable directions are too nearly parallel.
    - `not_closed`: homoclinic orbits were found, but sets around none of them cover one another.
    - `not_known`: the map has no interval enclosure where it is needed: a jump, or an operation that leaves its domain.
    """

    horseshoe = "proved: a horseshoe, with positive topological entropy"
    no_saddle = "not proved: no saddle point or cycle was found near the states"
    no_return = "not proved: the states do not come back to a saddle after leaving it"
    not_transversal = "not proved: no transversal homoclinic orbit was found"
    not_closed = "not proved: the sets around the homoclinic orbits found do not cover one another"
    not_known = "not proved: the map has no interval enclosure around its saddles"


class ContractionVerdict(eqx.Enumeration):
    """Whether contraction was proved; `ContractionVerdict[result]` is the message.

    Proved:

    - `everywhere`: for every state of the region.
    - `in_tube`: for every state in a tube, an ellipsoid about what the last inputs do, that no input leads out of.

    Not proved:

    - `counterexample`: disproved: an input in the box was found under which nearby states separate.
    - `open`: neither proof nor counterexample was found.
    """

    everywhere = "proved: every input of the box contracts, from every state of the region"
    in_tube = "proved: every input of the box contracts, from every state of a tube that it never leaves"
    counterexample = "not proved: an input of the box under which nearby states separate was found"
    open = "not proved: no metric was found in which every input of the box contracts"

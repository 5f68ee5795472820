"""What a proof about all strings came to."""

import equinox as eqx


class AutomatonVerdict(eqx.Enumeration):
    """Whether a network was proved to be an automaton; `AutomatonVerdict[result]` is the message.

    - `certified`: proved, for every string of every length.
    - `refuted`: a string was found that the two answer differently; `counterexample` has it.

    Not proved, and nothing is disproved by it:

    - `near_threshold`: already a single state, or the smallest set tried, reaches the readout's threshold.
    - `not_closed`: the sets could not be closed under all symbols with so many sets or so long suffixes.
    - `out_of_time`: the budget was spent first.
    - `unknown_values`: the map is NaN, infinite, may jump or may leave its domain somewhere on the sets.
    """

    certified = "certified: the network answers every string as the automaton does"
    refuted = "refuted: there is a string that the network and the automaton answer differently"
    near_threshold = "not certified: a set of states reaches the threshold of the readout"
    not_closed = "not certified: the sets of states could not be closed under all symbols"
    out_of_time = "not certified: the budget was spent before the sets were closed"
    unknown_values = "not certified: the map is not known to be finite and continuous on the sets"

"""Which automaton is a driven network, on every string?"""

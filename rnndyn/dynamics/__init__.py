"""Wing 2: what a map does. Any callable `x -> F(x)` on a state `(N,)` will do."""

"""What comes back: cycles of maps, invariant circles, limit cycles of flows."""

"""rnndyn: recurrent neural networks as dynamical systems."""

from rnndyn.results import Result as Result
from rnndyn.results import load as load

__version__ = "0.1.0"

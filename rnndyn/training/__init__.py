"""Training: the fit loop, ensembles, losses, data, checkpoints."""

from rnndyn.training.checkpoint import load_model as load_model
from rnndyn.training.checkpoint import save_model as save_model
from rnndyn.training.ensemble import EnsembleFitResult as EnsembleFitResult
from rnndyn.training.ensemble import fit_ensemble as fit_ensemble
from rnndyn.training.fit import DivergenceError as DivergenceError
from rnndyn.training.fit import FitResult as FitResult
from rnndyn.training.fit import fit as fit
from rnndyn.training.history import History as History
from rnndyn.training.losses import mean_squared_error as mean_squared_error
from rnndyn.training.losses import over_trials as over_trials
from rnndyn.training.losses import sigmoid_cross_entropy as sigmoid_cross_entropy
from rnndyn.training.losses import softmax_cross_entropy as softmax_cross_entropy
from rnndyn.training.minibatches import Minibatches as Minibatches

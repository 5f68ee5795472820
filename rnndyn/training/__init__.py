"""Training: the fit loop, ensembles, losses, data, checkpoints."""

from rnndyn.training.checkpoint import load_model as load_model
from rnndyn.training.checkpoint import save_model as save_model
from rnndyn.training.ensemble import EnsembleDivergenceError as EnsembleDivergenceError
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
from rnndyn.training.padding import length_mask as length_mask
from rnndyn.training.padding import pad_sequences as pad_sequences
from rnndyn.training.teacher_forcing import generalized_teacher_forcing as generalized_teacher_forcing
from rnndyn.training.teacher_forcing import inverse_sigmoid_decay as inverse_sigmoid_decay
from rnndyn.training.teacher_forcing import nearest_state as nearest_state
from rnndyn.training.teacher_forcing import scheduled_sampling as scheduled_sampling
from rnndyn.training.teacher_forcing import with_step as with_step
from rnndyn.training.truncated import Window as Window
from rnndyn.training.truncated import Windows as Windows
from rnndyn.training.truncated import start_states as start_states
from rnndyn.training.truncated import truncated_bptt as truncated_bptt

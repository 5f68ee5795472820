"""Tasks: functions of a key that make a trial (inputs, targets, mask), batches of trials, and a registry."""

from rnndyn.tasks import dynamical_systems as dynamical_systems
from rnndyn.tasks.adding import adding as adding
from rnndyn.tasks.batching import TrialBatches as TrialBatches
from rnndyn.tasks.batching import batches as batches
from rnndyn.tasks.context_integration import context_integration as context_integration
from rnndyn.tasks.delayed_copy import delayed_copy as delayed_copy
from rnndyn.tasks.flip_flop import flip_flop as flip_flop
from rnndyn.tasks.negation import negation as negation
from rnndyn.tasks.registry import TASKS as TASKS
from rnndyn.tasks.registry import Task as Task
from rnndyn.tasks.registry import find_task as find_task
from rnndyn.tasks.ring_rules import RING_RULES as RING_RULES
from rnndyn.tasks.ring_rules import ring_rules as ring_rules
from rnndyn.tasks.sine_wave import sine_wave as sine_wave
from rnndyn.tasks.text import Text as Text
from rnndyn.tasks.text import TextPart as TextPart
from rnndyn.tasks.text import read_text as read_text
from rnndyn.tasks.text_baselines import TextBaselines as TextBaselines
from rnndyn.tasks.text_baselines import text_baselines as text_baselines
from rnndyn.tasks.text_integration import text_integration as text_integration
from rnndyn.tasks.trial import Trial as Trial

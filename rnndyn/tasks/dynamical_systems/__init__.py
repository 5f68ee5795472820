"""Dynamical systems to learn from: vector fields and maps samples of them, and series of your own."""

from rnndyn.tasks.dynamical_systems.bursting_neuron import HindmarshRose as HindmarshRose
from rnndyn.tasks.dynamical_systems.circuits import Chua as Chua
from rnndyn.tasks.dynamical_systems.double_pendulum import DoublePendulum as DoublePendulum
from rnndyn.tasks.dynamical_systems.lorenz import Lorenz63 as Lorenz63
from rnndyn.tasks.dynamical_systems.lorenz import Lorenz96 as Lorenz96
from rnndyn.tasks.dynamical_systems.mackey_glass import MackeyGlass as MackeyGlass
from rnndyn.tasks.dynamical_systems.oscillators import Duffing as Duffing
from rnndyn.tasks.dynamical_systems.oscillators import VanDerPol as VanDerPol
from rnndyn.tasks.dynamical_systems.planar_maps import Henon as Henon
from rnndyn.tasks.dynamical_systems.planar_maps import Ikeda as Ikeda
from rnndyn.tasks.dynamical_systems.published import Published as Published
from rnndyn.tasks.dynamical_systems.reading import read_series as read_series
from rnndyn.tasks.dynamical_systems.rossler import Rossler as Rossler
from rnndyn.tasks.dynamical_systems.sampling import sample_system as sample_system
from rnndyn.tasks.dynamical_systems.series import Series as Series
from rnndyn.tasks.dynamical_systems.series import Standardization as Standardization
from rnndyn.tasks.dynamical_systems.series import as_series as as_series
from rnndyn.tasks.dynamical_systems.stretches import Stretches as Stretches
from rnndyn.tasks.dynamical_systems.windows import SeriesWindows as SeriesWindows

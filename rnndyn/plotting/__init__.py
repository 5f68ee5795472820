"""Results in, matplotlib Axes out. Nothing else in rnndyn imports this, so matplotlib is loaded only when asked for."""

from rnndyn.plotting.bifurcations import BIFURCATION_COLORS as BIFURCATION_COLORS
from rnndyn.plotting.bifurcations import BIFURCATION_MARKERS as BIFURCATION_MARKERS
from rnndyn.plotting.bifurcations import plot_bifurcation_curves as plot_bifurcation_curves
from rnndyn.plotting.bifurcations import plot_bifurcation_diagram as plot_bifurcation_diagram
from rnndyn.plotting.bifurcations import plot_orbit_diagram as plot_orbit_diagram
from rnndyn.plotting.cycles import plot_cycles as plot_cycles
from rnndyn.plotting.cycles import plot_invariant_circle as plot_invariant_circle
from rnndyn.plotting.fixed_points import STABILITY_COLORS as STABILITY_COLORS
from rnndyn.plotting.fixed_points import STABILITY_MARKERS as STABILITY_MARKERS
from rnndyn.plotting.fixed_points import plot_fixed_points as plot_fixed_points
from rnndyn.plotting.lyapunov import plot_convergence as plot_convergence
from rnndyn.plotting.lyapunov import plot_exponents_against as plot_exponents_against
from rnndyn.plotting.lyapunov import plot_local_exponents as plot_local_exponents
from rnndyn.plotting.lyapunov import plot_spectrum as plot_spectrum
from rnndyn.plotting.multipliers import plot_multipliers as plot_multipliers
from rnndyn.plotting.phase_portrait import plot_phase_portrait as plot_phase_portrait
from rnndyn.plotting.projection import Projection as Projection
from rnndyn.plotting.projection import principal_components as principal_components
from rnndyn.plotting.slow_points import plot_line_attractor as plot_line_attractor
from rnndyn.plotting.slow_points import plot_speed as plot_speed
from rnndyn.plotting.style import COLORS as COLORS
from rnndyn.plotting.style import COLUMN_WIDTH as COLUMN_WIDTH
from rnndyn.plotting.style import PAGE_WIDTH as PAGE_WIDTH
from rnndyn.plotting.style import paper_style as paper_style
from rnndyn.plotting.training import plot_training as plot_training

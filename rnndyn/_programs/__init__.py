"""The one door for callables: what is given becomes a program, shared by all that are alike, and its constants.

`program` turns a callable into a `Program`; `capture` finds the arrays that a callable holds; `fingerprint` tells
whether its trace is known already; `hoisting` makes leaves of the constants that a trace finds; `structure` says when
two programs are the same; `precision` finds a program that computes in float32 by itself; `exact_slopes` keeps the
digits of saturated units; `jacobian` has the derivative as a matrix; `families` makes one of several programs.
`compiled` compiles a function of programs, and `recent` bounds how many are kept.
"""

from rnndyn._programs.compiling import compiled as compiled
from rnndyn._programs.exact_slopes import with_exact_slopes as with_exact_slopes
from rnndyn._programs.families import member as member
from rnndyn._programs.families import stacked as stacked
from rnndyn._programs.jacobian import value_and_jacobian as value_and_jacobian
from rnndyn._programs.program import Program as Program
from rnndyn._programs.program import as_program as as_program

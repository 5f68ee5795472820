"""Networks saved as plain matrices: `W_rec`, `W_in`, `b_rec`, a leak, masks and the signs of Dale's law."""

import re
from typing import Any

import numpy as np

from rnndyn.interop import _cells
from rnndyn.interop._layers import Choices, FoundCell, FoundLayer, cell_word
from rnndyn.interop._linear import matrix_readout
from rnndyn.interop._pytorch_names import activation_name
from rnndyn.interop._signs import Matrices, Signs
from rnndyn.interop._tensors import StoredTensor, Tensors
from rnndyn.networks.cells.leaky import LeakyCell

_RECURRENT = ("W_rec", "Wrec", "w_rec", "W_hh", "weight_hh", "weight_hh_l0", "J")
_INPUT = ("W_in", "Win", "w_in", "W_ih", "weight_ih", "weight_ih_l0", "B")
_BIAS = ("b_rec", "brec", "b_hh", "bias", "b", "b_h")
_MASKS = ("rec_connectivity", "mask", "rec_mask", "mask_rec", "M_rec", "Mrec")
_INPUT_MASKS = ("input_connectivity", "input_mask", "mask_in", "M_in", "Min")
_SIGNS = ("Dale_rec", "ei", "signs", "dale")
_TIMES = ("alpha", "dt", "tau")
_MAY_BE_BIAS = re.compile(r"^(b|b[_\d].*|b(rec|in|hh|ih|h)|.*bias.*)$", re.I)
# Torch's names mean a vanilla network where nothing speaks of a leak. Others have to be told.
_VANILLA_NAMES = ("weight_hh", "W_hh", "weight_hh_l0")


def matrix_layers(tensors: Tensors, choices: Choices) -> list[FoundLayer]:
    """Networks of plain matrices, one for each prefix (`name/W_rec`)."""
    prefixes = dict.fromkeys(_prefix(name) for name in tensors)
    found = (_layer(prefix, tensors, choices) for prefix in prefixes)
    return [layer for layer in found if layer is not None]


def _prefix(name: str) -> str:
    cut = max(name.rfind("/"), name.rfind("."))
    return name[: cut + 1]


def _layer(prefix: str, tensors: Tensors, choices: Choices) -> FoundLayer | None:
    asked = cell_word(choices.cell)
    if asked not in (None, "leaky", "vanilla"):
        return None
    get = lambda names: next((tensors[prefix + n] for n in names if prefix + n in tensors), None)
    recurrent, input = get(_RECURRENT), get(_INPUT)
    w, u = tensors.get(prefix + "W"), tensors.get(prefix + "U")
    has_leak = any(t is not None for t in (get(_TIMES), choices.alpha, choices.dt))
    if recurrent is None:
        if w is None or len(w.shape) != 2:
            return None
        recurrent, input = w, input if input is not None else u
        if u is not None and _is_square(u) and (not _is_square(w)):
            recurrent, input = u, w
    elif recurrent.name.removeprefix(prefix) in _VANILLA_NAMES and asked is None and not has_leak:
        return None  # those of PyTorch, which _pytorch_names reads
    if not _is_square(recurrent):
        return None
    name, kind = prefix.rstrip("./") or "network", asked or ("leaky" if has_leak else "recurrent matrices")
    sides = tuple(tensors[prefix + n] for n in _side_names(recurrent, prefix) if prefix + n in tensors)
    single = get(_BIAS)
    found = Matrices(
        recurrent=recurrent,
        input=input,
        biases=sides or (() if single is None else (single,)),
        mask=get(_MASKS),
        input_mask=get(_INPUT_MASKS),
        signs=get(_SIGNS),
        times={n: tensors[prefix + n] for n in _TIMES if prefix + n in tensors},
        activation=get(("activation", "nonlinearity", "transfer_function")),
    )
    try:
        return _recognise(name, kind, prefix, found, tensors, choices, ambiguous=w is not None and u is not None)
    except ValueError as error:
        return FoundLayer(name, "plain matrices", kind, used=found.used, refusal=str(error))


def _recognise(
    name: str, kind: str, prefix: str, found: Matrices, tensors: Tensors, choices: Choices, *, ambiguous: bool
) -> FoundLayer:
    size = found.recurrent.shape[0]
    if kind not in ("leaky", "vanilla"):
        raise ValueError(
            "these matrices do not tell the equation. Pass cell='leaky' with alpha= (or dt= and tau=), or "
            "cell='vanilla'."
        )
    if found.input is not None and ambiguous and found.recurrent.shape == found.input.shape:
        raise ValueError(
            f"W and U both have shape {found.input.shape}: rename the recurrent one W_rec, the other W_in."
        )
    input_size = _input_size(found.input, size)
    for bias in found.biases:
        if _vector(bias) != size:
            raise ValueError(f"{bias.name}: expected shape ({size},), got {bias.shape}.")
    _refuse_second_bias(found, tensors, prefix, size)
    activation = choices.activation
    assumed = []
    if activation is None and found.activation is not None:
        activation = found.activation.text()
    if activation is None:
        assumed.append(_cells.TANH_ASSUMED)
    signs = Signs(found, tensors, prefix, choices.dale)
    assumed += signs.notes
    if kind == "leaky":
        dt, tau, variant = _leak(found.times, choices)
        form = choices.state_variable or "current"
        if form not in ("rate", "current"):
            raise ValueError(f"state_variable: expected 'rate' or 'current', got {form!r}.")
        if choices.state_variable is None:
            assumed.append(
                "the state is the current, x' = (1 - a) x + a (W f(x) + W_in u + b); pass state_variable='rate' for "
                "r' = (1 - a) r + a f(W r + W_in u + b)"
            )
        variant += f", state is the {form}, nonlinearity {activation_name(activation)}"
    else:
        dt, tau, form = 1.0, 1.0, None
        variant = f"nonlinearity {activation_name(activation)}"

    def build() -> Any:
        weight_hh = signs.recurrent(found.recurrent.numbers())
        weight_ih = np.zeros((size, 0)) if found.input is None else signs.input(found.input.numbers().reshape(size, -1))
        bias = sum((bias.numbers().reshape(-1) for bias in found.biases), np.zeros(size))
        if form is None:
            return _cells.vanilla(weight_ih, weight_hh, bias, activation)
        return LeakyCell.from_weights(
            weight_ih, weight_hh, bias, dt=dt, tau=tau, activation=activation or "tanh", state_variable=form
        )

    readout = matrix_readout(tensors, prefix, size)
    return FoundLayer(
        name,
        "plain matrices",
        kind,
        {"forward": (FoundCell(input_size, size, build, found.used),)},
        variant=variant + signs.words,
        biases=" + ".join(bias.name for bias in found.biases) or "none in the weights: zeros",
        assumed=tuple(assumed),
        extras={} if readout is None else {"readout": signs.readout(readout, tensors, prefix)},
    )


def _refuse_second_bias(found: Matrices, tensors: Tensors, prefix: str, size: int) -> None:
    """Raise for a vector that may be a bias and is none of those that are read: it would silently be left out."""
    for name, tensor in tensors.items():
        rest = name.removeprefix(prefix)
        may_be_bias = name.startswith(prefix) and _MAY_BE_BIAS.match(rest) and "out" not in rest and "read" not in rest
        if may_be_bias and _vector(tensor) == size and name not in found.used:
            known = ", ".join(bias.name for bias in found.biases) or "none"
            raise ValueError(
                f"{name} may be a bias, beside those that are read ({known}). Add them up as b_rec, or leave it out."
            )


def _side_names(recurrent: StoredTensor, prefix: str) -> tuple[str, ...]:
    """The two biases of PyTorch, which add up, where the matrices have its names."""
    own = recurrent.name.removeprefix(prefix)
    if own == "W_hh":
        return "b_ih", "b_hh"
    ending = own.removeprefix("weight_hh") if own.startswith("weight_hh") else None
    return () if ending is None else ("bias_ih" + ending, "bias_hh" + ending)


def _is_square(tensor: StoredTensor) -> bool:
    return len(tensor.shape) == 2 and tensor.shape[0] == tensor.shape[1]


def _vector(tensor: StoredTensor) -> int | None:
    """The length of a vector, also of one that MATLAB keeps as a row or column."""
    sides = [n for n in tensor.shape if n != 1]
    return (sides[0] if sides else 1) if len(sides) <= 1 and tensor.shape else None


def _input_size(input: StoredTensor | None, size: int) -> int:
    if input is None:
        return 0
    if len(input.shape) == 1 and input.shape[0] == size:
        return 1
    if len(input.shape) != 2 or input.shape[0] != size:
        raise ValueError(
            f"{input.name}: expected shape ({size}, I), rows out and columns in, got {input.shape}. If the network "
            "computes u @ W, transpose it, and the recurrent matrix too where the state stands on its left."
        )
    return input.shape[1]


def _leak(times: dict[str, StoredTensor], choices: Choices) -> tuple[float, Any, str]:
    """`dt`, `tau` and words for the leak; what the caller says goes before what lies in the file."""
    alpha, dt, tau = choices.alpha, choices.dt, choices.tau
    if alpha is not None and (dt is not None or tau is not None):
        raise ValueError("alpha: is dt / tau; give alpha=, or dt= and tau=, not all of them.")
    if alpha is None and dt is None and tau is None:
        if "alpha" in times:
            alpha = times["alpha"].scalar()
        else:
            dt = times["dt"].scalar() if "dt" in times else None
            tau = _tau(times["tau"]) if "tau" in times else None
    if alpha is not None:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha: expected a leak in (0, 1], got {alpha}.")
        # dt in units of tau: alpha itself, without a rounding.
        return float(alpha), 1.0, f"leak alpha = {alpha:.6g}"
    if dt is None or tau is None:
        raise ValueError("the leak is not known. Pass alpha=, or dt= and tau=.")
    tau = tau if np.ndim(tau) else float(tau)
    return (
        float(dt),
        tau,
        f"leak dt / tau with dt = {float(dt):.6g}"
        + (f", tau = {tau:.6g}" if isinstance(tau, float) else ", a tau for each unit"),
    )


def _tau(tensor: StoredTensor) -> Any:
    values = tensor.whole().reshape(-1)
    return float(values[0]) if values.size == 1 else values

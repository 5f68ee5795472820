"""PyTorch's names: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`; and Equinox's, which end in `bias`."""

import dataclasses
import itertools
import re
from typing import Any

from rnndyn.interop import _cells
from rnndyn.interop._layers import Choices, FoundCell, FoundLayer, cell_word
from rnndyn.interop._pytorch_cell import PytorchCell
from rnndyn.interop._tensors import StoredTensor, Tensors

_NAME = re.compile(
    r"^(?:(?P<prefix>.*?)(?P<separator>[./_]))?(?P<what>weight|bias|W|w|b)_(?P<side>ih|hh|hr)"
    r"(?P<layer>_l\d+)?(?P<reverse>_reverse)?(?P<rest>_g|_v|_raw|_orig|_mask)?$"
)
_WRAPPED = re.compile(r"^(?:(?P<prefix>.*?)[./])?parametrizations[./](?:weight|bias)_(?:ih|hh|hr)")
_QUANTISED = re.compile(r"^(?:(?P<prefix>.*?)[./])?(?:_all_weight_values|_packed_params|weight_(?:ih|hh)_packed)")
_REMOVE = {
    "_g": "weight norm. Call torch.nn.utils.remove_weight_norm on the layer",
    "_v": "weight norm. Call torch.nn.utils.remove_weight_norm on the layer",
    "_raw": "weight dropout. Put the raw weights in place of the dropped ones",
    "_orig": "pruning or spectral norm. Call torch.nn.utils.prune.remove (or remove_spectral_norm) on the layer",
    "_mask": "pruning. Call torch.nn.utils.prune.remove on the layer",
}
# Tensors that change the step of a cell with standard names: peepholes of an LSTM, normalisation, attention, a leak.
_ALIEN = re.compile(
    r"peep|w_[ifo]_diag|weight_c[ifo]|(^|[._/])ln|layer_?norm|batch_?norm|gamma|attn|attention"
    r"|^(log_?)?(alpha|tau|dt|leak|decay)$",
    re.I,
)
_MAY_BE_BIAS = re.compile(r"^(b|b_(rec|h|in|i)|bias_?[a-z]*)(_l0)?$", re.I)
# A learned initial state is no part of the step.
_STARTS = re.compile(r"^[hcx]_?0|init", re.I)


@dataclasses.dataclass
class _Group:
    """The tensors under one prefix: by (layer, reverse), by name without layer."""

    name: str
    start: str
    members: dict[tuple[int | None, bool], dict[str, StoredTensor]] = dataclasses.field(default_factory=dict)
    wrapped: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, match: re.Match, tensor: StoredTensor) -> None:
        what = "weight" if match["what"] in ("weight", "W", "w") else "bias"
        layer = None if match["layer"] is None else int(match["layer"][2:])
        key = layer, match["reverse"] is not None
        if match["rest"]:
            self.wrapped.setdefault(_REMOVE[match["rest"]], []).append(tensor.name)
        else:
            self.members.setdefault(key, {})[f"{what}_{match['side']}"] = tensor


def pytorch_layers(tensors: Tensors, choices: Choices) -> list[FoundLayer]:
    """The layers of `torch.nn.RNN`, `LSTM`, `GRU` and their cells, and of Equinox's cells, by their names."""
    groups: dict[str, _Group] = {}
    for name, tensor in tensors.items():
        for pattern, reason in ((_WRAPPED, "a parametrisation"), (_QUANTISED, "quantised weights")):
            match = pattern.match(name)
            if match is not None:
                group = groups.setdefault(match["prefix"] or "", _Group(match["prefix"] or "", ""))
                group.wrapped.setdefault(_wrapped_reason(reason), []).append(name)
                break
        else:
            match = _NAME.match(name)
            if match is not None:
                prefix = match["prefix"] or ""
                group = groups.setdefault(prefix, _Group(prefix, ""))
                group.start = prefix + (match["separator"] or "")
                group.add(match, tensor)
    found = (_layer(group, tensors, choices) for group in groups.values())
    return [layer for layer in found if layer is not None]


def _wrapped_reason(reason: str) -> str:
    if reason == "quantised weights":
        return "quantisation. Import the model as it was before torch.ao.quantization"
    return (
        "a parametrisation (weight norm, spectral norm, ...). Call torch.nn.utils.parametrize.remove_parametrizations"
    )


def _layer(group: _Group, tensors: Tensors, choices: Choices) -> FoundLayer | None:
    if group.wrapped:
        reason, names = next(iter(group.wrapped.items()))
        used = tuple(name for names in group.wrapped.values() for name in names)
        used += tuple(tensor.name for member in group.members.values() for tensor in member.values())
        kind = "recurrent layer"
        return FoundLayer(
            group.name or "rnn",
            "PyTorch",
            kind,
            used=used,
            refusal=f"{names[0]} is wrapped by {reason} and save again.",
        )
    if not any("weight_hh" in member for member in group.members.values()):
        return None
    single = _single_biases(group, tensors)
    if _is_plain(group, tensors, choices, single):
        return None
    try:
        return _recognise(group, single, tensors, choices)
    except ValueError as error:
        used = tuple(tensor.name for member in group.members.values() for tensor in member.values())
        return FoundLayer(group.name or "rnn", "PyTorch", "recurrent layer", used=used, refusal=str(error))


def _single_biases(group: _Group, tensors: Tensors) -> dict[str, StoredTensor]:
    """`bias` and `bias_n` of a cell of Equinox or rnndyn: no layer number, and no biases of the two sides."""
    member = group.members.get((None, False), {})
    if "weight_ih" not in member or any(key.startswith("bias") for key in member):
        return {}
    rows = member["weight_ih"].shape[:1]
    found = {"bias": tensors.get(group.start + "bias"), "bias_n": tensors.get(group.start + "bias_n")}
    if found["bias"] is None or found["bias"].shape != rows:
        return {}
    return {key: tensor for key, tensor in found.items() if tensor is not None}


def _is_plain(group: _Group, tensors: Tensors, choices: Choices, single: dict[str, StoredTensor]) -> bool:
    """Whether these are the matrices of a network with a leak, which `_matrix_names` reads."""
    member = group.members.get((None, False), {})
    if any(layer is not None for layer, _ in group.members) and cell_word(choices.cell) != "leaky":
        return False
    hidden = member.get("weight_hh")
    square = hidden is not None and len(hidden.shape) == 2 and hidden.shape[0] == hidden.shape[1]
    leak = {"alpha", "tau", "dt"} & {name.removeprefix(group.start) for name in tensors}
    has_leak = bool(leak) or choices.alpha is not None or choices.dt is not None
    return cell_word(choices.cell) == "leaky" or (square and has_leak)


def _recognise(group: _Group, single: dict[str, StoredTensor], tensors: Tensors, choices: Choices) -> FoundLayer:
    name = group.name
    _refuse_aliens(group, single, tensors)
    depths = sorted({-1 if layer is None else layer for layer, _ in group.members})
    if -1 in depths and len(depths) > 1:
        raise ValueError(f"holds both numbered layers (_l0) and a cell without number under the prefix {name!r}.")
    if depths != [-1] and depths != list(range(len(depths))):
        raise ValueError(f"holds the layers {depths}; layers below are missing. Save the whole state dict.")
    numbers: list[int | None] = [None if depth < 0 else depth for depth in depths]
    is_bidirectional = any(reverse for _, reverse in group.members)
    directions = (False, True) if is_bidirectional else (False,)
    missing = [(n, r) for n in numbers for r in directions if (n, r) not in group.members]
    if missing:
        raise ValueError(f"lacks the weights of layer {missing[0][0]}{' reverse' if missing[0][1] else ''}.")
    parts = {key: PytorchCell(member, single if key == (None, False) else {}) for key, member in group.members.items()}
    kinds = {part.kind for part in parts.values()}
    if len(kinds) > 1:
        raise ValueError(f"holds layers of several kinds: {', '.join(sorted(kinds))}.")
    kind = kinds.pop()
    _check_widths(parts, numbers, directions)
    reset, assumed = "after", []
    if kind == "vanilla":
        assumed += [] if choices.activation is not None else [_cells.TANH_ASSUMED]
    if kind == "gru":
        reset, assumed = _reset(single, choices)
    build = lambda part: lambda: part.build(choices.activation, reset)
    cells = {key: FoundCell(part.input_size, part.output_size, build(part), part.used) for key, part in parts.items()}
    if not is_bidirectional:
        by_direction = {"forward": tuple(cells[n, False] for n in numbers)}
    elif len(numbers) == 1:
        by_direction = {"forward": (cells[numbers[0], False],), "backward": (cells[numbers[0], True],)}
    else:
        # A layer reads both directions of the one below over the whole sequence: no two of them form one system.
        by_direction = {
            f"{'backward' if reverse else 'forward'} {n}": (cells[n, reverse],)
            for n in numbers
            for reverse in directions
        }
    first = next(iter(parts.values()))
    return FoundLayer(
        name or {"vanilla": "rnn", "gru": "gru"}.get(kind, "lstm"),
        "Equinox" if single else "PyTorch",
        kind,
        by_direction,
        gate_order={"gru": "r, z, n", "lstm": "i, f, g, o", "projected lstm": "i, f, g, o"}.get(kind, ""),
        variant=_variant(kind, reset, choices.activation),
        biases=first.describe_biases(reset),
        assumed=tuple(assumed),
    )


def _refuse_aliens(group: _Group, single: dict[str, StoredTensor], tensors: Tensors) -> None:
    """Raise when something beside the weights of a layer, under its own prefix, changes its step."""
    own = {tensor.name for member in group.members.values() for tensor in member.values()}
    own |= {tensor.name for tensor in single.values()}
    is_cell = (None, False) in group.members
    # A module of PyTorch has nothing but these under its prefix: what else lies there makes it a class of its own.
    is_module = group.start.endswith(".") and any(name.startswith(f"{group.start}weight_hh") for name in own)
    rows = {tensor.shape[:1] for member in group.members.values() for tensor in member.values()}
    has_bias = bool(single) or any(key.startswith("bias") for member in group.members.values() for key in member)
    for name, tensor in tensors.items():
        if name in own or not name.startswith(group.start):
            continue
        rest = name.removeprefix(group.start)
        if not has_bias and _MAY_BE_BIAS.match(rest) and tensor.shape in rows:
            raise ValueError(f"{name} may be the bias of this layer under a name that is not known: call it bias_ih.")
        # Without a prefix everything in the file is beside it. A cell's own parameters then are those of the whole
        # module, and so are its children; beside a numbered layer only what stands at the same level counts.
        is_beside = bool(group.start) or is_cell or not re.search(r"[./]", rest)
        if (is_module and not _STARTS.search(rest)) or (_ALIEN.search(rest) and is_beside):
            raise ValueError(
                f"{name} lies among the weights of this layer: peepholes, normalisation, attention, a leak, which the "
                "cell of these names does not have. If it has no part in the step, leave it out; a leaky network: "
                f"cell='leaky'. Else: {_cells.OWN_STEP}"
            )


def _check_widths(
    parts: dict[tuple[int | None, bool], PytorchCell], numbers: list[int | None], directions: tuple[bool, ...]
) -> None:
    for below, above in itertools.pairwise(numbers):
        width = sum(parts[below, reverse].output_size for reverse in directions)
        for reverse in directions:
            part = parts[above, reverse]
            if part.input_size != width:
                raise ValueError(
                    f"{part.member['weight_ih'].name}: expected {width} columns, the output of the layer below, got "
                    f"{part.input_size}."
                )


def _reset(single: dict[str, StoredTensor], choices: Choices) -> tuple[str, list[str]]:
    """Where the reset gate acts, which only `bias_n` tells apart."""
    if choices.reset not in (None, "after", "before"):
        raise ValueError(f"reset: expected 'after' or 'before', got {choices.reset!r}.")
    if "bias_n" in single and choices.reset == "before":
        raise ValueError("reset: 'before' was asked for, but bias_n belongs to a reset gate after the product.")
    if single and "bias_n" not in single:
        if choices.reset is None:
            raise ValueError(
                "the weights of a GRU with one bias and no bias_n do not tell where the reset gate acts. Pass "
                "reset='before' (rnndyn's own) or reset='after' (then bias_n is zero)."
            )
        return choices.reset, [f"reset {choices.reset}, as asked for"]
    if choices.reset == "before":
        return "before", ["reset before, as asked for: no layer of PyTorch has it there"]
    return "after", []


def _variant(kind: str, reset: str, activation: Any) -> str:
    if kind == "gru":
        return _cells.RESET_AFTER if reset == "after" else _cells.RESET_BEFORE
    if kind == "vanilla":
        return f"nonlinearity {activation_name(activation)}"
    return ""


def activation_name(activation: Any) -> str:
    """The name of an activation that a caller gave; tanh when none was."""
    return "tanh" if activation is None else str(getattr(activation, "__name__", activation))

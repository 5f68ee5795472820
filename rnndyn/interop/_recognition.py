"""All naming conventions side by side: which recurrent layers do named tensors hold?"""

from rnndyn.interop._flax_names import flax_layers
from rnndyn.interop._haiku_names import haiku_layers
from rnndyn.interop._keras_names import keras_layers
from rnndyn.interop._layers import Choices, FoundLayer, cell_word
from rnndyn.interop._matrix_names import matrix_layers
from rnndyn.interop._pytorch_names import pytorch_layers
from rnndyn.interop._tensors import Tensors

_CONVENTIONS = (pytorch_layers, keras_layers, flax_layers, haiku_layers, matrix_layers)


def recurrent_layers(tensors: Tensors, choices: Choices) -> list[FoundLayer]:
    """The layers, in the order of the file."""
    cell_word(choices.cell)
    found, taken = [], set()
    for convention in _CONVENTIONS:
        for layer in convention(tensors, choices):
            if taken.isdisjoint(layer.tensors):
                found.append(layer)
                taken.update(layer.tensors)
    order = {name: index for index, name in enumerate(tensors)}
    return sorted(found, key=lambda layer: min(order[name] for name in layer.tensors))

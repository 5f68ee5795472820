"""Every framework, cell and variant: what the framework itself computed (`make_fixtures.py`), from its own weights."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd

FIXTURES = Path(__file__).parent / "fixtures"
# The frameworks computed in float32: twenty steps of its rounding, relative to the largest state where that is above 1.
ATOL = 1e-6
WRONG = 1e-2

SINGLE = {
    "torch_rnn_tanh": (rd.VanillaCell, {}),
    "torch_rnn_relu": (rd.VanillaCell, {"activation": "relu"}),
    "torch_rnn_cell": (rd.VanillaCell, {}),
    "torch_lstm": (rd.LSTMCell, {}),
    "torch_lstm_cell": (rd.LSTMCell, {}),
    "torch_lstm_projected": (rd.ProjectedLSTMCell, {}),
    "torch_lstm_projected_two_layers": (rd.StackedCell, {}),
    "torch_gru": (rd.GRUCell, {}),
    "torch_gru_cell": (rd.GRUCell, {}),
    "torch_gru_no_bias": (rd.GRUCell, {}),
    "torch_gru_two_layers": (rd.StackedCell, {}),
    "keras_simple_rnn": (rd.VanillaCell, {}),
    "keras_simple_rnn_relu": (rd.VanillaCell, {"activation": "relu"}),
    "keras_lstm": (rd.LSTMCell, {}),
    "keras_gru_after": (rd.GRUCell, {}),
    "keras_gru_before": (rd.GRUCell, {}),
    "linen_simple": (rd.VanillaCell, {}),
    "linen_lstm": (rd.LSTMCell, {}),
    "linen_optimized_lstm": (rd.LSTMCell, {}),
    "linen_gru": (rd.GRUCell, {}),
    "nnx_simple": (rd.VanillaCell, {}),
    "nnx_lstm": (rd.LSTMCell, {}),
    "nnx_optimized_lstm": (rd.LSTMCell, {}),
    "nnx_gru": (rd.GRUCell, {}),
    "haiku_vanilla": (rd.VanillaCell, {}),
    "haiku_lstm": (rd.LSTMCell, {}),
    "haiku_gru": (rd.GRUCell, {}),
    "equinox_lstm": (rd.LSTMCell, {}),
    "equinox_gru": (rd.GRUCell, {}),
    "equinox_gru_no_bias": (rd.GRUCell, {}),
}


def fixture(name):
    with np.load(FIXTURES / f"{name}.npz") as data:
        return {key: data[key] for key in data.files}


def network(name, *args, **kwargs):
    return rd.load_network(FIXTURES / f"{name}.npz", *args, **kwargs)


@eqx.filter_jit
def states_of(cell, inputs):
    return rd.unroll(cell, inputs)


def outputs_of(cell, inputs, reverse=False):
    """(T, H), by steps of the cell; in float64, so that only the framework rounds."""
    with jax.enable_x64(True):
        inputs = jnp.asarray(inputs, float)
        states = states_of(cell, inputs[::-1] if reverse else inputs)
        outputs = np.asarray(jax.vmap(rd.networks.adapters.as_cell(cell).output)(states))
        return outputs[::-1] if reverse else outputs


def distance(cell, data):
    scale = max(1, np.abs(data["outputs"]).max())
    return np.abs(outputs_of(cell, data["inputs"]) - data["outputs"]).max() / scale


@pytest.mark.parametrize("name", SINGLE)
def test_twenty_steps_are_those_of_the_framework(name):
    kind, options = SINGLE[name]
    data, found = fixture(name), network(name, **options)
    assert type(found.cell) is kind
    assert distance(found.cell, data) < ATOL


@pytest.mark.parametrize(
    "name", ["torch_lstm", "torch_lstm_projected", "linen_lstm", "nnx_optimized_lstm", "haiku_lstm"]
)
def test_the_state_of_an_lstm_is_h_then_c_whatever_the_carry_of_the_framework(name):
    data, found = fixture(name), network(name)
    with jax.enable_x64(True):
        h, c = states_of(found.cell, jnp.asarray(data["inputs"], float))
        flat = np.asarray(rd.as_map(found).flatten((h[-1], c[-1])))
        h, c = np.asarray(h), np.asarray(c)
    np.testing.assert_allclose(h[-1], data["final_h"], atol=ATOL)
    np.testing.assert_allclose(c[-1], data["final_c"], atol=ATOL)
    assert np.abs(flat[: len(data["final_h"])] - data["final_h"]).max() < ATOL
    if data["final_h"].shape == data["final_c"].shape:
        assert np.abs(data["final_h"] - data["final_c"]).max() > WRONG


@pytest.mark.parametrize("name", ["torch_gru_bidirectional", "keras_bidirectional", "nnx_bidirectional"])
def test_a_bidirectional_layer_gives_one_cell_per_direction(name):
    data, found = fixture(name), network(name)
    assert set(found.cells) == {"forward", "backward"}
    size = data["outputs"].shape[1] // 2
    forward = outputs_of(found.cells["forward"], data["inputs"])
    backward = outputs_of(found.cells["backward"], data["inputs"], reverse=True)
    np.testing.assert_allclose(forward, data["outputs"][:, :size], atol=ATOL)
    np.testing.assert_allclose(backward, data["outputs"][:, size:], atol=ATOL)
    with pytest.raises(ValueError, match=r"bidirectional.*network\.cells\['forward'\]"):
        _ = found.cell
    with pytest.raises(ValueError, match="bidirectional"):
        rd.as_map(found)


def test_two_bidirectional_layers_give_four_cells():
    data, found = fixture("torch_lstm_bidirectional_two_layers"), network("torch_lstm_bidirectional_two_layers")
    assert list(found.cells) == ["forward 0", "backward 0", "forward 1", "backward 1"]
    inputs = data["inputs"]
    for depth in range(2):
        sides = [
            outputs_of(found.cells[f"{d} {depth}"], inputs, reverse=d == "backward") for d in ("forward", "backward")
        ]
        inputs = np.concatenate(sides, axis=1)
    np.testing.assert_allclose(inputs, data["outputs"], atol=ATOL)


def read(found, states):
    with jax.enable_x64(True):
        return np.asarray(states) @ np.asarray(found.readout.weight).T + np.asarray(found.readout.bias)


@pytest.mark.parametrize("name", ["torch_model", "linen_model"])
def test_a_whole_model_has_its_embedding_and_readout(name):
    data, found = fixture(name), network(name)
    words = np.asarray(found.embedding.weight)[data["inputs"]]
    np.testing.assert_allclose(read(found, outputs_of(found.cell, words)), data["outputs"], atol=ATOL)
    assert "inputs" in found.source.not_used


def test_layers_that_stand_apart_are_stacked_by_their_names():
    data = fixture("keras_model")
    words = {
        "gru": network("keras_model", "gru"),
        "both": network("keras_model", ["gru", "simple_rnn"], activation="relu"),
    }
    inputs = np.asarray(words["gru"].embedding.weight)[data["inputs"]]
    found = words["both"]
    assert type(found.cell) is rd.StackedCell
    np.testing.assert_allclose(read(found, outputs_of(found.cell, inputs)), data["outputs"], atol=ATOL)
    for name, order in (("torch_two", ["encoder", "decoder"]), ("haiku_deep", ["gru", "lstm"])):
        data, found = fixture(name), network(name, order)
        np.testing.assert_allclose(outputs_of(found.cell, data["inputs"]), data["outputs"], atol=ATOL)


# ---- The traps: each wrong reading is off by far more than the right one.


def reordered(array, order):
    return np.concatenate([np.split(np.asarray(array), len(order))[index] for index in order])


def with_rows(cell, order):
    """The cell with its gates in another order."""
    leaves = lambda c: (c.weight_ih, c.weight_hh, c.bias)
    return eqx.tree_at(leaves, cell, tuple(reordered(leaf, order) for leaf in leaves(cell)))


def test_gate_order():
    for name, order in (
        ("keras_gru_after", (1, 0, 2)),
        ("keras_gru_before", (1, 0, 2)),
        ("haiku_gru", (1, 0, 2)),
        ("haiku_lstm", (0, 2, 1, 3)),
        ("torch_lstm", (0, 2, 1, 3)),
        ("torch_gru", (1, 0, 2)),
    ):
        assert distance(with_rows(network(name).cell, order), fixture(name)) > WRONG, name


def test_polarity_of_the_update_gate():
    for name in ("haiku_gru", "torch_gru", "keras_gru_after", "linen_gru"):
        cell = network(name).cell
        signs = np.repeat([1.0, -1.0, 1.0], cell.hidden_size)
        turned = eqx.tree_at(
            lambda c: (c.weight_ih, c.weight_hh, c.bias),
            cell,
            (cell.weight_ih * signs[:, None], cell.weight_hh * signs[:, None], cell.bias * signs),
        )
        assert distance(turned, fixture(name)) > WRONG, name


def test_reset_gate_before_or_after_the_recurrent_product():
    for name, reset in (
        ("haiku_gru", "before"),
        ("keras_gru_before", "before"),
        ("torch_gru", "after"),
        ("nnx_gru", "after"),
    ):
        cell = network(name).cell
        assert cell.reset == reset
        other = "before" if reset == "after" else "after"
        bias, bias_n = np.asarray(cell.bias), None
        if other == "after":
            bias_n = np.zeros(cell.hidden_size)
        else:
            bias = bias + np.concatenate([np.zeros(2 * cell.hidden_size), cell.bias_n])
        wrong = rd.GRUCell.from_weights(cell.weight_ih, cell.weight_hh, bias, bias_n, reset=other)
        assert distance(wrong, fixture(name)) > WRONG, name


def test_second_bias():
    for name in ("torch_rnn_tanh", "torch_lstm"):
        cell, data = network(name).cell, fixture(name)
        for one in ("bias_ih_l0", "bias_hh_l0"):
            assert distance(eqx.tree_at(lambda c: c.bias, cell, data[one].astype(float)), data) > WRONG, name
    for name in ("torch_gru", "keras_gru_after", "linen_gru"):
        cell = network(name).cell
        size = cell.hidden_size
        merged = np.asarray(cell.bias) + np.concatenate([np.zeros(2 * size), cell.bias_n])
        wrong = rd.GRUCell.from_weights(cell.weight_ih, cell.weight_hh, merged, np.zeros(size))
        assert distance(wrong, fixture(name)) > WRONG, name
    cell, data = network("haiku_vanilla").cell, fixture("haiku_vanilla")
    assert distance(eqx.tree_at(lambda c: c.bias, cell, data["vanilla_rnn/linear/b"].astype(float)), data) > WRONG


def test_transposition_of_the_square_recurrent_matrix():
    for name in (
        "keras_simple_rnn",
        "keras_lstm",
        "keras_gru_after",
        "linen_lstm",
        "nnx_gru",
        "haiku_gru",
        "torch_gru",
    ):
        cell = network(name).cell
        blocks = np.split(np.asarray(cell.weight_hh), len(cell.weight_hh) // cell.hidden_size)
        wrong = eqx.tree_at(lambda c: c.weight_hh, cell, np.concatenate([block.T for block in blocks]))
        assert distance(wrong, fixture(name)) > WRONG, name


def test_the_one_that_haiku_adds_to_the_forget_gate():
    cell = network("haiku_lstm").cell
    one = np.repeat([0.0, 1.0, 0.0, 0.0], cell.hidden_size)
    assert distance(eqx.tree_at(lambda c: c.bias, cell, cell.bias - one), fixture("haiku_lstm")) > WRONG
    # Flax and Keras put theirs into the stored bias at the start: nothing is added in the step.
    for name in ("linen_lstm", "nnx_lstm", "keras_lstm", "torch_lstm"):
        cell = network(name).cell
        assert distance(eqx.tree_at(lambda c: c.bias, cell, cell.bias + one), fixture(name)) > WRONG, name


def test_the_rectifier_of_haiku():
    cell = network("haiku_vanilla").cell
    assert cell.activation == "relu"
    wrong = rd.VanillaCell.from_weights(cell.weight_ih, cell.weight_hh, cell.bias, activation="tanh")
    assert distance(wrong, fixture("haiku_vanilla")) > WRONG
    # A state dict does not tell the nonlinearity: tanh is assumed, and that is said.
    found = network("torch_rnn_relu")
    assert distance(found.cell, fixture("torch_rnn_relu")) > WRONG
    assert any("activation=" in text for text in found.source.assumed)


@pytest.mark.parametrize(
    "name",
    [
        "torch_rnn_tanh",
        "torch_lstm",
        "torch_lstm_projected_two_layers",
        "torch_gru",
        "torch_gru_two_layers",
        "torch_model",
    ],
)
def test_the_way_back_to_pytorch_gives_the_same_network(name):
    found, data = network(name), fixture(name)
    state = rd.to_torch(found)
    shapes = {key.rpartition(".")[2]: value.shape for key, value in data.items()}
    assert all(shapes[key.rpartition(".")[2]] == array.shape for key, array in state.items() if "_l" in key)
    again = rd.from_torch(state)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_way_back_of_a_bidirectional_layer():
    found = network("torch_lstm_bidirectional_two_layers")
    again = rd.from_torch(rd.to_torch(found))
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), found.cells, again.cells)
    )


def test_what_pytorch_does_not_have_is_not_written():
    with pytest.raises(ValueError, match="reset gate after"):
        rd.to_torch(network("haiku_gru"))
    with pytest.raises(ValueError, match="tanh or relu, this cell 'softplus'"):
        rd.to_torch(rd.VanillaCell(2, 3, activation="softplus", key=jax.random.key(0)))
    with pytest.raises(ValueError, match="no layer for a LeakyCell"):
        rd.to_torch(rd.LeakyCell(2, 3, key=jax.random.key(0)))
    with pytest.raises(ValueError, match="one kind, width"):
        rd.to_torch(network("keras_model", ["gru", "simple_rnn"]))

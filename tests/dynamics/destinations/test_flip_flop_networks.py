"""The memories of trained flip-flop networks: certificates against iteration, readout and a second program."""

import dataclasses
import re

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
from networks_from_data import flip_flop_gru, flip_flop_vanilla

import rnndyn as rd


@pytest.fixture(scope="module")
def gru():
    cell, data = flip_flop_gru()
    points = data["ref_fixed_points"]
    f = rd.as_map(cell)
    fps = rd.find_fixed_points(f, points, progress=False)
    balls = rd.prove_trapping_balls(f, fps.points[fps.is_stable])
    return cell, data, f, fps, balls


def bits_of(states, data):
    return (states @ data["W_out"].T + data["b_out"] > 0).astype(int)


def gru_step(h, u, data):
    """The equations of PyTorch's GRU in plain NumPy."""
    a = u @ data["W_ih"].astype(float).T + data["b_ih"].astype(float)
    b = h @ data["W_hh"].astype(float).T + data["b_hh"].astype(float)
    r, z = (1 / (1 + np.exp(-(a[:, s] + b[:, s]))) for s in (slice(0, 16), slice(16, 32)))
    n = np.tanh(a[:, 32:] + r * b[:, 32:])
    return (1 - z) * n + z * h


def test_every_memory_has_a_ball_and_states_end_where_iteration_takes_them(gru):
    _, data, f, _, balls = gru
    assert balls.proved.all()
    assert len(balls) == 8
    rng = np.random.default_rng(0)
    states = data["initial_states"][:256].astype(float)
    states = np.concatenate([states, states + 0.3 * rng.normal(size=states.shape)])
    basins = rd.certify_basins(f, balls, states, progress=False)
    assert basins.proved.mean() >= 0.99
    ends = states
    for _ in range(500):
        ends = gru_step(ends, np.zeros((1, 3)), data)
    nearest = np.argmin(np.linalg.norm(ends[:, None] - balls.centers, axis=2), axis=1)
    np.testing.assert_array_equal(basins.labels[basins.proved], nearest[basins.proved])


def test_the_second_program_accepts_and_refuses_what_is_perturbed_or_permuted(gru):
    cell, data, f, _, balls = gru
    basins = rd.certify_basins(f, balls, data["initial_states"][:64].astype(float), progress=False)
    check = rd.check_basins(basins, cell)
    assert check.accepted, check.reason

    def with_balls(**changes):
        return dataclasses.replace(basins, balls=dataclasses.replace(balls, **changes))

    nudge = 1e-9
    for changed, word in (
        (with_balls(rates=balls.rates * (1 - nudge)), r"\|DF\|"),
        (with_balls(offsets=balls.offsets - nudge), "F\\(c\\)"),
        (with_balls(radii=balls.radii * (1 + nudge)), "ball 0"),
        (with_balls(centers=balls.centers + nudge), "F\\(c\\)"),
        (with_balls(rates=balls.rates / balls.rates), "exceeds"),
    ):
        refused = rd.check_basins(changed, cell)
        assert not refused.accepted
        assert re.search(word, refused.reason), refused.reason
    order = np.roll(np.arange(8), 1)
    # Every label wrong, with the ball of the old label and with that of the new one.
    wrong = dataclasses.replace(basins, labels=order[basins.labels])
    assert "is not the memory" in rd.check_basins(wrong, cell).reason
    for k in range(64):
        one = dataclasses.replace(
            basins,
            states=basins.states[k : k + 1],
            labels=order[basins.labels[k : k + 1]],
            entered=order[basins.entered[k : k + 1]],
            steps=basins.steps[k : k + 1],
        )
        if k < 12:
            assert not rd.check_basins(one, cell).accepted
    # Nor is a state where it is said to be before it has come there.
    for k in np.argsort(-basins.steps)[:4]:
        early = dataclasses.replace(basins, steps=basins.steps - (np.arange(64) == k))
        assert f"state {k}:" in rd.check_basins(early, cell).reason


@pytest.fixture(scope="module")
def wires(gru):
    _, _, f, fps, balls = gru
    return rd.certify_connections(f, fps.points[fps.num_unstable == 1], balls, progress=False)


def test_the_wiring_is_the_cube(gru, wires):
    _, data, _, _, balls = gru
    assert wires.proved.all()
    corners = bits_of(balls.centers, data)
    assert len(np.unique(corners, axis=0)) == 8
    # Each saddle joins two memories that differ in one bit; together all twelve edges.
    assert np.all(np.abs(corners[wires.edges[:, 0]] - corners[wires.edges[:, 1]]).sum(axis=1) == 1)
    assert len(np.unique(wires.edges, axis=0)) == 12
    # By plain iteration, from a hair's breadth beside the saddle.
    for branch, sign in enumerate((1, -1)):
        ends = wires.saddles + sign * 1e-3 * wires.directions
        for _ in range(1000):
            ends = gru_step(ends, np.zeros((1, 3)), data)
        nearest = np.argmin(np.linalg.norm(ends[:, None] - balls.centers, axis=2), axis=1)
        np.testing.assert_array_equal(wires.labels[:, branch], nearest)


def one_saddle(wires, k):
    """The certificate of one saddle alone."""
    own = wires.pieces.saddles == k
    pieces = dataclasses.replace(
        wires.pieces,
        **{f.name: getattr(wires.pieces, f.name)[own] for f in dataclasses.fields(wires.pieces)},
    )
    pieces = dataclasses.replace(pieces, saddles=np.zeros(own.sum(), int))
    rows = ("saddles", "periods", "frames", "multipliers", "sizes", "bounds", "slopes", "blurs", "inner", "outer")
    parts = {name: getattr(wires, name)[k : k + 1] for name in (*rows, "labels")}
    return dataclasses.replace(wires, pieces=pieces, **parts)


def test_the_second_program_accepts_the_wiring_and_refuses_each_claim_that_is_better_by_1e_9(gru, wires):
    cell = gru[0]
    check = rd.check_connections(wires, cell)
    assert check.accepted, check.reason
    one = one_saddle(wires, 0)
    assert rd.check_connections(one, cell).accepted
    nudge = 1e-9
    bounds = np.concatenate([[nudge], np.full(6, -nudge)]) * np.eye(7)
    changed = {f"bound {i}": {"bounds": one.bounds + bounds[i]} for i in range(7)}
    changed |= {
        "slope": {"slopes": one.slopes * (1 - nudge)},
        "blur along": {"blurs": one.blurs * np.array([1 - nudge, 1])},
        "blur across": {"blurs": one.blurs * np.array([1, 1 - nudge])},
        "outer": {"outer": one.outer * (1 + nudge)},
        "inner": {"inner": one.inner * (1 + nudge)},
        "saddle": {"saddles": one.saddles + nudge},
        "label": {"labels": one.labels[:, ::-1]},
        "gap": {"pieces": dataclasses.replace(one.pieces, starts=one.pieces.starts * (1 + nudge))},
        "steps": {"pieces": dataclasses.replace(one.pieces, steps=one.pieces.steps - 1)},
    }
    for name, change in changed.items():
        refused = rd.check_connections(dataclasses.replace(one, **change), cell)
        assert not refused.accepted, name
        assert re.search("saddle 0", refused.reason), (name, refused.reason)


def test_pulses_are_proved_to_set_their_bits(gru):
    cell, data, _, _, balls = gru
    pulses = np.concatenate([np.eye(3), -np.eye(3)])
    table = rd.certify_transitions(rd.as_driven_map(cell), balls, pulses, progress=False)
    assert table.proved.all()
    corners = bits_of(balls.centers, data)
    for s, pulse in enumerate(pulses):
        expected = np.where(pulse > 0, 1, np.where(pulse < 0, 0, corners))
        np.testing.assert_array_equal(corners[table.labels[:, s]], expected)
    check = rd.check_transitions(table, cell)
    assert check.accepted, check.reason
    wrong = dataclasses.replace(table, labels=np.roll(table.labels, 1, axis=0))
    assert not rd.check_transitions(wrong, cell).accepted


@pytest.fixture(scope="module")
def vanilla():
    cell, data = flip_flop_vanilla()
    f = rd.as_map(cell)
    cycles = rd.find_cycles(f, data["initial_states"][:256].astype(float), 2, progress=False)
    num_unstable = (np.abs(cycles.multipliers) > 1).sum(axis=1)
    return cell, data, f, cycles.points[num_unstable == 0], cycles.points[num_unstable == 1]


def test_memories_that_are_cycles_are_certified_and_checked_too(vanilla):
    cell, data, f, memories, saddles = vanilla
    assert len(memories) == 8
    basins = rd.certify_basins(f, memories, data["initial_states"][:128].astype(float), progress=False)
    assert basins.balls.proved.all()
    assert basins.proved.all()
    check = rd.check_basins(basins, cell)
    assert check.accepted, check.reason
    found = rd.certify_connections(f, saddles[:4], basins.balls, progress=False)
    assert found.proved.all()
    check = rd.check_connections(found, cell)
    assert check.accepted, check.reason


@pytest.mark.slow
@pytest.mark.parametrize(("make", "size", "num"), [(rd.VanillaCell, 64, 256), (rd.GRUCell, 32, 32)])
def test_larger_networks_are_proved_too(make, size, num):
    """Trained here, for a short time: the memories of the gated ones are slow, and so are proofs and checks of them."""
    task = {"num_bits": 3, "num_steps": 48, "pulse_probability": 0.2}
    cell_key, readout_key, fit_key, trial_key = jax.random.split(jax.random.key(0), 4)
    fitted = rd.fit(
        rd.RNN(make(3, size, key=cell_key), eqx.nn.Linear(size, 3, key=readout_key)),
        rd.training.over_trials(rd.training.mean_squared_error),
        rd.tasks.batches("flip_flop", 32, **task),
        optax.adam,
        learning_rate=optax.cosine_decay_schedule(1e-2, 600, alpha=0.01),
        num_steps=600,
        max_grad_norm=1.0,
        key=fit_key,
        progress=False,
    )
    model = fitted.last_model
    cell, f = model.cell, rd.as_map(model.cell)
    visited = np.asarray(jax.vmap(model.states)(rd.tasks.batches("flip_flop", 8, **task)(trial_key).inputs))
    visited = visited.reshape(-1, size).astype(float)
    states = visited[:num]
    points = rd.find_cycles(f, visited[:128], 1, progress=False)
    stable = points.points[(np.abs(points.multipliers) < 1).all(axis=1)]
    assert len(stable) >= 8
    basins = rd.certify_basins(f, stable, states, progress=False)
    assert basins.balls.proved.all()
    assert basins.proved.mean() >= 0.99
    ends = states
    step = jax.jit(jax.vmap(f))
    for _ in range(2000):
        ends = np.asarray(step(ends.astype(np.float32)))
    nearest = np.argmin(np.linalg.norm(ends[:, None] - basins.balls.centers, axis=2), axis=1)
    np.testing.assert_array_equal(basins.labels[basins.proved], nearest[basins.proved])
    check = rd.check_basins(basins, cell)
    assert check.accepted, check.reason
    order = np.roll(np.arange(len(stable)), 1)
    wrong = dataclasses.replace(
        basins,
        states=basins.states[:2],
        labels=order[basins.labels[:2]],
        entered=order[basins.entered[:2]],
        steps=basins.steps[:2],
    )
    assert not rd.check_basins(wrong, cell).accepted

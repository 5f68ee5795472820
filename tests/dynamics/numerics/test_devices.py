"""Work that several devices and several processes share gives what one device gives."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.dynamics.numerics.devices import check_devices, num_devices, use_devices

ROOT = Path(__file__).parents[3]

_MAPS = """
import sys
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import rnndyn as rd
from rnndyn.dynamics.numerics.devices import deal_rows, num_devices
from rnndyn.dynamics.numerics.drivers import double_precision, map_in_chunks

class Henon(eqx.Module):
    a: jax.Array
    def __call__(self, x):
        return jnp.stack([1 - self.a * x[0] ** 2 + x[1], 0.3 * x[0]])

henon = Henon(np.asarray(1.4))
candidates = np.random.default_rng(0).uniform(-1.5, 1.5, (40, 2))
half = 1 - 0.3
x = np.array([-half - np.sqrt(half**2 + 4 * 1.4), -half + np.sqrt(half**2 + 4 * 1.4)]) / (2 * 1.4)
roots = np.stack([x, 0.3 * x], axis=1)  # of 1 - 1.4 x^2 + .3 x = x

def check(devices, expected):
    double = jax.jit(lambda a: {"twice": 2 * a["x"], "sum": a["x"].sum(axis=1)})
    with double_precision(devices):
        assert num_devices() == expected
        rows = np.arange(74.0).reshape(37, 2)
        calls = []
        counted = lambda part: (calls.append(part["x"].shape), double(part))[1]
        found = map_in_chunks(counted, {"x": rows}, bytes_per_item=8, description="", least_size=1)
        np.testing.assert_array_equal(found["twice"], 2 * rows)
        np.testing.assert_array_equal(found["sum"], rows.sum(axis=1))
        # One chunk for each device of this process, of the size that all of them need to hold 37 rows.
        own = sum(d.process_index == jax.process_index() for d in np.ravel(getattr(devices, "devices", devices)))
        needed = -(-37 // calls[0][0])
        assert (needed > expected // 2) and len(calls) == (own if jax.process_count() > 1 else needed)
        np.testing.assert_array_equal(deal_rows(lambda part: double({"x": part})["sum"], rows), rows.sum(axis=1))
"""

_EIGHT = """
devices = jax.devices()
assert len(devices) == 8
check(devices, 8)
check(jax.sharding.Mesh(np.array(devices).reshape(2, 4), ("a", "b")), 8)
two = devices[3:5]
found = rd.find_fixed_points(henon, candidates, devices=two, max_rounds=1)
np.testing.assert_allclose(found.points[np.argsort(found.points[:, 0])], roots, atol=1e-14)
alone = rd.find_fixed_points(henon, candidates, max_rounds=1)
for name in ("points", "residuals", "num_hits", "multipliers"):
    np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
maps = Henon(np.array([1.3, 1.4]))
sweep = rd.find_fixed_points_sweep(maps, candidates, follow=False, devices=two, max_rounds=1)
np.testing.assert_allclose(sweep[1].points, alone.points, atol=1e-14)
np.testing.assert_array_equal(sweep[1].num_hits, alone.num_hits)
with double_precision(two):  # a part is not dealt out again
    assert deal_rows(lambda part: part + num_devices(), np.zeros(4)).tolist() == [1, 1, 1, 1]
proved, alone = (rd.certify_fixed_points(henon, found.points, devices=d) for d in (two, None))
assert proved.certified.all() and (np.abs(proved.points - found.points) < 1e-14).all()
listed, all_alone = (rd.enumerate_fixed_points(henon, -3 * np.ones(2), 3 * np.ones(2), devices=d) for d in (two, None))
np.testing.assert_allclose(listed.points, roots, atol=1e-14)
assert listed.proved
for ours, theirs in ((proved, alone), (listed, all_alone)):
    for name in ("points", "residuals", "existence_radius", "uniqueness_radius", "num_unstable", "multipliers"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
# Two attractors, whose basins the sign of the first entry parts.
sides = lambda x: jnp.stack([jnp.tanh(2 * x[0]), x[1] / 2])
plane = lambda d: rd.find_basins(sides, (-1, -1), (1, 1), resolution=6, devices=d)
labels = plane(two).labels
assert (labels == labels[0]).all() and len(np.unique(labels[0, :3])) == len(np.unique(labels[0, 3:])) == 1
assert labels[0, 0] != labels[0, 5]
np.testing.assert_array_equal(labels, plane(None).labels)
build = lambda a: (Henon(a), jnp.array([0.1, 0.1]))
axes = {"a": [1.2, 1.3, 1.4]}
shared = rd.lyapunov_sweep(build, axes, 64, chunk_size=1, devices=two)
alone = rd.lyapunov_sweep(build, axes, 64, chunk_size=1)
np.testing.assert_array_equal(shared.exponents, alone.exponents)
np.testing.assert_allclose(shared.sum, np.log(0.3), rtol=1e-12)  # |det DF| = 0.3 everywhere
"""

_MEMBERS = """
import optax
keys = jax.random.split(jax.random.key(1), 16)
models = eqx.filter_vmap(lambda key: eqx.nn.Linear(3, 2, key=key))(keys)
loss = lambda model, batch: jnp.mean((jax.vmap(model)(batch) - jnp.sin(batch[:, :2])) ** 2)
train = lambda **given: rd.fit_ensemble(
    models, loss, lambda key: jax.random.normal(key, (8, 3)), optax.adam(1e-2), num_steps=5, key=keys[0], **given
)
shared, alone = train(devices=jax.devices()), train()
for ours, theirs in zip(*(jax.tree.leaves(eqx.filter(r.models, eqx.is_array)) for r in (shared, alone)), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)  # float32: sums of other lengths
assert len(shared.last_models.weight.sharding.device_set) == 8
try:
    train(devices=jax.devices()[:3])
except ValueError as error:
    assert "devices" in str(error)
else:
    raise AssertionError
"""

_TWO_PROCESSES = """
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
assert jax.process_count() == 2
check(jax.devices(), 2)
found = rd.find_fixed_points(henon, candidates, devices=jax.devices(), max_rounds=1)
np.testing.assert_allclose(found.points[np.argsort(found.points[:, 0])], roots, atol=1e-14)
assert found.num_hits.sum() == 40
try:
    rd.find_fixed_points(henon, candidates, devices=[d for d in jax.devices() if d.process_index == 0])
except ValueError as error:
    assert jax.process_index() == 0 or "devices" in str(error)
print("done", jax.process_index())
"""


def _start(code: str, *args: str, flags: str = "") -> subprocess.Popen:
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", _MAPS + code, *args],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
def test_eight_devices_find_what_one_finds():
    _finish(_start(_EIGHT + _MEMBERS, flags="--xla_force_host_platform_device_count=8"))


@pytest.mark.slow
def test_two_processes_find_the_same():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [_start(_TWO_PROCESSES, address, str(i)) for i in range(2)]
    try:
        outs = [_finish(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [out.strip().splitlines()[-1] for out in outs] == ["done 0", "done 1"]


def test_what_is_no_list_of_devices_is_refused():
    device = jax.devices()[0]
    for wrong in ([], 8, ["cpu"], [device, device]):
        with pytest.raises(ValueError, match="devices"):
            check_devices(wrong)
    with pytest.raises(ValueError, match="devices"):
        rd.find_fixed_points(lambda x: 0.5 * x, np.zeros((1, 2)), devices=[])


def test_devices_hold_for_the_block():
    with use_devices(jax.devices()[:1]), use_devices(None):
        assert num_devices() == 1
    assert num_devices() == 1

"""Dynamical similarity: all pairs of many networks, against `dsa-metric` (PyPI, torch) at equal work.

`DSA_PYTHON` names the interpreter of an environment that has `dsa-metric` (2.0.2 was measured); without one only our
own seconds are shown. Both get the same trajectories, delays and rank and compute
the angle of all pairs; the peer with its own defaults for the search (1500 steps of Adam from two starts). Ours
computes p-values besides. A smaller angle is a better optimum, so the mean angle of each is shown.
"""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import rnndyn as rd

TITLE = "Dynamical similarity of all pairs, and the same work by dsa-metric"
NUM_NETWORKS, NUM_PEER = 50, 4
NUM_TRIALS, NUM_STEPS, NUM_UNITS = 16, 60, 32
OPTIONS: dict[str, Any] = {"num_delays": 5, "rank": 10}

_PEER = """
import json, sys, time
import numpy as np
from DSA import DSA
data = np.load(sys.argv[1])
states = [data[name] for name in data.files]
start, cpu = time.perf_counter(), time.process_time()
found = DSA(states, n_delays={num_delays}, rank={rank}, score_method="angular", iters=1500, lr=5e-3).fit_score()
seconds = time.perf_counter() - start, time.process_time() - cpu
print(json.dumps([*seconds, np.asarray(found).tolist()]))
"""


def networks(num: int) -> list[np.ndarray]:
    """States of random tanh networks of different gains from random starts, less their last settled part."""
    rng = np.random.default_rng(0)
    found = []
    for k in range(num):
        gain = 0.9 + 0.8 * (k % 10) / 10
        weights = gain * rng.standard_normal((NUM_UNITS, NUM_UNITS)) / np.sqrt(NUM_UNITS)
        x, states = rng.standard_normal((NUM_TRIALS, NUM_UNITS)), []
        for _ in range(NUM_STEPS):
            x = 0.5 * x + 0.5 * np.tanh(x @ weights.T) + 0.02 * rng.standard_normal(x.shape)
            states.append(x)
        found.append(np.stack(states, axis=1))
    return found


def rows(peer_python: str | None) -> list[dict[str, Any]]:
    """Seconds for all pairs of many networks, and of few beside the peer."""
    states = networks(NUM_NETWORKS)
    first, whole, cpu, found = _ours(states)
    pairs = NUM_NETWORKS * (NUM_NETWORKS - 1) // 2
    measured = [
        {"networks": NUM_NETWORKS, "pairs": pairs, "seconds": whole, "CPU s": cpu, "with compiling, CPU s": first},
    ]
    if peer_python is not None:
        few = states[:NUM_PEER]
        first, _, cpu, found = _ours(few)
        peer_cpu, angles = _theirs(peer_python, few)
        upper = np.triu_indices(NUM_PEER, 1)
        measured.append(
            {
                "networks": NUM_PEER,
                "pairs": len(upper[0]),
                "CPU s": cpu,
                "with compiling, CPU s": first,
                "peer CPU s": round(peer_cpu, 2),
                "CPU ratio": round(peer_cpu / cpu, 1),
                "mean angle": round(float(found.distances[upper].mean()), 4),
                "peer mean angle": round(float(angles[upper].mean()), 4),
            }
        )
    return measured


def _ours(states: list[np.ndarray]) -> tuple[float, float, float, rd.DynamicalSimilarity]:
    cpu = time.process_time()
    rd.dynamical_similarity(states, **OPTIONS)
    first = time.process_time() - cpu
    start, cpu = time.perf_counter(), time.process_time()
    found = rd.dynamical_similarity(states, **OPTIONS)
    return round(first, 2), round(time.perf_counter() - start, 2), round(time.process_time() - cpu, 2), found


def _theirs(python: str, states: list[np.ndarray]) -> tuple[float, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "states.npz"
        np.savez(path, *states)
        command = [python, "-c", _PEER.format(**OPTIONS), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, cpu, angles = json.loads(done.stdout.splitlines()[-1])
    return cpu, np.array(angles)


def report() -> str:
    """The rows as text."""
    found = rows(os.environ.get("DSA_PYTHON"))
    return "\n".join([TITLE, *("  " + ", ".join(f"{name}: {value}" for name, value in row.items()) for row in found)])


if __name__ == "__main__":
    print(report())

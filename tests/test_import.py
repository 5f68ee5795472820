"""Importing the package must not disturb the host program."""

import subprocess
import sys


def test_import_takes_no_device_and_changes_no_flag():
    code = (
        "import jax; before = dict(jax.config.values)\n"
        "import rnndyn, sys\n"
        "assert dict(jax.config.values) == before, 'a flag changed'\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a device was taken'\n"
        "assert not {'matplotlib', 'scipy.stats'} & set(sys.modules), 'what takes long was loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_documented():
    import rnndyn as rd

    for name in dir(rd):
        value = getattr(rd, name)
        ours = getattr(value, "__module__", getattr(value, "__name__", "")).startswith("rnndyn")
        if ours and not name.startswith("_"):
            assert (value.__doc__ or "").strip(), f"rd.{name} has no docstring"

"""Commands side by side: what is told of each, what happens when one fails, and how all of it ends."""

import io
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from experiments._side_by_side import run_side_by_side


def python(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


@pytest.fixture
def run(tmp_path):
    def run(jobs=2, time_limit=60.0, **commands):
        out = io.StringIO()
        commands = {name: python(code) for name, code in commands.items()}
        code = run_side_by_side(
            commands, jobs=jobs, logs=tmp_path / "logs", environment=os.environ, time_limit=time_limit, out=out
        )
        return code, out.getvalue()

    return run


def row(name, text):
    """Seconds, CPU seconds, peak megabytes and result of one row of the table."""
    match = re.search(rf"^{name} +([\d.]+) +([\d.]+) +(\d+)  (.+)$", text, re.MULTILINE)
    assert match, text
    return float(match[1]), float(match[2]), float(match[3]), match[4]


def test_one_line_each_a_log_and_a_table(run, tmp_path):
    code, text = run(a="print('from a')", b="import sys; print('from b', file=sys.stderr)")
    assert code == 0
    lines = text.splitlines()
    assert lines[0].startswith("2 studies, 2 side by side")
    assert sorted(re.sub(r"in .*", "", line[7:]) for line in lines[1:3]) == ["a: done ", "b: done "]
    assert [line[:7] for line in lines[1:3]] == ["[ 1/2] ", "[ 2/2] "]
    assert (tmp_path / "logs/a.log").read_text() == "from a\n"
    assert (tmp_path / "logs/b.log").read_text() == "from b\n"
    assert row("a", text)[3] == row("b", text)[3] == "done"
    assert row("together", text)[3] == "2 done, 0 failed"


def test_a_failure_is_told_and_the_others_go_on(run):
    code, text = run(
        jobs=1,
        a="print('early')\nfor i in range(9): print('line', i)\nraise RuntimeError('planted')",
        b="import os; os.abort()",
        c="print('fine')",
    )
    assert code == 1
    assert row("a", text)[3] == "failed (exit code 1)"
    assert row("b", text)[3] == "failed (SIGABRT)"
    assert row("c", text)[3] == "done"
    assert row("together", text)[3] == "1 done, 2 failed"
    # The end of the log, and not its beginning.
    assert "    RuntimeError: planted\n" in text
    assert "early" not in text


def test_the_table_measures_the_process(tmp_path):
    burn = "import time\nwhile time.process_time() < .6: pass"
    hold = "import time; held = b'x' * 300_000_000; time.sleep(.6)"
    # From a small process, as the runner is: a child counts the memory of the process that started it as its own.
    done = subprocess.run(python(side_by_side(tmp_path, burns=burn, holds=hold)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, cpu, peak, _ = row("burns", done.stdout)
    # The start of Python takes some hundredths of a second beside the six tenths.
    assert 0.6 <= cpu <= 1.5
    assert seconds >= 0.5
    assert peak < 100
    seconds, cpu, peak, _ = row("holds", done.stdout)
    assert seconds >= 0.6
    assert 300 <= peak < 400


def side_by_side(folder, **commands):
    """A script that runs commands one after the other."""
    return f"""
        import os, pathlib, signal, sys
        from experiments._side_by_side import run_side_by_side
        # Tests that a shell runs in the background are started with interruptions ignored, and so is this.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        commands = {{name: [sys.executable, "-c", code] for name, code in {commands!r}.items()}}
        logs = pathlib.Path({str(folder)!r}) / "logs"
        sys.exit(run_side_by_side(commands, jobs=1, logs=logs, environment=os.environ, time_limit=60))
    """


def test_as_many_side_by_side_as_asked_for(run, tmp_path):
    # Each waits for the other, and says so when it did not come.
    meet = """
        import pathlib, sys, time
        here = pathlib.Path({folder!r})
        (here / {mine!r}).touch()
        end = time.monotonic() + {patience}
        while not (here / {other!r}).exists():
            if time.monotonic() > end:
                sys.exit("alone")
            time.sleep(.01)
    """

    def pair(name, patience):
        folder = tmp_path / name
        folder.mkdir()
        return {
            mine: meet.format(folder=str(folder), mine=mine, other=other, patience=patience)
            for mine, other in (("a", "b"), ("b", "a"))
        }

    assert run(jobs=2, **pair("two", 30))[0] == 0
    code, text = run(jobs=1, **pair("one", 0.3))
    assert code == 1
    assert row("a", text)[3] == "failed (exit code 1)"
    assert row("b", text)[3] == "done"


def test_one_that_hangs_is_ended_with_what_it_started(run, tmp_path):
    pid = tmp_path / "pid"
    hangs = f"""
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open({str(pid)!r}, "w").write(str(child.pid))
        time.sleep(60)
    """
    code, text = run(jobs=1, time_limit=3.0, hangs=hangs, after="print('fine')")
    assert code == 1
    assert row("hangs", text)[3] == "ended after 3 s"
    assert row("after", text)[3] == "done"
    assert gone(int(pid.read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_all_and_tells_what_is_done(tmp_path, number):
    pid = tmp_path / "pid"
    work = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    script = side_by_side(tmp_path, a="", b=work, c="raise RuntimeError('never started')")
    runner = subprocess.Popen(python(script), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    runner.send_signal(number)
    text, _ = runner.communicate(timeout=120)
    assert runner.returncode == 130
    assert text.splitlines()[-1] == "interrupted; done: a"
    assert "Traceback" not in text
    assert gone(int(pid.read_text()))


def gone(pid, patience=5.0):
    """Whether a process has ended, or does so soon."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False

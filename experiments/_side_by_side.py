"""Many commands run, each in a process of its own, a few side by side, and a table at the end.

A process of its own keeps what goes wrong in one command from the others, and gives back what it took: compiled
programs hold memory maps, of which a process may have 65 530, and two dozen studies in one process used them up.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one command went."""

    name: str
    seconds: float
    cpu_seconds: float
    """Of all its threads, and of the processes that it waited for."""
    peak_bytes: int
    """The most memory that it held at once; where that is less than this process holds, the system tells the latter."""
    failure: str
    """Empty where it ended well."""


@dataclasses.dataclass(frozen=True)
class Running:
    """One command at work, its whole output going into a file."""

    name: str
    process: subprocess.Popen
    start: float
    log: Path


def run_side_by_side(
    commands: Mapping[str, list[str]],
    *,
    jobs: int,
    logs: Path,
    environment: Mapping[str, str],
    time_limit: float,
    out: TextIO = sys.stdout,
) -> int:
    """Run the commands in their order, `jobs` at a time, and say how each went; gives the exit code.

    The output of each goes into a file in `logs`. One that fails, or takes longer than `time_limit` seconds, is
    reported with the last lines of it, and the others go on.

    **Returns:** 0 where all went well, 1 where some failed, 130 where the run was interrupted (the commands at work
    are then ended, and none of those left is started).
    """
    waiting = list(commands.items())
    running: list[Running] = []
    done: list[Outcome] = []
    logs.mkdir(parents=True, exist_ok=True)
    print(f"{len(waiting)} studies, {min(jobs, len(waiting))} side by side; output in {_short(logs)}/", file=out)
    start = time.perf_counter()
    try:
        with _ended_like_interrupted():
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(_begin(*waiting.pop(0), logs, environment))
                for run in list(running):
                    outcome = _outcome(run, time_limit)
                    if outcome is not None:
                        running.remove(run)
                        done.append(outcome)
                        _status(out, "")
                        print(f"[{len(done):2d}/{len(commands)}] {_told(outcome, run.log)}", file=out, flush=True)
                _status(out, ", ".join(f"{run.name} {time.perf_counter() - run.start:.0f} s" for run in running))
                time.sleep(0.05)
    except KeyboardInterrupt:
        _end(running)
        _status(out, "")
        names = ", ".join(outcome.name for outcome in done if not outcome.failure) or "none"
        print(f"interrupted; done: {names}", file=out, flush=True)
        return 130
    except BaseException:
        _end(running)
        raise
    print(table(done, time.perf_counter() - start), file=out, flush=True)
    return int(any(outcome.failure for outcome in done))


def table(outcomes: list[Outcome], seconds: float) -> str:
    """One row for each command in the order in which they ended, and the totals."""
    width = max(len("together"), *(len(outcome.name) for outcome in outcomes))
    rows = [f"\n{'study':<{width}}  seconds  CPU seconds  peak MB  result"]
    for o in outcomes:
        rows.append(
            f"{o.name:<{width}}  {o.seconds:7.1f}  {o.cpu_seconds:11.1f}  {o.peak_bytes / 1e6:7.0f}  "
            f"{o.failure or 'done'}"
        )
    failed = sum(bool(outcome.failure) for outcome in outcomes)
    rows.append(
        f"{'together':<{width}}  {seconds:7.1f}  {sum(o.cpu_seconds for o in outcomes):11.1f}  "
        f"{max(o.peak_bytes for o in outcomes) / 1e6:7.0f}  {len(outcomes) - failed} done, {failed} failed"
    )
    return "\n".join(rows)


def _begin(name: str, command: list[str], logs: Path, environment: Mapping[str, str]) -> Running:
    log = logs / f"{name}.log"
    # Unbuffered, so that a log tells how far its command is, and ends with the error that ended it.
    environment = dict(environment, PYTHONUNBUFFERED="1")
    with log.open("wb") as file:
        # In a session of its own, so that Ctrl-C reaches this process alone, and what it started can be ended whole.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
        )
    return Running(name, process, time.perf_counter(), log)


def _outcome(run: Running, time_limit: float) -> Outcome | None:
    """How the command went, or `None` while it is at work; one that is over its time is ended."""
    late = time.perf_counter() - run.start > time_limit
    if late:
        _signal(run, signal.SIGKILL)
    pid, status, used = os.wait4(run.process.pid, 0 if late else os.WNOHANG)
    if pid == 0:
        return None
    code = run.process.returncode = os.waitstatus_to_exitcode(status)
    if late and code == -signal.SIGKILL:
        failure = f"ended after {time_limit:.0f} s"
    elif code < 0:
        failure = f"failed ({signal.Signals(-code).name})"
    else:
        failure = f"failed (exit code {code})" if code else ""
    # Linux counts in units of 1024 bytes, macOS in bytes.
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Outcome(run.name, time.perf_counter() - run.start, used.ru_utime + used.ru_stime, peak, failure)


def _told(outcome: Outcome, log: Path) -> str:
    """One line; with the last lines of the log below it where the command failed."""
    if not outcome.failure:
        return f"{outcome.name}: done in {outcome.seconds:.1f} s"
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    last = [line for line in text.splitlines() if line.strip()][-8:]
    return "\n".join(
        [f"{outcome.name}: {outcome.failure} after {outcome.seconds:.1f} s; the end of {_short(log)}:"]
        + [f"    {line}" for line in last]
    )


def _end(running: list[Running], patience: float = 5.0) -> None:
    """End the commands at work: politely, and after `patience` seconds whatever they do."""
    for run in running:
        _signal(run, signal.SIGTERM)
    deadline = time.perf_counter() + patience
    for run in running:
        try:
            run.process.wait(max(0.0, deadline - time.perf_counter()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            _signal(run, signal.SIGKILL)
            run.process.wait()


def _signal(run: Running, number: int) -> None:
    # The process has a session of its own, so its group has its number; it may have ended meanwhile.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.process.pid, number)


@contextlib.contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """Within it, a request to end (as from a batch system) is taken like Ctrl-C, so that no process is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _status(out: TextIO, text: str) -> None:
    """What is at work, on a line that the next one overwrites; only on a terminal."""
    if out.isatty():
        shown = text[: shutil.get_terminal_size().columns - 1]
        print(f"\r\033[K{shown}", end="", file=out, flush=True)


def _short(path: Path) -> str:
    """The path from the current folder, where it lies in it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

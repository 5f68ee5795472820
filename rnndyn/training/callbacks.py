"""What is told about a training run while it goes on, and who listens: a progress bar, a file, anybody."""

import csv
import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from tqdm.auto import tqdm

from rnndyn.training.history import History

_COLUMNS = ["step", "member", "loss", "grad_norm", "validation_loss"]


@dataclasses.dataclass(frozen=True)
class TrainingEvent:
    """Something that happened in a training run."""

    kind: Literal["start", "steps", "validation", "end"]
    """"start", before the first step (of a resumed run too); "steps", after some, a few times a second; "validation",
    after one; "end", after the last step, also when the run was interrupted or diverged."""
    step: int
    """Updates made up to now."""
    num_steps: int
    """Updates asked for."""
    model: Any
    """The model as it stands (of an ensemble, all members)."""
    losses: np.ndarray
    """(M, n): of "steps", the losses of the last n, a row for each member (M = 1 for `fit`); NaN after it stopped."""
    grad_norms: np.ndarray
    """(M, n): the norms of the gradients there."""
    validation_losses: np.ndarray
    """(M,): of "validation", the metric of each member; NaN after it stopped."""
    best: np.ndarray
    """(M,): the best metric of each member so far; infinite before the first."""
    stopped: tuple[str | None, ...]
    """Why each member stopped, `None` while it trains."""


@runtime_checkable
class Callback(Protocol):
    """Whoever is called with a `TrainingEvent` is a callback: a function will do.

    What is true that it returns ends the training, with `history.stopped == "callback"`. Callbacks run on the host
    between blocks of steps, and change no number of the run.
    """

    def __call__(self, event: TrainingEvent) -> Any:
        """Take note of `event`."""
        ...


class ProgressBar:
    """The progress bar of `fit(progress=True)`, as a callback."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, event: TrainingEvent) -> None:
        """Move on."""
        if event.kind == "start":
            # None: only on a terminal.
            self._bar = tqdm(total=event.num_steps, initial=event.step, desc="fit", disable=None)
        elif event.kind == "steps":
            self._bar.set_postfix(_postfix(event), refresh=False)
            self._bar.update(event.losses.shape[1])
        elif event.kind == "end":
            self._bar.close()


class LossCurve:
    """A callback that writes losses to a CSV file as they come, for a plot that follows.

    ```python
    rd.fit(..., callbacks=[rd.training.LossCurve("run.csv")])
    history = rd.training.read_loss_curve("run.csv")            # at any time, from anywhere
    rd.plotting.plot_training(history)
    ```

    One line a step and member, `step,member,loss,grad_norm,validation_loss`, with an empty field for what there is not;
    the line of a validation has only that. A resumed run goes on in the file, from the step of its checkpoint. When the
    disk is full the curve ends with a warning, and the training goes on.
    """

    def __init__(self, path: str | Path):
        """**Arguments:**

        - `path`: the file; missing folders are made. A run that is not resumed refuses an existing one.
        """
        self.path = Path(path)
        self._broken = False

    def __call__(self, event: TrainingEvent) -> None:
        """Write what is new.

        **Raises:** `ValueError` at the start of a run where the file exists and does not belong to it.
        """
        try:
            if event.kind == "start":
                self._begin(event)
            elif not self._broken:
                self._append(event)
        except OSError as error:
            if event.kind == "start":
                raise ValueError(f"LossCurve: {self.path} cannot be written ({error}).") from error
            self._broken = True
            warnings.warn(f"The loss curve {self.path} ends at step {event.step}: {error}.", stacklevel=2)

    def _begin(self, event: TrainingEvent) -> None:
        if event.step == 0 and self.path.exists():
            raise ValueError(f"LossCurve: {self.path} exists. Delete it, choose another path, or resume its run.")
        rows = [row for row in _rows(self.path) if int(row[0]) <= event.step] if self.path.exists() else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(self.path.name + ".tmp")
        with unfinished.open("w", newline="") as file:
            csv.writer(file).writerows([_COLUMNS, *rows])
        os.replace(unfinished, self.path)

    def _append(self, event: TrainingEvent) -> None:
        rows: list[list[Any]] = []
        if event.kind == "steps":
            first = event.step - event.losses.shape[1] + 1
            for member, (losses, norms) in enumerate(zip(event.losses, event.grad_norms)):
                rows += [
                    [first + i, member, repr(float(loss)), repr(float(norm)), ""]
                    for i, (loss, norm) in enumerate(zip(losses, norms))
                    if not np.isnan(loss) or event.stopped[member] is None
                ]
        elif event.kind == "validation":
            rows = [
                [event.step, member, "", "", repr(float(value))]
                for member, value in enumerate(event.validation_losses)
                if not np.isnan(value) or event.stopped[member] is None
            ]
        if rows:
            # Opened anew each time, so that it may be moved or looked at meanwhile.
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerows(rows)


def read_loss_curve(path: str | Path, member: int = 0) -> History:
    """The history in a file of `LossCurve`, of a run that goes on or has ended.

    **Arguments:**

    - `path`: the file.
    - `member`: which network of an ensemble.

    **Returns:** a `History` up to now, with `stopped` "unknown".

    **Raises:** `ValueError` for a file that `LossCurve` did not write, or without this member.
    """
    path = Path(path)
    rows = [row for row in _rows(path) if int(row[1]) == member]
    if not rows and member:
        raise ValueError(f"member: {path} has no line of member {member}.")
    steps = [row for row in rows if row[2]]
    validations = [row for row in rows if row[4]]
    values = np.array([float(row[4]) for row in validations])
    at = np.array([int(row[0]) for row in validations], np.int64)
    finite = np.isfinite(values)
    return History(
        losses=np.array([float(row[2]) for row in steps]),
        grad_norms=np.array([float(row[3]) for row in steps]),
        learning_rates=None,
        validation_steps=at,
        validation_losses=values,
        best_step=int(at[finite][np.argmin(values[finite])]) if finite.any() else len(steps),
        snapshot_steps=np.zeros(0, np.int64),
        stopped="unknown",
    )


def _rows(path: Path) -> list[list[str]]:
    """The lines of a loss curve, without the last one where it is still being written."""
    text = path.read_text()
    rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
    if not rows or rows[0] != _COLUMNS:
        raise ValueError(f"path: {path} is no loss curve; its first line is not {','.join(_COLUMNS)}.")
    return [row for row in rows[1:] if len(row) == len(_COLUMNS)]


def _postfix(event: TrainingEvent) -> dict[str, str]:
    running = np.array([reason is None for reason in event.stopped])
    recent = event.losses[running, -1] if running.any() else event.losses[:, -1]
    shown = {"loss": f"{np.median(recent):.3g}"}
    if np.isfinite(event.best).any():
        shown["best validation"] = f"{np.median(event.best[np.isfinite(event.best)]):.3g}"
    if len(event.stopped) > 1:
        shown["training"] = f"{running.sum()} of {len(event.stopped)}"
    return shown

"""A study of Optuna over training runs: stored, shared by processes, continued after any interruption."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lgrep.errors import ConfigError, LgrepError
from lgrep.files import write_text
from lgrep.generation.claims import Claims
from lgrep.sweeps.run import Check, Checked
from lgrep.sweeps.space import Parameter

JOURNAL = "study.journal"


@dataclass(frozen=True)
class Goal:
    """What is searched for.

    Attributes:
        metric: of the run's summary.
        direction: which values are better.
        trials: in all, those of earlier starts and of other processes included.
        seed: of the sampler.
        sampler: `tpe` learns from earlier trials, `random` does not.
        prune: stop a trial whose metric is below the median of earlier ones at the same step.
        storage: URL of a database; None: a file in the study's folder.
    """

    metric: str = "probe/knn_top1"
    direction: Literal["maximize", "minimize"] = "maximize"
    trials: int = 20
    seed: int = 0
    sampler: Literal["tpe", "random"] = "tpe"
    prune: bool = False
    storage: str | None = None


def load_optuna() -> Any:
    """Optuna, quietly.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "scripts/sweep.py needs the package 'optuna', which is not installed. Type pip install 'lgrep[tuning]', or "
            "list the values: python train.py -m key=a,b"
        )
    optuna: Any = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Study:
    """The trials of a search space, in a folder that any number of processes may share.

    A trial belongs to the process that holds its claim. When that process ends before the trial does, however it
    ends, the next process takes the trial over with the same values, so that none is lost or repeated; its run
    goes on from its last checkpoint. Values come from a generator seeded by (seed, number of the trial): one process
    that was interrupted proposes what it would have proposed otherwise.

    Args:
        fixed: overrides of every trial.
        space: what is searched.
        goal: see `Goal`.
        check: resolves a composed configuration, or raises ConfigError.

    Raises:
        ConfigError: Optuna is missing, or neither end of the space is a right configuration.
    """

    def __init__(self, fixed: Sequence[str], space: Sequence[Parameter], goal: Goal, check: Check) -> None:
        self.optuna = load_optuna()
        self.fixed, self.space, self.goal, self.check = list(fixed), list(space), goal, check
        about = self._first_check()
        self.name = f"{about.name}_{self._digest()}"
        self.folder = about.sweeps / self.name
        self.needs = about.needs
        self.folder.mkdir(parents=True, exist_ok=True)
        self.claims = Claims(self.folder / "claims")
        said = {"fixed": self.fixed, "space": [vars(parameter) for parameter in self.space]}
        write_text(self.folder / "space.json", json.dumps({**said, "metric": goal.metric}, indent=1) + "\n")
        pruner = self.optuna.pruners.MedianPruner() if goal.prune else self.optuna.pruners.NopPruner()
        try:
            with self._one_at_a_time("open"):
                self.study = self.optuna.create_study(
                    storage=self._storage(),
                    study_name=self.name,
                    direction=goal.direction,
                    pruner=pruner,
                    load_if_exists=True,
                )
        except LgrepError:
            raise
        except Exception as error:  # of the database's driver
            place = goal.storage or self.folder / JOURNAL
            raise ConfigError(f"the study at {place} cannot be opened: {str(error).splitlines()[0]}") from error

    @contextmanager
    def next_trial(self) -> Iterator[Any]:
        """A trial to run, held by this process for the time of the block; None: there is none left."""
        with ExitStack() as held:
            with self._one_at_a_time("ask"):
                trial = self._abandoned(held) or self._new(held)
            yield trial

    def overrides(self, trial: Any) -> list[str]:
        """What is typed for a trial."""
        return [*self.fixed, *(parameter.suggest(trial) for parameter in self.space)]

    def end(self, trial: Any, value: float | None, **facts: Any) -> None:
        """Store how a trial ended; without a value it failed."""
        for name, fact in facts.items():
            trial.set_user_attr(name, fact)
        state = None if value is not None else self.optuna.trial.TrialState.FAIL
        self.study.tell(trial, value, state=state)

    def prune(self, trial: Any, **facts: Any) -> None:
        """Store that a trial was given up."""
        for name, fact in facts.items():
            trial.set_user_attr(name, fact)
        self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)

    def best(self) -> Any:
        """The best trial that was finished; None: there is none."""
        done = [trial for trial in self.study.trials if trial.state == self.optuna.trial.TrialState.COMPLETE]
        sign = 1 if self.goal.direction == "maximize" else -1
        return max(done, key=lambda trial: (sign * trial.value, -trial.number), default=None)

    def _abandoned(self, held: ExitStack) -> Any:
        running = self.optuna.trial.TrialState.RUNNING
        for frozen in self.study.get_trials(deepcopy=False, states=(running,)):
            if held.enter_context(self.claims.take(f"trial-{frozen.number}")):
                return self.optuna.trial.Trial(self._seeded(frozen.number), frozen._trial_id)
        return None

    def _new(self, held: ExitStack) -> Any:
        number = len(self.study.get_trials(deepcopy=False))
        if number >= self.goal.trials:
            return None
        # before the trial exists: others take whatever runs and nobody holds
        while not held.enter_context(self.claims.take(f"trial-{number}")):
            time.sleep(0.5)  # a process that died just before it made this trial
        return self._seeded(number).ask()

    def _seeded(self, number: int) -> Any:
        seed = int.from_bytes(hashlib.sha256(f"{self.goal.seed} {number}".encode()).digest()[:4], "big")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some versions call `constant_liar` experimental
            samplers = self.optuna.samplers
            self.study.sampler = (
                samplers.TPESampler(seed=seed, constant_liar=True)
                if self.goal.sampler == "tpe"
                else samplers.RandomSampler(seed=seed)
            )
        return self.study

    def _first_check(self) -> Checked:
        """Refuse what cannot run anywhere: both ends of the space are composed before anything is written."""
        errors: list[LgrepError] = []
        for end in (0, 1):
            try:
                about = Checked.of(
                    "train", [*self.fixed, *(parameter.corners()[end] for parameter in self.space)], self.check
                )
            except LgrepError as error:
                errors.append(error)
                continue
            if about.fresh:
                raise ConfigError("resume=never would begin trials again that were interrupted. Leave it out")
            return about
        raise errors[0]

    def _digest(self) -> str:
        said = [sorted(self.fixed), [vars(parameter) for parameter in self.space]]
        goal = [self.goal.metric, self.goal.direction, self.goal.sampler, self.goal.seed]
        return hashlib.sha256(json.dumps([said, goal], sort_keys=True).encode()).hexdigest()[:8]

    def _storage(self) -> Any:
        if self.goal.storage is not None:
            return self.goal.storage
        path = self.folder / JOURNAL
        mend(path)
        journal = self.optuna.storages.journal
        return self.optuna.storages.JournalStorage(journal.JournalFileBackend(str(path)))

    @contextmanager
    def _one_at_a_time(self, what: str) -> Iterator[None]:
        while True:
            with self.claims.take(what) as mine:
                if mine:
                    yield
                    return
            time.sleep(0.05)


def mend(path: Path) -> None:
    """Cut off half a line that a full disk or a power cut left at the end of the journal, which Optuna cannot read."""
    if not path.is_file():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("rb+") as handle:
            handle.truncate(content.rfind(b"\n") + 1)
            os.fsync(handle.fileno())

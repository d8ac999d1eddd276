"""The guidance-scale sweep: makes sets, trains on each of them and on real drawings, evaluates, draws the curves."""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lgrep.config.compose import compose_config
from lgrep.errors import LgrepError
from lgrep.evaluation.cache import FeatureCache
from lgrep.evaluation.run import evaluate
from lgrep.generation import run as generation
from lgrep.generation.plan import read_plan
from lgrep.generation.sweep_measures import SetMeasures
from lgrep.generation.sweep_report import Point, Source, draw, write_report
from lgrep.generation.sweep_settings import Job, SweepSettings, generate_overrides, jobs_of, train_overrides
from lgrep.records import provenance
from lgrep.training import resolve as training
from lgrep.training.folder import RunFolder

EVALUATIONS = {"knn": "knn", "linear": "linear", "emoji": "R@1"}  # evaluator -> what is drawn of it
_BESIDE: tuple[Source, ...] = ("untrained", "pixels")
Program = Callable[[str, Sequence[str]], dict[str, Any]]  # name, what is typed after it -> its result, or an error


class Sweep:
    """Does all jobs of a sweep that are not done yet.

    A job that fails does not end the rest. Sets, runs and evaluations that are finished are taken as they are, so the
    same settings go on after any interruption; tables are written anew after every job, the picture at the end.

    Args:
        settings: what is compared.
        program: runs `generate` or `train`.
        measures: of the sets; None: `SetMeasures`.
    """

    def __init__(self, settings: SweepSettings, program: Program, measures: SetMeasures | None = None) -> None:
        self.settings, self.program = settings, program
        self.measures = measures or SetMeasures(settings.out / "measures", settings.images)
        self.points: list[Point] = []
        self.sets: dict[float, dict[str, Any]] = {}
        self.runs: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []
        self._seconds: dict[str, list[float]] = {"generate": [], "train": []}

    def check(self) -> None:
        """Compose every kind of job.

        Raises:
            ConfigError: settings that a program does not have.
        """
        generation.resolve(*compose_config("generate", generate_overrides(self.settings, self.settings.scales[0])))
        for method in self.settings.methods:
            for scale in (None, self.settings.scales[0]):
                typed = train_overrides(self.settings, Job(scale, method, 0), "generated")
                training.resolve(*compose_config("train", typed))

    def run(self) -> int:
        """Do the jobs.

        Returns:
            Exit code: 0 all are done, 1 some failed.
        """
        self.check()
        jobs = list(jobs_of(self.settings))
        try:
            for number, job in enumerate(jobs):
                print(f"[{number + 1}/{len(jobs)}] {job.text}{self._left(jobs[number:])}", flush=True)
                self._do(job)
                write_report(self.points, self._about(), self.settings.out)
        finally:
            if self.points:
                draw(self.points, self.settings.out / "guidance.png")
        return 1 if self.failed else 0

    def _do(self, job: Job) -> None:
        begun = time.monotonic()
        try:
            new = self._set(job) if job.kind == "generate" else self._run(job)
        except Exception as error:  # of whatever kind: the others still run
            self.failed.append({"job": job.text, "error": f"{type(error).__name__}: {error}"})
            print(f"failed: {job.text}: {error}", file=sys.stderr, flush=True)
        else:
            if new:
                self._seconds[job.kind].append(time.monotonic() - begun)

    def _set(self, job: Job) -> bool:
        """Make and measure a set; whether there was anything to do."""
        assert job.scale is not None
        summary = self.program("generate", generate_overrides(self.settings, job.scale))
        place = Path(summary["run_dir"])
        plan = read_plan(place)
        self.sets[job.scale] = {
            "scale": job.scale,
            **{key: summary.get(key) for key in ("run_dir", "identity", "content_hash", "pictures")},
            "weights": plan.painter["parts"],
            "scheduler": plan.painter["scheduler"],
            "settings": {**plan.settings, "seed": plan.seed, "captions": plan.captions},
        }
        self._add("synthetic", job, self.measures.of(place))
        if not any(point.source == "real" and point.method is None for point in self.points):
            self._add("real", Job(None), self.measures.real())
        return True

    def _run(self, job: Job) -> bool:
        """Train and evaluate; whether it was trained now."""
        if job.scale is not None and job.scale not in self.sets:
            raise LgrepError("its set is missing, see above")
        root = "" if job.scale is None else str(self.sets[job.scale]["run_dir"])
        typed = train_overrides(self.settings, job, root)
        found = finished_run(typed)
        summary = found or self.program("train", typed)
        values = self._evaluated(str(summary["run_dir"]))
        self.runs.append({
            "method": job.method, "scale": job.scale, "seed": job.seed, "overrides": typed, "values": values,
            **{key: summary.get(key) for key in ("run_dir", "weights_hash", "data_hash", "budget", "commit")},
        })  # fmt: skip
        self._add("synthetic" if job.scale is not None else "real", job, values)
        return found is None

    def _evaluated(self, run_dir: str) -> dict[str, float]:
        """Accuracies of a run; those of the untrained network and of pixels go among the points once."""
        records = evaluate(
            [run_dir],
            ["emoji"],
            out=self.settings.out / "evaluations",
            device="cuda" if torch.cuda.is_available() else "cpu",
            console=Console(file=io.StringIO()),
            evaluators=list(EVALUATIONS),
            cache=FeatureCache(),
            resume=True,
        )
        found: dict[str, dict[str, float]] = {}
        for record in records:
            name, metric = record["model"]["name"], EVALUATIONS[record["evaluation"]]
            beside = "pixels" if name == "pixels" else "untrained"
            if metric in record["values"]:
                found.setdefault("own" if name == run_dir else beside, {})[metric] = record["values"][metric]
        for source in _BESIDE:
            if not any(point.source == source for point in self.points):
                self._add(source, Job(None), found[source])
        return found["own"]

    def _add(self, source: Source, job: Job, values: dict[str, float]) -> None:
        self.points += [Point(name, source, job.method, job.scale, job.seed, value) for name, value in values.items()]

    def _left(self, jobs: Sequence[Job]) -> str:
        """How long the jobs that are left may take, once all kinds of them are known."""
        left = [self._seconds[job.kind] for job in jobs]
        if not all(left):
            return ""
        return f" (about {sum(statistics.median(known) for known in left) / 60:.0f} min left)"

    def _about(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            **provenance(),
            "sets": list(self.sets.values()),
            "runs": self.runs,
            "failed": self.failed,
        }


def finished_run(overrides: Sequence[str]) -> dict[str, Any] | None:
    """The summary of the run that this command line names, if it is finished."""
    resolved = training.resolve(*compose_config("train", overrides))
    return RunFolder.of(resolved.config.paths.runs, resolved.name, resolved.values).summary

"""The entry points as a user runs them, and the commands of the README."""

from __future__ import annotations

import errno
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from layouts import stablerep_layout
from made import picture_folder

from lgrep.cli import _with_demo, run
from lgrep.config.compose import compose_config, parse
from lgrep.config.schema import EvaluateConfig
from lgrep.errors import ConfigError, DataError, Interrupted
from lgrep.sweeps.jobs import expand
from lgrep.training.resolve import resolve

ROOT = Path(__file__).resolve().parents[1]
DEMO_SHORT = ("duration.steps=3", "schedule.warmup_steps=1", "loader.batch_size=8", "trainer.accelerator=cpu")


def start(*command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300, check=False, cwd=folder or ROOT
    )


def readme_commands() -> list[str]:
    """Every line of the README's and docs' bash blocks that starts an entry point."""
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            for line in block.splitlines():
                command = line.split("#")[0].strip()
                if re.match(r"(\S*python3?|python) (train|evaluate)\.py", command):
                    found.append(command)
    return found


def test_the_demo_trains_evaluates_and_leaves_its_files(tmp_path: Path) -> None:
    trained = start("train.py", "+experiment=stablerep_emoji", *DEMO_SHORT, f"paths.runs={tmp_path}/runs")
    assert trained.returncode == 0, trained.stderr
    assert "5 positives per picture" in trained.stdout
    folder = next((tmp_path / "runs" / "stablerep_emoji").iterdir())
    for name in ("config.yaml", "metrics.csv", "speed.csv", "summary.json", "checkpoints/last.ckpt"):
        assert (folder / name).stat().st_size > 0, name
    for name in ("positives_step0", "curves", "neighbours"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 5000, name
    assert str(folder) in trained.stdout
    measured = start("evaluate.py", f"model={tmp_path}/runs/stablerep_emoji", "dataset=digits", f"out={tmp_path}/out")
    assert measured.returncode == 0, measured.stderr
    assert "pixels" in measured.stdout and "random" in measured.stdout
    assert (tmp_path / "out" / "results.csv").is_file()
    assert len(list((tmp_path / "out" / "records").glob("*.json"))) >= 6


def test_wrong_input_on_the_command_line(tmp_path: Path) -> None:
    wrong = start("train.py", "method.temprature=0.1", folder=ROOT)
    assert wrong.returncode == 2
    assert "did you mean 'temperature'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert "Traceback" in start("train.py", "method.temprature=0.1", "debug=true").stderr


def test_help_fits_a_screen_and_experiments_are_listed() -> None:
    for entry in ("train.py", "evaluate.py"):
        shown = start(entry, "--help")
        assert shown.returncode == 0
        assert len(shown.stdout.splitlines()) <= 30
    listed = start("train.py", "--experiments").stdout
    assert {line.split()[0] for line in listed.splitlines()} == {
        path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml")
    }


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def failing(error: BaseException) -> int:
        def job(values: object, choices: object) -> None:
            raise error

        return run("train", "", job, [])

    assert failing(ConfigError("x")) == 2
    assert failing(DataError("x")) == 3
    assert failing(KeyboardInterrupt()) == 130
    assert failing(Interrupted(signal.SIGTERM, 7)) == 143
    printed = capsys.readouterr().err
    assert "error: x" in printed and "SIGTERM after step 7" in printed and "Traceback" not in printed
    assert failing(OSError(errno.ENOSPC, "No space left on device", "runs/metrics.csv")) == 1
    printed = capsys.readouterr().err
    assert "No space left on device while writing runs/metrics.csv. Make room" in printed and "Traceback" not in printed
    assert failing(ValueError("a defect")) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mutlirun", "seed=1,2"], "--mutlirun: unknown flag; did you mean '--multirun'. Settings"),
        (["--seed=1"], "--seed=1: unknown flag;"),
        (["-m", "seed=1,2"], "-m: this program does not sweep"),
    ],
)
def test_flags(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "", lambda values, choices: None, arguments) == 2
    assert message in capsys.readouterr().err


def test_without_a_choice_the_demo_runs() -> None:
    assert _with_demo(["seed=1"], "stablerep_emoji") == ["+experiment=stablerep_emoji", "seed=1"]
    assert _with_demo(["method=simclr"], "stablerep_emoji") == ["method=simclr"]
    assert _with_demo(["+experiment=simclr_emoji"], "stablerep_emoji") == ["+experiment=simclr_emoji"]


def test_the_readme_has_commands() -> None:
    assert len(readme_commands()) >= 6


@pytest.mark.parametrize("command", readme_commands())
def test_every_command_of_the_docs_is_accepted(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)
    entry, arguments = words[1], words[2:]
    monkeypatch.chdir(tmp_path)
    picture_folder(tmp_path / "PICTURES")
    if "data.root=DIR" in command or "[DIR/" in command:
        for scale in ("2.0", "8.0"):
            stablerep_layout(tmp_path / "DIR", captions=1, scale=scale)
    if "--experiments" in arguments:
        return
    if entry == "train.py" and "-m" in arguments:
        arguments.remove("-m")
        for job in expand("train", _with_demo(arguments, "stablerep_emoji")):
            resolve(*compose_config("train", job.overrides))
    elif entry == "train.py":
        resolved = resolve(*compose_config("train", _with_demo(arguments, "stablerep_emoji")))
        assert len(resolved.source.training()) > 0
    else:
        config = parse(EvaluateConfig, compose_config("evaluate", arguments)[0])
        assert config.model

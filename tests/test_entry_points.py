"""The entry points as a user runs them, and the commands of the README."""

from __future__ import annotations

import errno
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import published
import pytest
from archives import archives
from layouts import stablerep_layout
from made import picture_folder
from programs import run_program

from lgrep.cli import run, with_demo
from lgrep.config.compose import compose_config, parse
from lgrep.config.prepare import PrepareConfig, check_task, spelled_out
from lgrep.config.schema import EvaluateConfig, GenerateConfig
from lgrep.config.sources import build_source, source_spec
from lgrep.config.spec import validate_spec
from lgrep.data.preparing import prepare
from lgrep.data.sources import FolderSource
from lgrep.errors import ConfigError, DataError, Interrupted
from lgrep.mining.settings import MineConfig
from lgrep.sweeps.jobs import expand
from lgrep.sweeps.launchers import choose_launcher, split_launcher
from lgrep.training.resolve import resolve

ROOT = Path(__file__).resolve().parents[1]
DEMO_SHORT = ("duration.steps=3", "schedule.warmup_steps=1", "loader.batch_size=8", "trainer.accelerator=cpu")


def start(*command: str, cold: bool = False) -> subprocess.CompletedProcess[str]:
    """`cold`: in a fresh interpreter."""
    if not cold:
        return run_program([sys.executable, *command], cwd=ROOT)
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300, check=False, cwd=ROOT
    )


def readme_commands() -> list[str]:
    """Every command of the README's and docs' bash blocks that starts an entry point or a script."""
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.split("#")[0].strip()
                if re.match(r"(\S*python3?|python) (\w+|scripts/\w+)\.py", command):
                    found.append(command)
    return found


def test_the_demo_trains_evaluates_and_leaves_its_files(tmp_path: Path) -> None:
    trained = start("train.py", "+experiment=stablerep_emoji", *DEMO_SHORT, f"paths.runs={tmp_path}/runs", cold=True)
    assert trained.returncode == 0, trained.stderr
    assert "5 positives per picture" in trained.stdout
    folder = next((tmp_path / "runs" / "stablerep_emoji").iterdir())
    for name in ("config.yaml", "metrics.csv", "speed.csv", "summary.json", "checkpoints/last.ckpt"):
        assert (folder / name).stat().st_size > 0, name
    for name in ("positives_step0", "curves", "neighbours"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 5000, name
    assert str(folder) in trained.stdout
    command = ("evaluate.py", f"model={tmp_path}/runs/stablerep_emoji", "dataset=digits", f"out={tmp_path}/out")
    measured = start(*command, cold=True)
    assert measured.returncode == 0, measured.stderr
    assert "pixels" in measured.stdout and "random" in measured.stdout
    assert (tmp_path / "out" / "results.csv").is_file()
    assert len(list((tmp_path / "out" / "records").glob("*.json"))) >= 6


def test_wrong_input_on_the_command_line(tmp_path: Path) -> None:
    wrong = start("train.py", "method.temprature=0.1")
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
    assert failing(PermissionError(errno.EACCES, "Permission denied", "/out/runs")) == 1
    printed = capsys.readouterr().err
    assert printed == "error: /out/runs: Permission denied. Type another place\n"
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
    assert with_demo(["seed=1"], "stablerep_emoji") == ["+experiment=stablerep_emoji", "seed=1"]
    assert with_demo(["method=simclr"], "stablerep_emoji") == ["method=simclr"]
    assert with_demo(["+experiment=simclr_emoji"], "stablerep_emoji") == ["+experiment=simclr_emoji"]


def test_the_readme_has_commands() -> None:
    assert len(readme_commands()) >= 6


def cc12m(folder: Path) -> None:
    published.cc12m(folder)
    (folder / "pictures").rename(folder / "images")


def yfcc15m(folder: Path) -> None:
    published.yfcc15m(folder)
    (folder / "pictures" / "images").rename(folder / "images")


def cc3m_of_lgssl(folder: Path) -> None:
    published.lgssl(folder)
    (folder / "redcaps").rename(folder / "cc3m")
    (folder / "redcaps.json").rename(folder / "cc3m.json")


# what the docs' commands find in DIR
LAYOUTS: dict[str, Callable[[Path], object]] = {
    "cc12m": cc12m,
    "yfcc15m": yfcc15m,
    "redcaps_2020": published.lgssl,
    "redcaps": published.redcaps,
    "lgssl": cc3m_of_lgssl,
    "imagenet": published.imagenet,
}


@pytest.mark.parametrize("command", readme_commands())
def test_every_command_of_the_docs_is_accepted(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)
    entry, arguments = words[1], words[2:]
    monkeypatch.chdir(tmp_path)
    picture_folder(tmp_path / "PICTURES")
    if re.search(r"data\.(shards|archives|files)=", command):
        archives(tmp_path / "DIR")
    layout = next((make for name, make in LAYOUTS.items() if f"data={name} " in command), None)
    if layout is not None:
        layout(tmp_path / "DIR")
    elif "data.root=DIR" in command or "[DIR/" in command:
        for scale in ("2.0", "8.0"):
            stablerep_layout(tmp_path / "DIR", captions=1, scale=scale)
    if "--experiments" in arguments:
        return
    if "generated" in command and entry == "train.py":
        about = {"settings": {"guidance_scale": 2.0}, "seed": 0, "selection": {"images_per_caption": 2}}
        table = FolderSource(str(tmp_path / "PICTURES"), group="folder").training()
        prepare(table, tmp_path / "generated/emoji_emoji/12345678", workers=0, extra={"generation": about})
    if "data.root=SET" in command:
        prepare(FolderSource(str(tmp_path / "PICTURES")).training(), tmp_path / "SET", workers=0)
    if entry == "train.py" and "-m" in arguments:
        arguments.remove("-m")
        own, rest = split_launcher(arguments)
        choose_launcher(own)
        for job in expand("train", with_demo(rest, "stablerep_emoji")):
            resolve(*compose_config("train", job.overrides))
    elif entry == "train.py":
        resolved = resolve(*compose_config("train", with_demo(arguments, "stablerep_emoji")))
        assert len(resolved.source.training()) > 0
    elif entry == "evaluate.py":
        assert parse(EvaluateConfig, compose_config("evaluate", arguments)[0]).model
    else:
        CHECKS[entry.removeprefix("scripts/")](arguments)


def check_prepare(arguments: list[str]) -> None:
    config = parse(PrepareConfig, compose_config("prepare", spelled_out(arguments))[0])
    check_task(config)
    if config.make is not None:
        validate_spec(config.make, "make", injected=("out",))
    else:
        build_source(source_spec(config.data or {}))


def check_inspect(arguments: list[str]) -> None:
    own = {"out", "groups", "views", "duplicates"}
    rest = [argument for argument in arguments if argument.partition("=")[0] not in own]
    assert len(resolve(*compose_config("train", ["method=stablerep", *rest])).source.training()) > 0


def check_mine(arguments: list[str]) -> None:
    config = parse(MineConfig, compose_config("mine", arguments)[0])
    assert len(build_source(source_spec(config.data)).training()) > 0


def check_generate(arguments: list[str]) -> None:
    swept = "-m" in arguments
    given = [argument for argument in arguments if argument != "-m"]
    for overrides in [job.overrides for job in expand("generate", given)] if swept else [given]:
        config = parse(GenerateConfig, compose_config("generate", overrides)[0])
        assert config.limit is None or config.limit > 0


def check_options(script: str, arguments: list[str]) -> None:
    """Options of a program that reads them itself."""
    text = (Path(__file__).parents[1] / "scripts" / script).read_text(encoding="utf-8")
    for argument in arguments:
        assert not argument.startswith("--") or f'"{argument}"' in text, argument


CHECKS = {
    "generate.py": check_generate,
    **{
        name: partial(check_options, name)
        for name in (
            "report.py",
            "convert_checkpoint.py",
            "benchmark_methods.py",
            "new_method.py",
            "sweep.py",
            "wandb_dashboard.py",
            "train_generator.py",
            "report_generator.py",
            "write_experiments_doc.py",
            "guidance_sweep.py",
        )
    },
    "prepare_data.py": check_prepare,
    "inspect_pairs.py": check_inspect,
    "mine_neighbours.py": check_mine,
    "inspect_neighbours.py": check_mine,
}

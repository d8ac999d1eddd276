"""Interruption anywhere, then the same weights, metrics and logs as without it (promise 3)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lgrep.methods.base import Method
from training.runs import assert_equal, only_run, overrides, run, script, start, state

COMPARED = ("metrics.csv", "skipped.jsonl")


class Interruption(BaseException):
    """Ends a run like a signal would; no handler of an Exception sees it."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, steps: list[int]) -> None:
    left, begin = list(steps), Method.on_train_batch_start

    def hook(self: Method, batch: object, batch_idx: int) -> None:
        if left and self.global_step == left[0]:
            left.pop(0)
            raise Interruption
        begin(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(Method, "on_train_batch_start", hook)


def break_some_pictures(root: Path) -> None:
    for file in sorted(root.rglob("1.png"))[:3]:
        file.write_bytes(file.read_bytes()[:50])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run, with broken pictures that are replaced; its pictures are beside it in `data`."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = overrides(folder / "data", folder / "runs", "loader.max_skip_share=1", pictures=True)
    break_some_pictures(folder / "data")
    assert run(arguments)["finished"]
    return folder / "runs"


def same_run(whole: Path, runs: Path, *more: str, pictures: bool = False) -> list[str]:
    """The overrides of the uninterrupted run, for other run folders."""
    return overrides(whole.parent / "data", runs, "loader.max_skip_share=1", *more, pictures=pictures)


def assert_same_run(first: Path, second: Path) -> None:
    assert_equal(state(first), state(second))
    for name in COMPARED:
        a, b = (only_run(runs) / name for runs in (first, second))
        assert a.read_bytes() == b.read_bytes(), name


@pytest.mark.parametrize("steps", [[1], [3], [4], [8, 12], [2, 5, 6, 9, 11]])
def test_interrupted_at_any_step_equals_uninterrupted(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    parts = same_run(whole, tmp_path / "parts", pictures=steps == [3])  # drawn or not, the training is the same
    with monkeypatch.context() as patch:
        interrupt_at(patch, steps)
        for _ in steps:
            with pytest.raises(Interruption):
                run(parts)
    assert run(parts)["finished"]
    assert_same_run(whole, tmp_path / "parts")


def test_killed_processes_equal_uninterrupted(tmp_path: Path, whole: Path) -> None:
    """The last process is a fresh interpreter, whose string hashes are others."""
    arguments = [script(tmp_path), *same_run(whole, tmp_path / "killed")]
    for step in (5, 11):
        assert start(arguments, kill_at=step).returncode == -9
    finished = start(arguments, cold=True)
    assert finished.returncode == 0, finished.stderr
    assert "goes on after step 9" in finished.stdout
    assert_same_run(whole, tmp_path / "killed")


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(tmp_path: Path, whole: Path, workers: int) -> None:
    run(same_run(whole, tmp_path / "many", f"loader.workers={workers}"))
    assert_same_run(whole, tmp_path / "many")


def test_a_finished_run_is_left_alone_and_can_be_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = overrides(tmp_path / "data", tmp_path / "runs", "duration.steps=4")
    first = run(arguments)
    capsys.readouterr()
    assert run(arguments) == first
    assert "holds the finished run" in capsys.readouterr().out
    again = run([*arguments, "resume=never"])
    assert again["run_dir"] == first["run_dir"] + "-2"
    assert again["weights_hash"] == first["weights_hash"]


def test_another_configuration_gets_another_folder(tmp_path: Path) -> None:
    arguments = overrides(tmp_path / "data", tmp_path / "runs", "duration.steps=2", "schedule.warmup_steps=1")
    folders = {
        run([*arguments, *more])["run_dir"]
        for more in ([], ["seed=1"], ["method.temperature=0.2"], ["loader.cache_mb=1"])
    }
    assert len(folders) == 3  # a cache changes nothing that is computed


def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = same_run(whole, tmp_path / "parts")
    with monkeypatch.context() as patch:
        interrupt_at(patch, [8])
        with pytest.raises(Interruption):
            run(parts)
    newest = only_run(tmp_path / "parts") / "checkpoints" / "step-00000006.ckpt"
    newest.write_bytes(newest.read_bytes()[:3000])
    assert run(parts)["finished"]
    printed = capsys.readouterr().out
    assert "step-00000006.ckpt is damaged" in printed
    assert "goes on after step 3" in printed
    assert_same_run(whole, tmp_path / "parts")


def test_checkpoints_hold_plain_types_and_only_the_newest_are_kept(whole: Path) -> None:
    folder = only_run(whole) / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step-00000012.ckpt", "step-00000013.ckpt"]
    about = torch.load(folder / "last.ckpt", weights_only=True)["lgrep"]
    assert about["backbone"]["name"] == "timm/test_resnet"
    assert about["budget"]["steps"] == 13
    assert about["budget"]["pictures"] == 13 * 5 * 2


def test_the_reloaded_encoder_gives_the_trained_features(whole: Path) -> None:
    import lgrep

    encoder, transform = lgrep.load_encoder(only_run(whole))
    trained = {key.removeprefix("backbone."): value for key, value in state(whole)["state_dict"].items()}
    assert all(torch.equal(value, trained[key]) for key, value in encoder.state_dict().items())
    assert transform.size == 32

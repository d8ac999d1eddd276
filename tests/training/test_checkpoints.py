"""Checkpoints: damage is found, the best one is kept, and a run begins where it is told to."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrep.callbacks.checkpointing import Best
from lgrep.checkpoints.seal import damage, save_sealed
from lgrep.config.compose import compose_config
from lgrep.errors import CheckpointError, ConfigError
from lgrep.methods.base import Method
from lgrep.training.folder import RunFolder
from lgrep.training.resuming import state_to_resume
from training.ranks import quick
from training.runs import assert_equal, only_run, overrides, run, state

CONTENT = {"weights": torch.arange(500.0), "name": "x", "steps": [1, 2]}


def sealed() -> bytes:
    buffer = io.BytesIO()
    save_sealed(CONTENT, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sealed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "state.ckpt"
    path.write_bytes(sealed())
    return path


def test_a_sealed_file_is_what_torch_saves_and_its_hash_can_be_checked_by_hand(tmp_path: Path) -> None:
    data = sealed()
    path = tmp_path / "file.ckpt"
    path.write_bytes(data)
    for mmap in (False, True):
        assert_equal(torch.load(path, weights_only=True, mmap=mmap), CONTENT)
    assert damage(path) is None
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        comment = archive.comment.decode()
    plain = data[: -len(comment) - 2] + b"\0\0"
    assert comment == "sha256:" + hashlib.sha256(plain).hexdigest()
    assert zipfile.ZipFile(io.BytesIO(plain)).testzip() is None


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_changed_bit_anywhere_is_damage(sealed_file: Path, place: float, bit: int) -> None:
    data = bytearray(sealed())
    data[int(place * len(data))] ^= 1 << bit
    path = sealed_file.with_name("flipped.ckpt")
    path.write_bytes(data)
    assert damage(path) is not None


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "bit": lambda data: data[:1500] + bytes([data[1500] ^ 1]) + data[1501:],
    "a block of zeros": lambda data: data[:1024] + bytes(512) + data[1536:],
    "cut off": cut,
    "a tail of zeros": lambda data: cut(data) + bytes(len(data) - len(cut(data))),
    "one byte less": lambda data: data[:-1],
    "only zeros": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
    "another file": lambda data: b"not a checkpoint",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_the_newest_intact_state_is_taken(tmp_path: Path, kind: str) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    for step in (3, 6, 9):
        (folder.checkpoints / f"step-{step:08d}.ckpt").write_bytes(sealed())
    newest = folder.checkpoints / "step-00000009.ckpt"
    newest.write_bytes(DAMAGES[kind](newest.read_bytes()))
    found, problems = folder.latest_checkpoint()
    assert found is not None and found.name == "step-00000006.ckpt"
    assert len(problems) == 1 and "step-00000009.ckpt is damaged" in problems[0] and "\n" not in problems[0]


def test_all_states_damaged_is_the_beginning(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    for step in (3, 6):
        (folder.checkpoints / f"step-{step:08d}.ckpt").write_bytes(b"")
    found, problems = folder.latest_checkpoint()
    assert found is None and len(problems) == 2


def test_the_best_of_measurements() -> None:
    best = Best("m")
    values = [float("nan"), 0.2, 0.5, 0.5, float("inf"), 0.1]
    assert [best.update(value, step) for step, value in enumerate(values)] == [False, True, True, False, False, False]
    assert (best.value, best.step) == (0.5, 2)
    lowest = Best("m", "min")
    assert [lowest.update(value, step) for step, value in enumerate([3, 4, 1])] == [True, False, True]


class Interruption(BaseException):
    """Ends a run like a signal would; no handler of an Exception sees it."""


def interrupt(patch: pytest.MonkeyPatch, step: int) -> None:
    begin = Method.on_train_batch_start

    def hook(self: Method, batch: object, batch_idx: int) -> None:
        if self.global_step == step:
            raise Interruption
        begin(self, batch, batch_idx)  # type: ignore[arg-type]

    patch.setattr(Method, "on_train_batch_start", hook)


def script(patch: pytest.MonkeyPatch, values: dict[int, float]) -> None:
    """The probe measures these values."""
    from lgrep.callbacks import knn
    from lgrep.callbacks.periodic import report

    def act(self: knn.OnlineKNN, trainer: object, module: Method, outputs: object, batch: object) -> None:
        report(trainer, module, {"probe/knn_top1": torch.tensor(values[module.global_step])})  # type: ignore[arg-type]

    patch.setattr(knn.OnlineKNN, "act", act)


def test_the_best_state_outlives_the_newest_ones_and_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Best at step 4, which is no multiple of three; the run is interrupted right after and goes on."""
    arguments = [
        *quick(overrides(tmp_path / "data", tmp_path / "runs", "checkpoint.best=probe/knn_top1", "checkpoint.keep=1")),
        "+callbacks.knn._target_=lgrep.callbacks.knn.OnlineKNN", "+callbacks.knn.every_n_steps=4",
    ]  # fmt: skip
    script(monkeypatch, {4: 0.9, 8: 0.5, 12: 0.9, 13: 0.1})
    with monkeypatch.context() as patch:
        interrupt(patch, 7)
        with pytest.raises(Interruption):
            run(arguments)
    folder = only_run(tmp_path / "runs") / "checkpoints"
    (folder / "step-00000099.partial").write_bytes(b"half")
    assert run(arguments)["finished"]
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt", "step-00000013.ckpt"]
    assert torch.load(folder / "best.ckpt", weights_only=True)["global_step"] == 4
    assert damage(folder / "best.ckpt") is None and damage(folder / "last.ckpt") is None
    assert "never measured" not in capsys.readouterr().out


def test_a_run_begins_where_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = quick(overrides(tmp_path / "data", tmp_path / "first", "checkpoint.keep=9", "checkpoint.best=probe/x"))
    assert run(common)["finished"]
    assert "checkpoint.best=probe/x was never measured (nothing was)" in capsys.readouterr().out
    begun = only_run(tmp_path / "first") / "checkpoints" / "step-00000006.ckpt"
    other = [*common, f"paths.runs={tmp_path / 'second'}", f"resume={begun}"]
    with monkeypatch.context() as patch:
        interrupt(patch, 10)
        with pytest.raises(Interruption):
            run(other)
    assert "goes on after step 6" in capsys.readouterr().out
    assert run(other)["finished"]  # the same command now goes on from the run's own state
    assert "goes on after step 9" in capsys.readouterr().out
    assert_equal(state(tmp_path / "second")["state_dict"], state(tmp_path / "first")["state_dict"])
    back = only_run(tmp_path / "second")
    (back / "summary.json").unlink()
    again = [*common, f"paths.runs={tmp_path / 'second'}", f"resume={back / 'checkpoints' / 'step-00000009.ckpt'}"]
    assert run(again)["finished"]
    assert "goes on after step 9" in capsys.readouterr().out
    wider = [*other, f"paths.runs={tmp_path / 'third'}", "method.projector_dims=[16,16,4]"]
    with pytest.raises(CheckpointError, match=r"does not fit this run: .* is \(4, 16\)|\(8, 16\) there and \(4, 16\)"):
        run(wider)
    with pytest.raises(CheckpointError, match="6 steps old, and this run has 5"):
        run([*other, f"paths.runs={tmp_path / 'third'}", "duration.steps=5"])


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"resume=atuo: there is no such file"):
        state_to_resume(folder, "atuo")
    torch.save({"state_dict": {}}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="weights only"):
        state_to_resume(folder, str(tmp_path / "weights.pth"))
    with pytest.raises(CheckpointError, match="no state there can be used"):
        state_to_resume(folder, str(tmp_path))
    assert state_to_resume(folder, "auto") == (None, [])


def test_how_a_run_is_kept_is_no_part_of_what_it_is() -> None:
    from lgrep.config.identity import identity

    plain, _ = compose_config("train", [])
    other, _ = compose_config(
        "train", ["checkpoint.best=probe/knn_top1", "trainer.timeout_s=60", "trainer.requeue=false", "resume=x.ckpt"]
    )
    assert identity(plain) == identity(other)

"""No file that others made is executed, and none writes or reads outside of its folder: every place that takes one."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from made import encoded

import lgrep
from lgrep.checkpoints.seal import save_sealed
from lgrep.errors import LgrepError

TRAP = "touch trapped"
SOURCES = Path(lgrep.__file__).parent


class Trap:
    def __reduce__(self) -> Any:
        return os.system, (TRAP,)


class Called:
    """The same through a class that is asked for: its constructor."""

    def __reduce__(self) -> Any:
        return exec, ("open('trapped', 'w')",)


def torch_file(path: Path, content: Any = None, legacy: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": {"a": torch.zeros(2)}, "lgrep": Trap(), "model": Called()} if content is None else content
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def object_array() -> np.ndarray[Any, Any]:
    array = np.empty(2, object)
    array[:] = [Trap(), {"image_id": Called()}]
    return array


EVIL_YAML = f"_target_: os.system\ncommand: {TRAP}\n"
TAGGED_YAML = f"_target_: !!python/object/apply:os.system ['{TRAP}']\n"


def state_in_a_run_folder(folder: Path) -> None:
    from lgrep.training.folder import RunFolder

    run = RunFolder(folder / "run")
    torch_file(run.checkpoints / "step-00000001.ckpt")
    torch_file(run.checkpoints / "step-00000002.ckpt", legacy=True)
    with (run.checkpoints / "step-00000003.ckpt").open("wb") as handle:
        save_sealed({"state_dict": Trap()}, handle)
    assert run.latest_checkpoint()[0] is None
    raise LgrepError("three states, none of which can be used")


def state_that_resume_names(folder: Path) -> None:
    from lgrep.training.folder import RunFolder
    from lgrep.training.resuming import state_to_resume

    state_to_resume(RunFolder(folder / "run"), str(torch_file(folder / "evil.ckpt")))


def run_folder(folder: Path) -> None:
    torch_file(folder / "checkpoints" / "last.ckpt")
    (folder / "config.yaml").write_text(EVIL_YAML)
    lgrep.load_encoder(folder)


def configuration_of_a_run_folder(folder: Path) -> None:
    """Weights and names are fine; only what lies beside them asks to be built."""
    encoder, _ = lgrep.load_encoder("random/timm/test_resnet", image_size=32)
    about = {"backbone": {"name": "timm/test_resnet", "options": encoder.options},
             "image": {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}, "step": 1}  # fmt: skip
    weights = {f"backbone.{name}": value for name, value in encoder.state_dict().items()}
    for name in ("config.yaml", "summary.json", ".hydra/config.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(TAGGED_YAML)
    torch_file(folder / "checkpoints" / "last.ckpt", {"state_dict": weights, "lgrep": about})
    lgrep.load_encoder(folder)
    raise LgrepError("it was loaded, and nothing else")


def description_in_a_checkpoint(folder: Path) -> None:
    backbone = {"_target_": "os.system", "command": TRAP, "name": "os.system", "options": {"_target_": "os.system"}}
    torch_file(folder / "a.ckpt", {"state_dict": {}, "lgrep": {"backbone": backbone, "image": {"size": 32}}})
    lgrep.load_encoder(folder / "a.ckpt")


def exported_folder(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps({"lgrep": {"name": "os.system", "options": {"_target_": "os.system"}}})
    )
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    lgrep.load_encoder(folder)


def published_file(folder: Path) -> None:
    lgrep.load_encoder(torch_file(folder / "file.pth.tar", legacy=True))


def safetensors_file(folder: Path) -> None:
    (folder / "a.safetensors").write_bytes(pickle.dumps(Trap()))
    lgrep.load_encoder(folder / "a.safetensors")


def predictions_of_a_record(folder: Path) -> None:
    from lgrep.records import read_predictions

    np.savez(folder / "a.npz", top1=object_array())
    (folder / "a.json").write_text(json.dumps({"predictions": "a.npz"}))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_predictions(folder / "a.json")
    raise LgrepError("refused")


def neighbour_table(folder: Path) -> None:
    from lgrep.data.neighbours import NeighboursAbout, open_neighbours, write_neighbours

    about = NeighboursAbout(unit="caption", table="made", content_hash="abc", encoder={"_target_": "os.system"})
    write_neighbours(folder, np.array([[1], [0]]), np.array([[0.5], [0.5]]), about)
    open_neighbours(folder)
    (folder / "neighbours.arrow").write_bytes(pickle.dumps(Trap()))
    open_neighbours(folder)


def extension_type_in_arrow(folder: Path) -> None:
    """Arrow files may ask for a Python class by a pickle in the schema's metadata."""
    from lgrep.data.neighbours import NeighboursAbout, open_neighbours, write_neighbours

    about = NeighboursAbout(unit="caption", table="made", content_hash="abc", encoder={"name": "x"})
    write_neighbours(folder, np.array([[1], [0]]), np.array([[0.5], [0.5]]), about)
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Trap())}
    field = pa.field("neighbours", pa.list_(pa.field("item", pa.int32()), 1), metadata=metadata)
    with pa.OSFile(str(folder / "neighbours.arrow"), "wb") as sink, pa.ipc.new_file(sink, pa.schema([field])) as writer:
        writer.write_batch(pa.record_batch([pa.array([[1], [0]], field.type)], schema=pa.schema([field])))
    open_neighbours(folder)


def picture_set(folder: Path) -> None:
    from lgrep.data.sources.shards import ShardSource

    about = {"format": 1, "name": "x", "content_hash": "0" * 16, "shards": ["../../evil.zip"], "pictures": 1, "captions": 1,
             "_target_": "os.system", "command": TRAP}  # fmt: skip
    (folder / "set.json").write_text(json.dumps(about))
    for name in ("pictures.arrow", "captions.arrow"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    ShardSource(str(folder)).training()


def generated_set(folder: Path) -> None:
    from lgrep.generation.source import GeneratedSource

    about = {"format": 1, "name": "x", "content_hash": "0" * 16, "shards": ["/etc/passwd"], "pictures": 1, "captions": 1,
             "generation": {"_target_": "os.system", "command": TRAP, "settings": {"_target_": "os.system"}}}  # fmt: skip
    (folder / "set.json").write_text(json.dumps(about))
    (folder / "pictures.arrow").write_bytes(pickle.dumps(Trap()))
    GeneratedSource(str(folder)).training()


def pickled_metadata(folder: Path) -> None:
    from lgrep.data.sources.clip_rocket import ClipRocketSource

    (folder / "yfcc15m.pkl").write_bytes(pickle.dumps([(1, "a", "b"), Trap()]))
    ClipRocketSource(str(folder / "yfcc15m.pkl"), str(folder), "yfcc15m").training()


def object_array_of_metadata(folder: Path) -> None:
    from lgrep.data.sources.clip_rocket import ClipRocketSource

    np.save(folder / "cc3m.npy", object_array(), allow_pickle=True)
    ClipRocketSource(str(folder / "cc3m.npy"), str(folder), "cc3m").training()


def array_of_indices(folder: Path) -> None:
    from lgrep.data.making.yfcc import _indices

    np.save(folder / "downloaded.npy", object_array(), allow_pickle=True)
    _indices(folder / "downloaded.npy")


def concept_lists(folder: Path) -> None:
    from lgrep.evaluation.datasets.published_readers import Cog

    for name in ("cog_levels_mapping_file.pkl", "cog_concepts_split_file.pkl"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    Cog(kind="cog", level=1, part="train").read(folder)


def cifar_pickles(folder: Path) -> None:
    from lgrep.evaluation.datasets.arrays import CifarPython

    base = folder / "cifar-10-batches-py"
    base.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (base / name).write_bytes(pickle.dumps({"data": Trap(), "labels": [0]}))
    CifarPython(kind="cifar_python", dataset="CIFAR10", train=True).read(base)


NAMES = ("../../trapped", "/tmp/../trapped", "a/../../../trapped", "..\\..\\trapped")


def tar_of(path: Path, names: tuple[str, ...]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            data = encoded(1)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("linked.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def tar_members(folder: Path) -> None:
    from lgrep.data.sources.webdataset import WebDataset

    table = WebDataset(str(tar_of(folder / "a.tar", tuple(f"{name}.png" for name in NAMES))), max_left_out=1).training()
    assert all(table.read(row) == encoded(1) for row in range(len(table)))  # from the archive, by place, never by name
    raise LgrepError("read")


def zip_members(folder: Path) -> None:
    from lgrep.data.sources.zips import ZipSource

    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for name in NAMES:
            archive.writestr(f"{name}.png", encoded(1))
    table = ZipSource(str(folder / "a.zip"), max_left_out=1).training()
    assert all(table.read(row) == encoded(1) for row in range(len(table)))
    raise LgrepError("read")


def archives_of_evaluation_sets(folder: Path) -> None:
    from lgrep.evaluation.datasets.making import make_dataset

    (folder / "archives").mkdir()
    tar_of(folder / "archives" / "dtd-r1.0.1.tar.gz", NAMES)
    make_dataset(folder / "out" / "deep", "dtd", str(folder / "archives"))


def description_of_an_evaluation_set(folder: Path) -> None:
    from lgrep.evaluation.datasets.catalogue import build_set

    (folder / "evil.yaml").write_text(EVIL_YAML)
    build_set(str(folder / "evil.yaml"))


def tags_in_an_evaluation_set(folder: Path) -> None:
    from lgrep.evaluation.datasets.catalogue import build_set

    (folder / "evil.yaml").write_text(TAGGED_YAML)
    build_set(str(folder / "evil.yaml"))


GENERATORS = {
    "module": {"_class_name": "StableDiffusionPipeline", "unet": ["evil", "Evil"]},
    "class": {"_class_name": ["evil", "Evil"], "unet": ["diffusers", "UNet2DConditionModel"]},
    "system": {"_class_name": "StableDiffusionPipeline", "unet": ["os", "system"], "scheduler": ["posix", "system"]},
}


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_folder(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    from lgrep.generation.loading import load_pipeline
    from lgrep.generation.settings import Generator

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "generator"
    (folder / "unet").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "unet"):
        (place / "evil.py").write_text("open('trapped', 'w')\nclass Evil: ...\n")
    (folder / "model_index.json").write_text(json.dumps({"_diffusers_version": "0.30.0", **GENERATORS[kind]}))
    torch_file(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(LgrepError):
        load_pipeline(Generator(pipeline=str(folder)), "cpu")
    assert not list(tmp_path.rglob("trapped"))


ENTRIES: dict[str, Callable[[Path], None]] = {
    "checkpoint: a state of a run": state_in_a_run_folder,
    "checkpoint: resume=PATH": state_that_resume_names,
    "checkpoint: what it says of its network": description_in_a_checkpoint,
    "checkpoint: published": published_file,
    "checkpoint: safetensors": safetensors_file,
    "checkpoint: exported folder": exported_folder,
    "run folder: last.ckpt": run_folder,
    "run folder: configuration": configuration_of_a_run_folder,
    "record: predictions": predictions_of_a_record,
    "neighbours: table": neighbour_table,
    "neighbours: extension type": extension_type_in_arrow,
    "set: shards": picture_set,
    "set: generated": generated_set,
    "metadata: pkl": pickled_metadata,
    "metadata: npy": object_array_of_metadata,
    "metadata: indices": array_of_indices,
    "archive: tar": tar_members,
    "archive: zip": zip_members,
    "evaluation: archives": archives_of_evaluation_sets,
    "evaluation: concept lists": concept_lists,
    "evaluation: CIFAR": cifar_pickles,
    "evaluation: description": description_of_an_evaluation_set,
    "evaluation: tags": tags_in_an_evaluation_set,
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_nothing_in_a_file_runs(entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trap that is executed makes a file; an archive that escapes makes one outside of its folder."""
    monkeypatch.chdir(tmp_path)
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    with pytest.raises(LgrepError) as caught:
        ENTRIES[entry](inner)
    assert len(str(caught.value)) < 2000
    found = [path for path in tmp_path.rglob("*trapped*") if path.is_file()]
    assert not [path for path in found if entry != "evaluation: archives" or not path.is_relative_to(inner)]
    assert not Path("/tmp/trapped").exists() and not Path("/trapped").exists()


def test_the_trap_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Trap()))
    assert (tmp_path / "trapped").exists()


def calls(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(dotted name, constant keyword arguments) of every call in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            constants = {k.arg or "**": getattr(k.value, "value", None) for k in node.keywords}
            found.append((ast.unparse(node.func), constants))
    return found


NEVER = {"eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "yaml.unsafe_load", "joblib.load",
         "torch.hub.load", "hydra.utils.instantiate", "instantiate", "marshal.loads", "shelve.open"}  # fmt: skip
ASKED = {
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}


def test_no_source_file_calls_what_would_run_a_file() -> None:
    """So that a place added later is found, too."""
    places = [*SOURCES.rglob("*.py"), *(SOURCES.parents[1] / "scripts").glob("*.py")]
    assert len(places) > 150
    for path in places:
        for name, constants in calls(path):
            assert name not in NEVER, f"{path}: {name}"
            if name in ASKED:
                key, value = ASKED[name]
                assert constants.get(key) is value, f"{path}: {name} without {key}={value}"
            if name.endswith(".extractall") and "members" not in name:  # zipfile itself keeps members inside
                assert constants.get("filter") == "data", f"{path}: {name}"
            assert not constants.get("trust_remote_code"), f"{path}: {name}"

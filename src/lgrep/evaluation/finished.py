"""Which measurements are done, so that the same command does only what is missing."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

import lgrep
from lgrep.config.spec import TARGET, import_target
from lgrep.evaluation.contract import Task
from lgrep.evaluation.tasks import describe_network, describe_transform, fingerprint, library_versions
from lgrep.files import write_text
from lgrep.records import read_predictions, versions, weights_hash


def protocol_of(task: Task, node: Mapping[str, Any], settings: Mapping[str, Any], feature_type: str) -> str:
    """8 hexadecimal digits over the evaluator's arguments, the data and their settings, the transform and the features' type."""
    transform = describe_transform(task.subject.transform) or "unnamed"
    return _hash([dict(node), task.dataset.data_hash, dict(settings), transform, feature_type])[:8]


def inputs_of(task: Task) -> dict[str, Any] | None:
    """What a measurement depends on besides its evaluator: weights, data, seed, code, libraries, kind of device.

    None where something cannot be told: a transform or a text side that does not show what it is.
    """
    subject, text = task.subject, task.subject.text
    if describe_transform(subject.transform) is None or not (text is None or isinstance(text, nn.Module)):
        return None
    parts = task.dataset.parts()
    return {
        "model": [subject.name, subject.weights_hash, describe_network(subject.encoder), subject.logit_scale],
        "text": None if text is None else [weights_hash(text), describe_network(text)],
        "data": [task.dataset.name, task.dataset.data_hash],
        "pictures": {name: fingerprint(part.pictures) for name, part in parts.items()},
        "seed": task.seed,
        "code": code_hash(),
        "libraries": [versions(), library_versions()],
        "device": task.device.type,
    }


def identity_of(inputs: Mapping[str, Any] | None, node: Mapping[str, Any], protocol: str) -> str | None:
    """32 hexadecimal digits over all that a measurement depends on; None when that cannot be told."""
    if inputs is None:
        return None
    return _hash([dict(inputs), protocol, _source_hash(str(node[TARGET]))])[:32]


def note_finished(folder: Path, identity: str, files: Sequence[str]) -> None:
    """Remember that these record files are all that a measurement gives."""
    (folder / "finished").mkdir(parents=True, exist_ok=True)
    write_text(folder / "finished" / f"{identity}.json", json.dumps({"records": list(files)}) + "\n")


def finished_records(folder: Path, identity: str) -> list[dict[str, Any]] | None:
    """The records of a finished measurement; None when it is not, or a record is gone or of another measurement."""
    try:
        files = json.loads((folder / "finished" / f"{identity}.json").read_text(encoding="utf-8"))["records"]
        found = []
        for name in files:
            path = folder / "records" / Path(name).name
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["identity"] != identity:
                return None
            found.append({**record, "predictions": read_predictions(path)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def _hash(about: Any) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=repr).encode()).hexdigest()


@functools.cache
def code_hash() -> str:
    """Hash of this package's source files."""
    digest, folder = hashlib.sha256(), Path(lgrep.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _source_hash(target: str) -> str:
    """Hash of the file that defines a class, which may be a user's own."""
    module = __import__(import_target(target, "evaluation").__module__, fromlist=["_"])
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else "none"

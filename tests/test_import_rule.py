"""Imports point one way: entry points -> methods, evaluation, ... -> losses, backbones, data."""

import ast
import subprocess
import sys
from pathlib import Path

import lgrep

PACKAGE = Path(lgrep.__file__).parent
# package -> the packages of the project that it must not import
FORBIDDEN = {
    "losses": {
        "backbones",
        "data",
        "methods",
        "evaluation",
        "training",
        "callbacks",
        "checkpoints",
        "config",
        "optim",
        "mining",
        "loggers",
        "cli",
    },
    "backbones": {
        "losses",
        "data",
        "methods",
        "evaluation",
        "training",
        "callbacks",
        "checkpoints",
        "config",
        "optim",
        "mining",
        "loggers",
        "cli",
    },
    "optim": {
        "data",
        "methods",
        "evaluation",
        "training",
        "callbacks",
        "checkpoints",
        "config",
        "mining",
        "loggers",
        "cli",
    },
    "data": {"methods", "evaluation", "training", "callbacks", "checkpoints", "config", "losses", "backbones", "cli"},
    "methods": {"evaluation", "training", "callbacks", "checkpoints", "config", "mining", "cli"},
    "evaluation": {"methods", "training", "callbacks", "cli"},
    "mining": {"methods", "training", "callbacks", "cli"},
    "checkpoints": {"methods", "training", "callbacks", "evaluation", "cli"},
    "callbacks": {"training", "cli"},
    "config": {"methods", "training", "callbacks", "evaluation", "cli"},
}


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name for name in names if name.split(".")[0] in {"lgrep", "lightning"}}
    return found


def test_imports_point_one_way() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for package, forbidden in FORBIDDEN.items()
        for file in (PACKAGE / package).rglob("*.py")
        for name in imported(file)
        if name.split(".")[1:2] and name.split(".")[1] in forbidden
    ]
    assert not wrong


def test_one_lightning_namespace() -> None:
    assert not [file for file in PACKAGE.rglob("*.py") if any(name.startswith("lightning") for name in imported(file))]


def test_nothing_executes_data() -> None:
    """No pickle, no unguarded torch.load and no hub in the package."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                text = ast.unparse(node)
                assert not text.startswith(("pickle.load", "torch.hub", "eval(", "exec(")), (file, text)
                assert "trust_remote_code" not in text, (file, text)
                assert "allow_pickle=True" not in text, (file, text)
                assert not text.startswith("torch.load(") or "weights_only=True" in text, (file, text)


def test_heavy_packages_are_imported_only_when_used() -> None:
    """Evaluation and mining start in half the time without Lightning, and what it imports in turn."""
    code = (
        "import sys, lgrep.evaluation.run, lgrep.mining;"
        "early = {'pytorch_lightning', 'transformers', 'timm', 'matplotlib'} & set(sys.modules);"
        "import lgrep.training.fit, lgrep.loggers;"
        "print(early | {'wandb', 'tensorboard', 'faiss', 'diffusers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""The networks that a method consists of."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from lgrep.methods.language.base import LanguageObjective
from lgrep.methods.language.cross import CrossObjective
from lgrep.methods.modules.teacher import Teacher

# Modules that are not called as a whole, or whose call contains losses and their collectives.
_OPENED = (nn.ModuleList, nn.ModuleDict, Teacher, LanguageObjective, CrossObjective)


def networks(module: nn.Module) -> Iterator[nn.Module]:
    """Backbone, heads, text tower and the teacher's copies of them: modules with parameters, outermost first found.

    Args:
        module: a method.
    """
    for child in module.children():
        if isinstance(child, _OPENED):
            yield from networks(child)
        elif any(True for _ in child.parameters()):
            yield child


def backbones(method: nn.Module) -> list[nn.Module]:
    """The backbone and its copies in teachers."""
    return [module for name, module in method.named_modules() if name.rpartition(".")[2] == "backbone"]

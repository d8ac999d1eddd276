"""Image encoders by name, and the normalisation layers they train with."""

from lgrep.backbones.registry import Backbone, build_backbone

__all__ = ["Backbone", "build_backbone"]

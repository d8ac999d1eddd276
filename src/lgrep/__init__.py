"""lgrep: visual representation learning from any picture source, any pairing and any method."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lgrep.checkpoints.encoder import load_encoder

__all__ = ["load_encoder"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load_encoder`, imported on first use so that `import lgrep` stays light."""
    if name == "load_encoder":
        from lgrep.checkpoints.encoder import load_encoder

        return load_encoder
    raise AttributeError(f"module 'lgrep' has no attribute {name!r}")

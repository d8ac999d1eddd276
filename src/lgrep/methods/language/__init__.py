"""Language objectives: image-text terms that any image method can carry (`language=`)."""

from lgrep.methods.language.base import LanguageObjective, Modalities, Tower
from lgrep.methods.language.clip import CLIPObjective, DeCLIPNNSObjective, SigLIPObjective
from lgrep.methods.language.clip_rocket import ClipRocketObjective
from lgrep.methods.language.stablerep_plus import StableRepPlusObjective

__all__ = [
    "CLIPObjective",
    "ClipRocketObjective",
    "DeCLIPNNSObjective",
    "LanguageObjective",
    "Modalities",
    "SigLIPObjective",
    "StableRepPlusObjective",
    "Tower",
]

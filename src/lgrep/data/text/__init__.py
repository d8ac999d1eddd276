"""Text views: which caption of an anchor is shown how, as tokens."""

from lgrep.data.text.tokenizers import Tokenizer, build_tokenizer, register_tokenizer
from lgrep.data.text.transforms import CaptionAugment, Plain, TextTransform
from lgrep.data.text.views import TextEntry, TextViews

__all__ = [
    "CaptionAugment",
    "Plain",
    "TextEntry",
    "TextTransform",
    "TextViews",
    "Tokenizer",
    "build_tokenizer",
    "register_tokenizer",
]

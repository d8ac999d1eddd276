"""Encoders of captions and pictures by name."""

from lgrep.mining.encoders import pictures, stored, texts, words
from lgrep.mining.encoders.base import Encoder, EncoderOptions, build_encoder, register

__all__ = ["Encoder", "EncoderOptions", "build_encoder", "pictures", "register", "stored", "texts", "words"]

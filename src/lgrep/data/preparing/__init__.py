"""Turning any table into a picture set of the project's own format."""

from lgrep.data.preparing.encoding import Encoding
from lgrep.data.preparing.run import SHARD_ROWS, prepare

__all__ = ["SHARD_ROWS", "Encoding", "prepare"]

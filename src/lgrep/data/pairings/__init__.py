"""Pairings: which pictures of a table form one anchor's positives.

A pairing is any class with the members of `Pairing`; `configs/pairing/*.yaml` names it by `_target_`, so
one in a user's own package works the same.
"""

from lgrep.data.pairings.base import Pairing, Relations, first_rows, relations_of
from lgrep.data.pairings.neighbour import NeighbourPairing
from lgrep.data.pairings.own import SelfPairing
from lgrep.data.pairings.siblings import SiblingPairing

__all__ = ["NeighbourPairing", "Pairing", "Relations", "SelfPairing", "SiblingPairing", "first_rows", "relations_of"]

"""The pair inspector: what a data set and a pairing give to a method, as numbers and as one HTML page."""

from lgrep.data.inspection.inspect import Inspection, Options, inspect_pairs
from lgrep.data.inspection.page import write_page

__all__ = ["Inspection", "Options", "inspect_pairs", "write_page"]

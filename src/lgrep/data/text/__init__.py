"""Text views: which caption of an anchor is shown how, as tokens."""

from lgrep.data.text.views import TextEntry, TextViews

__all__ = ["TextEntry", "TextViews"]

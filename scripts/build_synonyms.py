"""Pack the synonyms of a WordNet folder for `lgrep.data.text.synonyms`: build_synonyms.py WORDNET_FOLDER OUT.txt.xz."""

from __future__ import annotations

import lzma
import sys
from pathlib import Path

from lgrep.data.text.synonyms import read_wordnet


def main(folder: str, out: str) -> None:
    """Write one line per word; `docs/text.md` says where the folder comes from."""
    Path(out).write_bytes(lzma.compress(read_wordnet(Path(folder)), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main(*sys.argv[1:])

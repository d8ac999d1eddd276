"""Audit mined neighbours, or compare encoders: `python scripts/inspect_neighbours.py --help`."""

import sys
from pathlib import Path
from typing import Any

from lgrep.cli import run
from lgrep.config.compose import parse
from lgrep.config.sources import build_source, source_spec

USAGE = """usage: python scripts/inspect_neighbours.py data=NAME [miner=NAME] [out=FOLDER] [key=value ...]

  python scripts/inspect_neighbours.py data=emoji
  python scripts/inspect_neighbours.py data=emoji 'compare=[minilm,glove,picture/efficientnet_lite0@96,picture/pixels]'
  python scripts/inspect_neighbours.py data=shards data.root=SET +data@held_out=folder held_out.root=TEST

Takes the settings of scripts/mine_neighbours.py, and mines first where that was not done. Writes FOLDER/audit.html
(similarities, near-duplicates, hubs, label agreement against k, leakage from held-out captions) and
FOLDER/pairs.html (pairs as they are drawn). compare=[...] mines with each encoder into FOLDER-spaces/.
"""


def inspect_neighbours(values: dict[str, Any], choices: dict[str, str]) -> None:
    """Parse the configuration, mine, look, write the pages."""
    from lgrep.data.inspection import Options, inspect_pairs, write_page
    from lgrep.data.neighbours import open_neighbours
    from lgrep.data.pairings import NeighbourPairing
    from lgrep.mining import mine
    from lgrep.mining.audit import audit, compare_encoders, leakage, write_audit
    from lgrep.mining.audit.page import numbers
    from lgrep.mining.embed import Embeddings
    from lgrep.mining.settings import MineConfig

    config = parse(MineConfig, values)
    source = build_source(source_spec(config.data))
    table, cache = source.training(), Path(config.cache)
    out = Path(config.out or f"neighbours/{table.name}")
    about = mine(table, out, config.miner, cache)
    probe = source.probe() if config.held_out is None else None
    other = probe.queries if probe is not None else None
    if config.held_out is not None:
        other = build_source(source_spec(config.held_out, "held_out")).training()
    leaks = None
    if other is not None:
        both = [Embeddings(part, config.miner, cache) for part in (table, other)]
        for embeddings in both:
            embeddings.make()
        leaks = leakage(*both)
    found = audit(table, open_neighbours(out), leaks)
    compared, missing = compare_encoders(table, config.compare, config.miner, Path(f"{out}-spaces"), cache)
    settings = {
        "set": table.name,
        "encoder": str(about.encoder["name"]),
        "recall": f"{about.recall}",
        "table": str(out),
    }
    write_audit(found, compared, missing, settings, out / "audit.html")
    pairing = NeighbourPairing(str(out), k=1, threshold=None)
    pairs = inspect_pairs(
        table, pairing, [], {}, 0, Options(out="pairs.html", groups=24, views=False, duplicates="none")
    )
    write_page(pairs, settings, out / "pairs.html")
    for one in compared:
        print(f"{one.encoder:32s} labels k=1 {numbers(one)[0]:>7s}, all k {numbers(one)[1]:>7s}; {one.table}")
    print(f"{out / 'audit.html'} and {out / 'pairs.html'}")


if __name__ == "__main__":
    sys.exit(run("mine", USAGE, inspect_neighbours))

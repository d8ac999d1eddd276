"""Mine neighbour tables for `pairing=neighbour`: `python scripts/mine_neighbours.py --help`."""

import sys
from pathlib import Path
from typing import Any

from lgrep.cli import run
from lgrep.config.compose import group_choices, parse
from lgrep.config.sources import build_source, source_spec

USAGE = f"""usage: python scripts/mine_neighbours.py data=NAME [data.KEY=VALUE ...] [miner=NAME] [out=FOLDER] [key=value ...]

  python scripts/mine_neighbours.py data=emoji                      from the captions' stored features
  python scripts/mine_neighbours.py data=emoji miner=minilm miner.k=5 miner.max_similarity=0.95
  python scripts/mine_neighbours.py data=shards data.root=SET miner=mpnet miner.scope.columns=[subreddit,year]
  python scripts/mine_neighbours.py data=shards data.root=SET miner=visual miner.encoder=picture/runs/simclr_emoji

The data settings are those of the training run, which then takes pairing=neighbour pairing.table=FOLDER. The same
command goes on after any interruption, and several at once help each other.

miner: {", ".join(group_choices("miner"))}
data:  {", ".join(group_choices("data"))}
"""


def mine_neighbours(values: dict[str, Any], choices: dict[str, str]) -> None:
    """Parse the configuration, mine, say what came out."""
    from lgrep.mining import mine
    from lgrep.mining.settings import MineConfig

    config = parse(MineConfig, values)
    table = build_source(source_spec(config.data)).training()
    out = Path(config.out or f"neighbours/{table.name}")
    about = mine(table, out, config.miner, config.cache)
    search, clock = about.search, about.provenance["seconds"]
    quality = "exact" if search["exact"] else f"recall@1 {search['recall@1']:.4f}, recall@{about.k} {about.recall:.4f}"
    engines = ", ".join(search["engines"])
    print(f"{about.rows:,} {about.unit}s, {about.k} neighbours each by {about.encoder['name']} ({engines}: {quality})")
    print(f"{clock['all']:.0f} s in all: encoding {clock['encoding']:.0f}, search {clock['search']:.0f}")
    print(f"train with pairing=neighbour pairing.table={out}")


if __name__ == "__main__":
    sys.exit(run("mine", USAGE, mine_neighbours))

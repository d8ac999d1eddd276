"""Look at the pairs of any data and pairing on one HTML page: `python scripts/inspect_pairs.py --help`."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from lgrep.cli import run
from lgrep.config.compose import parse

USAGE = """usage: python scripts/inspect_pairs.py [data=NAME] [pairing=NAME] [augment=NAME] [out=pairs.html] [key=value ...]

  python scripts/inspect_pairs.py data=emoji pairing=siblings
  python scripts/inspect_pairs.py data=folder data.root=PICTURES data.captions=sidecar duplicates=all
  python scripts/inspect_pairs.py +experiment=stablerep_emoji groups=50 views=false out=pages/emoji.html

Takes every setting of train.py (the pairs are those of its first epoch), and
  out=pairs.html      the page: one file without scripts or addresses
  groups=24           anchors shown
  views=true          also show the augmented views
  duplicates=sample   equal files among the pictures of 2,000 anchors; all: of the whole set; none
"""
OWN = ("out", "groups", "views", "duplicates")


def inspect(own: list[str], values: dict[str, Any], choices: dict[str, str]) -> None:
    """Resolve the configuration, look, write the page."""
    from lgrep.data.inspection import Options, inspect_pairs, write_page
    from lgrep.data.inspection.page import LARGE
    from lgrep.data.views import describe_views
    from lgrep.training.resolve import resolve

    options = parse(Options, dict(argument.split("=", 1) for argument in own))
    resolved = resolve(values, choices)
    table, seed = resolved.source.training(), resolved.config.seed
    found = inspect_pairs(table, resolved.pairing, resolved.views, resolved.transforms, seed, options)
    shown = {name: choices.get(name, "") for name in ("data", "pairing", "augment")}
    shown |= {"views": describe_views(resolved.views), "seed": str(seed), "content hash": table.content_hash}
    size = write_page(found, shown, Path(options.out))
    print(f"{options.out}: {size / 2**20:.1f} MB, {len(found.groups)} of {found.anchors:,} anchors")
    if size > LARGE:
        print(f"that is more than {LARGE >> 20} MB, which browsers show slowly. Type groups={options.groups // 2}")


def main(arguments: list[str]) -> int:
    """Exit code; see `lgrep.cli.run`."""
    own = [argument for argument in arguments if argument.partition("=")[0] in OWN and "=" in argument]
    rest = [argument for argument in arguments if argument not in own]
    # StableRep takes any number of views, so that no pairing is refused for the sake of a method nobody asked for.
    if not {argument.partition("=")[0].lstrip("+") for argument in rest} & {"method", "experiment"}:
        rest.append("method=stablerep")
    return run("train", USAGE, partial(inspect, own), rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

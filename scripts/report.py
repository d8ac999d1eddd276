"""One page over evaluations: `python scripts/report.py evaluations --out report`."""

from __future__ import annotations

import argparse
import sys

from lgrep.cli import program


@program
def main(arguments: list[str] | None = None) -> int:
    """Write the report; exit code."""
    from lgrep.evaluation.report.page import write_report

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", help="folders that evaluate.py wrote (out=...)")
    parser.add_argument("--out", default="report", help="gets report.html, table.md and table.tex")
    parser.add_argument(
        "--no-features", action="store_true", help="leave out what needs the models: CKA, map, neighbours"
    )
    parser.add_argument("--apart", action="store_true", help="a row for each run, also where only the seed differs")
    parser.add_argument("--seed", type=int, default=0, help="of the map and of samples")
    options = parser.parse_args(arguments)
    page = write_report(options.folders, options.out, not options.no_features, not options.apart, options.seed)
    print(f"{page}, with table.md and table.tex beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())

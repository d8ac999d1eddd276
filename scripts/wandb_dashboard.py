"""Make the dashboard of a W&B project: `python scripts/wandb_dashboard.py --entity TEAM --project lgrep`.

Panels for training, probes, throughput, the guidance sweep and sweeps, as a saved view of the project. With --dry-run
nothing is sent: the panels are written as JSON, and, where wandb-workspaces is installed, what would be sent.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lgrep.cli import program


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Save the view, or write its description; exit code."""
    from lgrep.errors import ConfigError
    from lgrep.loggers.dashboard import as_plain, build_workspace, dashboard

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY"), help="user or team; default: WANDB_ENTITY")
    parser.add_argument("--project", default=os.environ.get("WANDB_PROJECT", "lgrep"))
    parser.add_argument("--name", default="lgrep", help="of the view")
    parser.add_argument("--objective", default="probe/knn_top1", help="metric that sweeps are judged by")
    parser.add_argument("--dry-run", action="store_true", help="write the description to --out, send nothing")
    parser.add_argument("--out", type=Path, default=Path("wandb_dashboard.json"))
    options = parser.parse_args(arguments)
    sections = dashboard(options.objective)
    if options.dry_run:
        content: dict[str, object] = {"sections": as_plain(sections)}
        if find_spec("wandb_workspaces") is not None:
            view = build_workspace(sections, options.entity or "ENTITY", options.project, options.name)._to_model()
            content["view"] = json.loads(view.model_dump_json(by_alias=True, exclude_none=True))
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"{sum(len(section.panels) for section in sections)} panels are described in {options.out}")
        return 0
    if not options.entity:
        raise ConfigError("whose project is it? Type --entity TEAM, or set WANDB_ENTITY")
    workspace = build_workspace(sections, options.entity, options.project, options.name)
    try:
        workspace.save()
    except Exception as error:  # network, login, rights: W&B's own words say which
        print(f"error: W&B did not take the view: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        return 1
    print(workspace.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())

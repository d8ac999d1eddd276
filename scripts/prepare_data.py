"""Convert any data to a picture set, or make a published set's files: `python scripts/prepare_data.py --help`."""

import sys
from pathlib import Path
from typing import Any

from lgrep.cli import run
from lgrep.config.compose import group_choices, parse
from lgrep.config.prepare import PrepareConfig, check_task, spelled_out
from lgrep.config.sources import build_source, source_spec
from lgrep.config.spec import build, validate_spec

USAGE = f"""usage: python scripts/prepare_data.py data=NAME [data.KEY=VALUE ...] out=SET [key=value ...]
       python scripts/prepare_data.py make=NAME [make.KEY=VALUE ...] out=FILE

  python scripts/prepare_data.py data=folder data.root=PICTURES data.captions=sidecar out=SET
  python scripts/prepare_data.py source=folder root=PICTURES out=SET size=256 format=jpeg quality=90 workers=16
  python scripts/prepare_data.py data=folder data.root=PICTURES data.limit=1000 out=SAMPLE
  python scripts/prepare_data.py make=dataset make.dataset=aircraft make.archives=DOWNLOADS out=datasets/aircraft

SET is a folder that data=shards data.root=SET trains from. Bytes of pictures are untouched unless size or format
ask for others; broken pictures are left out and named in SET/skipped.jsonl. The same command goes on after any
interruption, and the set has the same bytes whatever the number of workers.

data: {", ".join(group_choices("data"))}
make: {", ".join(group_choices("make")) or "nothing yet"}
"""


def prepare_data(values: dict[str, Any], choices: dict[str, str]) -> None:
    """Parse the configuration and do its task."""
    config = parse(PrepareConfig, values)
    check_task(config)
    from lgrep.data.preparing import Encoding, prepare
    from lgrep.data.workers import usable_cores

    encoding = Encoding(config.size, config.format, config.quality, config.check)
    workers = usable_cores() if config.workers is None else config.workers
    if config.make is not None:
        spec = validate_spec(
            config.make, "make", injected=("out", "encoding", "shard_rows", "workers", "max_skip_share")
        )
        print(
            build(
                spec,
                out=Path(config.out),
                encoding=encoding,
                shard_rows=config.shard_rows,
                workers=workers,
                max_skip_share=config.max_skip_share,
            )
        )
        return
    source = build_source(source_spec(config.data))
    table = source.training()
    about = prepare(
        table,
        config.out,
        encoding,
        config.shard_rows,
        workers,
        config.max_skip_share,
        config.name,
        getattr(source, "left_out", ()),
    )
    left = f"; {about['skipped']:,} broken ones are left out (skipped.jsonl)" if about["skipped"] else ""
    print(f"{about['pictures']:,} pictures, {about['captions']:,} captions in {len(about['shards']):,} shards{left}")
    print(f"train from them with data=shards data.root={config.out}")


if __name__ == "__main__":
    sys.exit(run("prepare", USAGE, prepare_data, spelled_out(sys.argv[1:])))

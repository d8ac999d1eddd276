"""Start a method: `python scripts/new_method.py NAME` writes its file and its YAML, which pass the generic tests."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

METHOD = '''"""{title}: say here in a line what is optimised."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from lgrep.backbones import Backbone
from lgrep.data.batch import Batch
from lgrep.losses import nt_xent
from lgrep.methods.base import Method, StepOutput
from lgrep.methods.modules.heads import MLPHead, apply_per_view


class {title}(Method):
    """{title} (authors, paper, equation).

    Args:
        backbone: image encoder.
        temperature: of the softmax over cosine similarities.
        projector_dims: widths of the MLP head's layers.
    """

    exact_views = 2

    def __init__(
        self,
        backbone: Backbone,
        temperature: PositiveFloat = 0.1,
        projector_dims: tuple[PositiveInt, ...] = (4096, 4096, 256),
    ) -> None:
        super().__init__(backbone)
        self.temperature = temperature
        self.projector = MLPHead(backbone.dim, projector_dims)

    def training_loss(self, batch: Batch) -> StepOutput:
        features = self.encode(batch)
        embeddings = apply_per_view(self.projector, features, batch.num_views)
        first, second = embeddings.chunk(2)
        return StepOutput(nt_xent(first, second, self.temperature), features, embeddings, {{}})
'''
YAML = """_target_: {target}
temperature: 0.1
projector_dims: [4096, 4096, 256]
"""


def main(arguments: list[str] | None = None) -> int:
    """Write both files; exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="in small letters, for example my_method")
    parser.add_argument("--into", type=Path, help="a folder of your own instead of this repository")
    options = parser.parse_args(arguments)
    name: str = options.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        parser.error(f"{name!r} cannot be a module; use small letters, digits and _, for example my_method")
    code = ROOT / "src/lgrep/methods" if options.into is None else options.into
    config = (ROOT if options.into is None else options.into) / "configs/method"
    module = f"lgrep.methods.{name}" if options.into is None else name
    files = {code / f"{name}.py": METHOD, config / f"{name}.yaml": YAML}
    taken = [path for path in files if path.exists()]
    if taken:
        parser.error(f"{taken[0]} is there already; choose another name")
    title = "".join(part.capitalize() for part in name.split("_"))
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(title=title, target=f"{module}.{title}"), encoding="utf-8")
        print(f"wrote {path}")
    if options.into is None:
        print(f"python train.py method={name} data=emoji\npython -m pytest tests/methods -k {name}")
        print(f"once it is right: python tests/methods/test_trajectories.py {name}  (records 20 steps)")
    else:
        place = options.into.resolve()
        search = f"'hydra.searchpath=[file://{place}/configs]'"
        print(f"PYTHONPATH={place} python train.py method={name} data=emoji {search}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the catalogue's files say, checked against each other and the page that is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_layouts import CASES

from lgrep.config.spec import validate_spec
from lgrep.evaluation.datasets.catalogue import SUITES, catalogue, expand, read_spec
from lgrep.evaluation.datasets.document import filled_in
from lgrep.evaluation.datasets.names import class_names_of, templates_of
from lgrep.evaluation.datasets.torchvision_set import dataset_class

PAGE = Path(__file__).parents[3] / "docs/datasets.md"
PUBLISHED = [name for name in catalogue() if "layouts" in read_spec(name)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_file_agrees_with_itself(name: str) -> None:
    spec = validate_spec({**read_spec(name), "name": name}, "dataset")
    names, sizes = spec.get("names"), spec.get("sizes", {})
    if isinstance(names, list) or (isinstance(names, str) and names.startswith("torchvision:")):
        assert len(class_names_of(names, (), {}, Path())) == spec["classes"]
        assert spec["first"] in (0, 1)
    templates_of(spec.get("templates", "generic"))
    parts = {part for layout in spec["layouts"] for part in layout.parts}
    split = spec.get("split")
    drawn = {*split.counts, *split.shares, split.rest} if split else set()
    assert sizes.keys() <= (parts - {"all"} or drawn or {"train", "test"}) | drawn
    for part, count in (split.counts if split else {}).items():
        assert sizes[part] == count * spec["classes"]
    if "torchvision" in spec:
        dataset_class(spec["torchvision"].dataset)


def test_suites_are_those_of_the_references() -> None:
    sizes = {name: len(sets) for name, sets in SUITES.items()}
    assert sizes == {
        "lgssl": 15,
        "clip_rocket": 23,
        "slip": 26,
        "trex": 16,
        "synclr": 15,
        "stablerep": 11,
        "robustness": 4,
    }
    for name, sets in SUITES.items():
        assert len(set(sets)) == len(sets) and set(sets) <= set(PUBLISHED) and expand(name) == list(sets)
    assert not set(SUITES) & set(catalogue())
    metrics = {name: read_spec(name).get("metric", "top1") for name in PUBLISHED}
    per_class = {name for name, metric in metrics.items() if metric == "mean_per_class"}
    assert per_class == {"aircraft", "pets", "caltech101", "flowers"}
    assert metrics["voc2007"] == "map11" and metrics["hateful_memes"] == "roc_auc"
    assert set(CASES) <= set(PUBLISHED)


def test_the_page_is_that_of_the_catalogue() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert filled_in(text) == text, "type: python -m lgrep.evaluation.datasets.document docs/datasets.md"
    assert text.count("| `") > 45

import pytest
from pydantic import ValidationError

from lgrep.data.views import View, ViewEntry, describe_views, expand_views
from lgrep.errors import ConfigError


def test_open_count_shows_every_picture_at_least_two_views() -> None:
    entry = [ViewEntry(transform="a", size=32)]
    assert expand_views(entry, 1, ["a"]) == [View(0, "a", 32)] * 2
    assert [view.picture for view in expand_views(entry, 4, ["a"])] == [0, 1, 2, 3]


def test_published_view_lists() -> None:
    slip = [
        ViewEntry(transform="simclr", size=8, picture=0, count=2),
        ViewEntry(transform="global", size=8, count=1, picture=0),
    ]
    assert describe_views(expand_views(slip, 1, ["simclr", "global"])) == "2 x simclr 8 px, 1 x global 8 px"
    lg_slip = [ViewEntry(transform="global", size=8, picture=k, count=1) for k in (0, 1)]
    assert [view.picture for view in expand_views(lg_slip, 2, ["global"])] == [0, 1]
    trex = [ViewEntry(transform="g", size=224, count=1), ViewEntry(transform="l", size=96, count=8)]
    assert [view.size for view in expand_views(trex, 1, ["g", "l"])] == [224] + [96] * 8


def test_a_mismatch_prints_both_lists() -> None:
    entries = [ViewEntry(transform="a", size=8, picture=k, count=1) for k in (0, 2)]
    with pytest.raises(ConfigError, match=r"pictures \[0, 2\].*provides pictures \[0, 1\].*pairing\.pictures=3"):
        expand_views(entries, 2, ["a"])


def test_unknown_transform_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'strong'"):
        expand_views([ViewEntry(transform="strng", size=8)], 2, ["strong", "weak"])
    with pytest.raises(ConfigError, match="empty"):
        expand_views([], 2, ["strong"])


@pytest.mark.parametrize(
    ("first", "multiple", "side"),
    [(224, 16, 96), (224, 14, 98), (64, 16, 32), (48, 8, 24), (160, 16, 64), (32, 16, 16), (8, 16, 16), (384, 16, 160)],
)
def test_small_crops_follow_the_first_view(first: int, multiple: int, side: int) -> None:
    entries = [
        ViewEntry(transform="g", size=first, count=1),
        ViewEntry(transform="l", scale=0.43, multiple=multiple, count=1),
    ]
    assert [view.size for view in expand_views(entries, 1, ["g", "l"])] == [first, side]


def test_a_view_has_a_size_or_a_scale() -> None:
    for wrong in ({}, {"size": 8, "scale": 0.5}, {"scale": 0.0}):
        with pytest.raises(ValidationError):
            ViewEntry(transform="a", **wrong)
    with pytest.raises(ConfigError, match=r"augment\.views\[0\] has no size"):
        expand_views([ViewEntry(transform="a", scale=0.5), ViewEntry(transform="a", size=8)], 1, ["a"])


def test_several_transforms_of_one_view() -> None:
    entry = ViewEntry(transform=["a", "b"], size=8)
    assert expand_views([entry], 1, ["a", "b"]) == [View(0, "a|b", 8)] * 2
    with pytest.raises(ConfigError, match=r"views\[0\]\.transform: no transform 'c'"):
        expand_views([ViewEntry(transform=["a", "c"], size=8)], 1, ["a", "b"])
    with pytest.raises(ValidationError):
        ViewEntry(transform=[], size=8)

"""The typed configuration of mining."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from lgrep.config.schema import Section
from lgrep.mining.scope import Scope
from lgrep.mining.strategy import Choice


class Miner(Section):
    """What is mined, and how; `docs/mining.md` explains the choices.

    Attributes:
        encoder: see `lgrep.mining.encoders.build_encoder`; `auto`: the captions' stored features, where there are any,
            else all-mpnet-base-v2 as published.
        unit: what a row of the neighbour table is; `auto`: a caption for text encoders, a picture for visual ones.
            The vector of a caption by a visual encoder is the mean of its pictures'.
        k: neighbours per row.
        search: `auto` decides by size and hardware (`lgrep.mining.strategy`).
        recall: share of the true neighbours that an approximate search is tuned to find.
        sample: queries that are searched exactly to tune an approximate search, and as many to measure its recall.
        effort: lists (IVF) or candidates (HNSW) looked at per query; None: tuned.
        dtype: of the stored vectors.
        max_similarity: more similar ones are near-duplicates and are left out.
        max_in_degree: nobody is the neighbour of more than so many.
        mutual: keep a neighbour only if both list each other.
        scope: neighbours are searched within parts of the set.
        reference_behaviour: the published pairs: pictures are mined, and only the picture itself is excluded, so that
            pictures of equal captions are neighbours of similarity 1.
        device: of the encoder; `auto`: a GPU where there is one.
        precision: of the encoder; `auto`: float16 on GPUs, float32 else.
        batch_size: captions or pictures per pass of the encoder; `auto`: 64 on CPUs, 512 on GPUs.
        image_size: side of the pictures in px for visual encoders; None: the encoder's own.
        workers: processes that decode pictures.
        processes: that encode and search; `auto`: one per GPU, or one.
        range_rows: rows that a process takes at a time and that a kill can cost.
        seed: of training samples and samples for the recall.
    """

    encoder: str = "auto"
    unit: Literal["auto", "caption", "picture"] = "auto"
    k: PositiveInt = 10
    search: Choice = "auto"
    recall: Annotated[float, Field(gt=0, le=1)] = 0.995
    sample: PositiveInt = 1000
    effort: PositiveInt | None = None
    dtype: Literal["float16", "float32"] = "float16"
    max_similarity: float | None = None
    max_in_degree: PositiveInt | None = None
    mutual: bool = False
    scope: Scope = Scope()
    reference_behaviour: bool = False
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: PositiveInt | Literal["auto"] = "auto"
    image_size: PositiveInt | None = None
    workers: NonNegativeInt = 0
    processes: PositiveInt | Literal["auto"] = "auto"
    range_rows: PositiveInt = 8192
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _as_published(self) -> Miner:
        if self.reference_behaviour and self.unit == "caption":
            raise ValueError("reference_behaviour mines pictures. Type miner.unit=picture, or leave it out")
        return self

    @property
    def candidates(self) -> int:
        """Neighbours searched per row; more than k where some are taken away afterwards."""
        return self.k if self.max_in_degree is None else max(4 * self.k, 32)


class MineConfig(Section):
    """Everything that `scripts/mine_neighbours.py` reads.

    Attributes:
        data: the source, as for training.
        miner: see `Miner`.
        out: folder of the neighbour table; None: `neighbours/<name of the set>`.
        cache: folder of vectors, which later runs use again.
        held_out: another source, which `scripts/inspect_neighbours.py` searches for copies of its captions; None: what
            the online probes of `data` ask about.
        compare: encoders whose neighbours `scripts/inspect_neighbours.py` compares.
        debug: show tracebacks.
    """

    data: dict[str, Any]
    miner: Miner = Miner()
    out: str | None = None
    cache: str = "cache/mining"
    held_out: dict[str, Any] | None = None
    compare: tuple[str, ...] = ()
    debug: bool = False

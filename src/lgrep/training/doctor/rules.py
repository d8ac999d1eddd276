"""The doctor's rules: from measurements to what bounds a run and what helps. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lgrep.training.doctor.measured import (
    DECODE,
    LOADING_PARTS,
    NETWORK,
    READ,
    WAITING,
    Measured,
    expected_step,
    loading_capacity,
    training_capacity,
)

WORTH = 1.05  # gains below are noise


@dataclass(frozen=True)
class Advice:
    """Something to type.

    Attributes:
        type: overrides of train.py, or a command.
        why: the numbers behind it.
        gain: pictures per second with it / without it, expected.
        command: whether it is a command of its own.
    """

    type: str
    why: str
    gain: float
    command: bool = False


@dataclass(frozen=True)
class Verdict:
    """What bounds a run: `bound` names the part (`reading`: inside which stage), `text` says it in a few sentences."""

    bound: str
    text: str
    advice: list[Advice]


def verdict(m: Measured) -> Verdict:
    """What bounds the run, and everything that helps by at least five per cent, best first."""
    advice = sorted((item for rule in RULES for item in rule(m) if item.gain >= WORTH), key=lambda item: -item.gain)
    bound = bottleneck(m)
    stage = max(m.stages, key=lambda name: m.stages[name], default="")
    if bound in m.stages:
        text = (
            f"This run is bound by loading: {m.waiting / m.step:.0%} of a step goes into it, and a loading process spends "
            f"{m.share(stage):.0%} of its time on {stage}. "
        )
    else:
        network = bound == "network"
        seconds = m.network if network else m.periodic_seconds if bound == "periodic callbacks" else m.parts[bound]
        text = f"This run is bound by {'the network (forward and backward)' if network else bound}: {seconds / m.whole:.0%} of a step. "
    lanes = f"{m.workers} process(es)" if m.workers else "the training process"
    text += (
        f"Loading by {lanes} delivers {loading_capacity(m):,.0f} pictures/s, training takes {training_capacity(m):,.0f}; "
        f"together {m.pictures / m.whole:,.0f}."
    )
    return Verdict(bound, text.replace("%", " %"), advice)


def bottleneck(m: Measured) -> str:
    """The stage of loading, or the part of training (`network` for all its passes), that takes the most time."""
    training = {
        part: seconds
        for part, seconds in m.parts.items()
        if part not in (*LOADING_PARTS, *NETWORK, "periodic callbacks")
    }
    training |= {"network": m.network, "periodic callbacks": m.periodic_seconds}
    worst = max(training, key=lambda part: training[part])
    if m.stages and m.waiting > max(training[worst], WAITING * m.step):
        return max(m.stages, key=lambda stage: m.stages[stage])
    return worst


def _gain(m: Measured, changed: Measured, workers: int, loading: float, read: float) -> float:
    """Pictures per second of `changed` with other loading / those of now, by the model."""
    before = expected_step(m, m.workers, m.loading_in_company, m.share(READ)) + m.periodic_seconds
    return before / max(expected_step(changed, workers, loading, read) + m.periodic_seconds, 1e-9)


def _loading_gain(m: Measured, workers: int, saved: dict[str, float]) -> float:
    """Of another number of workers, with stages that take `saved` seconds less per anchor."""
    total = max(sum(m.stages.values()), 1e-12)
    left = {stage: seconds - saved.get(stage, 0.0) for stage, seconds in m.stages.items()}
    loading = m.loading_in_company * sum(left.values()) / total
    return _gain(m, m, workers, loading, left.get(READ, 0.0) / max(sum(left.values()), 1e-12))


def _waits(m: Measured) -> bool:
    return m.waiting >= WAITING * m.step and bool(m.stages)


def more_workers(m: Measured) -> Iterator[Advice]:
    """The fewest workers that do nearly as well as any number of them."""
    if not _waits(m):
        return
    most = m.cores * (4 if m.share(READ) > 0.5 else 1)  # processes that wait for storage need no core of their own
    gains = {count: _loading_gain(m, count, {}) for count in range(m.workers + 1, max(most, 1) + 1)}
    if gains:
        best = max(gains.values())
        count = next(count for count, gain in gains.items() if gain >= 0.97 * best)
        why = f"a batch takes one loading process {m.loading:.3g} s, training {m.training:.3g} s"
        yield Advice(f"loader.workers={count}", why, gains[count])


def cache(m: Measured) -> Iterator[Advice]:
    """Decoded pictures kept in memory that the loading processes share, when all of them fit into half of it."""
    fits = 0 < m.decoded_bytes < m.free_memory / 2 and m.cache_mb * 2**20 < m.decoded_bytes
    if not _waits(m) or not fits:
        return
    saved = {stage: m.stages.get(stage, 0.0) for stage in (READ, DECODE)}
    megabytes = math.ceil(m.decoded_bytes * 1.1 / 2**20)
    share = m.share(READ) + m.share(DECODE)
    why = f"reading and decoding are {share:.0%} of loading, and all decoded pictures take {megabytes:,} MB"
    yield Advice(
        f"loader.cache_mb={megabytes}", f"{why} (from the second epoch on)", _loading_gain(m, m.workers, saved)
    )


def smaller_pictures(m: Measured) -> Iterator[Advice]:
    """Stored pictures that are much larger than the views need."""
    size = round(m.view_size * 8 / 7)  # 256 for views of 224
    if not _waits(m) or m.short_side < 1.5 * size or m.share(DECODE) < 0.3:
        return
    kept = (size / m.short_side) ** 2
    saved = {DECODE: m.stages[DECODE] * (1 - kept)}
    why = f"decoding is {m.share(DECODE):.0%} of loading; the short side of the pictures is {m.short_side} px, views have {m.view_size}"
    type_ = f"python scripts/prepare_data.py {m.data} out=SET size={size} format=jpeg"
    yield Advice(type_, f"{why}; then data=shards data.root=SET", _loading_gain(m, m.workers, saved), command=True)


def packed_pictures(m: Measured) -> Iterator[Advice]:
    """Reading that dominates: many small files, archives read at random, or slow storage."""
    if not _waits(m) or m.share(READ) < 0.4:
        return
    why = f"reading is {m.share(READ):.0%} of loading ({1e3 * m.stages[READ]:.3g} ms per anchor); at most, if it became free"
    gain = _loading_gain(m, m.workers, {READ: m.stages[READ]})
    if m.archives:
        yield Advice("loader.order=shards", why, gain)
    else:
        type_ = f"python scripts/prepare_data.py {m.data} out=SET"
        yield Advice(type_, f"{why}; SET on a local disk, then data=shards data.root=SET", gain, command=True)


def tried_settings(m: Measured) -> Iterator[Advice]:
    """Settings whose passes were timed."""
    for override, ratio in m.trials.items():
        saved = (m.parts.get("backbone", 0.0) + m.parts.get("recompute", 0.0) + m.parts.get("backward", 0.0)) * (
            1 - ratio
        )
        changed = replace(m, step=m.step - saved)
        why = f"forward and backward passes of the backbone took {1 / ratio:.2f} times less, tried on this batch"
        yield Advice(override, why, _gain(m, changed, m.workers, m.loading_in_company, m.share(READ)))


def tried_loading(m: Measured) -> Iterator[Advice]:
    """Settings of loading that were timed; augmentation in the loading processes takes it from the training process."""
    now = sum(m.stages.values())
    for override, seconds in m.loading_trials.items():
        if not now:
            continue
        moved = 0.0
        if override == "augment.device=cpu":  # more work for a loading process, whatever the clock says
            moved, seconds = m.parts.get("device augmentation", 0.0), max(seconds, now)
        if moved or _waits(m):
            loading = m.loading_in_company * seconds / now
            gain = _gain(m, replace(m, step=m.step - moved), m.workers, loading, m.stages.get(READ, 0.0) / seconds)
            why = f"an anchor took a loading process {1e3 * seconds:.3g} ms instead of {1e3 * now:.3g}"
            yield Advice(override, f"{why}; {1e3 * moved:.3g} ms of a step move there" if moved else why, gain)


def device_augmentation(m: Measured) -> Iterator[Advice]:
    """Loading processes that augment for a device that would do it in passing."""
    share = m.share("augmentation")
    if m.device != "cpu" and _waits(m) and share >= 0.2:
        gain = _loading_gain(m, m.workers, {"augmentation": m.stages["augmentation"]})
        yield Advice("augment.device=gpu", f"augmentation is {share:.0%} of loading; at most, if it became free", gain)


def larger_pieces(m: Measured) -> Iterator[Advice]:
    """Pieces that save memory nobody needs."""
    if m.chunk_size is None or not m.peak_memory:
        return
    pieces = m.anchors / m.chunk_size
    if m.peak_memory * max(pieces, 1.0) < 0.8 * m.total_memory:
        again = m.parts.get("recompute", 0.0)
        why = f"computing pieces again costs {again / m.step:.0%} of a step, and the whole batch fits into memory"
        yield Advice("trainer.chunk_size=null", why, m.step / max(m.step - again, 1e-9))


def larger_batch(m: Measured) -> Iterator[Advice]:
    """Costs of a step that do not grow with its batch."""
    fixed = sum(m.parts.get(part, 0.0) for part in ("optimiser", "after_step", "callbacks", "other"))
    if m.waiting < WAITING * m.step and fixed >= 0.2 * m.step and 0 < 2.2 * m.peak_memory < m.total_memory:
        why = f"{fixed / m.step:.0%} of a step (optimiser, callbacks, other) do not grow with the batch; the learning rate follows optimizer.lr_scaling"
        yield Advice(f"loader.batch_size={2 * m.batch_size}", why, 2 * m.step / (2 * m.step - fixed))


def smaller_batch(m: Measured) -> Iterator[Advice]:
    """A loss that compares all pictures of a batch grows with its square."""
    loss = m.parts.get("loss", 0.0)
    if loss >= 0.3 * m.step and m.batch_size >= 4:
        why = f"the loss is {loss / m.step:.0%} of a step; if it compares all pairs of a batch, half the batch halves it per picture"
        yield Advice(f"loader.batch_size={m.batch_size // 2}", why, m.step / (m.step - loss / 2))


def rarer_callbacks(m: Measured) -> Iterator[Advice]:
    """Probes and the like that act too often."""
    for setting, (seconds, every) in m.periodic.items():
        rarer = _round_up(seconds / (0.01 * m.step))
        if seconds / every >= 0.05 * m.whole and rarer > every:
            why = f"each act takes {seconds:.3g} s, {seconds / every / m.whole:.0%} of the time"
            gain = m.whole / (m.whole - seconds / every + seconds / rarer)
            yield Advice(f"callbacks.{setting}.every_n_steps={rarer}", why, gain)


RULES: tuple[Callable[[Measured], Iterator[Advice]], ...] = (
    more_workers,
    cache,
    smaller_pictures,
    packed_pictures,
    tried_settings,
    tried_loading,
    device_augmentation,
    larger_pieces,
    larger_batch,
    smaller_batch,
    rarer_callbacks,
)


def memory_verdict(batch_size: int, chunk_size: int | None, batchnorm: bool, precision: str) -> Verdict:
    """For a run whose first steps did not fit into memory."""
    piece = max(1, (chunk_size or batch_size) // 4)
    accept = " trainer.chunk_bn=true trainer.sync_batchnorm=false" if batchnorm else ""
    advice = [Advice(f"trainer.chunk_size={piece}{accept}", "only a piece's activations are in memory at a time", 1.0)]
    if precision == "32-true":
        advice.append(Advice("trainer.precision=bf16-mixed", "activations take half the memory", 1.0))
    if batch_size >= 4:
        advice.append(Advice(f"loader.batch_size={batch_size // 2}", "half the activations", 1.0))
    return Verdict("memory", f"This run is bound by memory: a step of {batch_size} anchors does not fit.", advice)


def _round_up(steps: float) -> int:
    """To one significant digit: 1, 2, 5, 10, 20, 50, ..."""
    power = 10 ** math.floor(math.log10(max(steps, 1.0)))
    return next(int(factor * power) for factor in (1, 2, 5, 10) if factor * power >= steps)

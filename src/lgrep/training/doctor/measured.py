"""What the doctor measured, and a simple model of a step: loading beside training, both on the same cores."""

from __future__ import annotations

from dataclasses import dataclass, field

WAITING = 0.1  # share of a step spent on loading from which loading is worth a change
STAGES = ("read", "decode", "crop and resize", "augmentation", "text", "collate", "other loading")
WAITING_PART = "waiting for data"
LOADING_PARTS = (WAITING_PART, *STAGES)
NETWORK = ("backbone", "head", "backward", "recompute")
READ, DECODE = "read", "decode"


@dataclass(frozen=True)
class Measured:
    """What was measured on one process.

    Attributes:
        step: seconds of an optimiser step, as it runs without being watched.
        parts: seconds of a step by part; each moment counts for one part. Where the training process loads, its stages
            are among them.
        stages: seconds that a loading process takes for one anchor, by stage, without its cache; those of the run
            where the training process loads.
        anchors: per step and process.
        pictures: views per step and process.
        workers: loading processes; 0: the training process loads.
        cores: that the process and its workers may use.
        threads: of the training process's operations on the CPU.
        device: `cpu`, `cuda` or `mps`.
        batch_size: anchors of all processes.
        view_size: side of the largest view, px.
        short_side: median of the stored pictures, px; 0: unknown.
        decoded_bytes: of the whole table.
        cache_mb: as configured.
        free_memory: bytes that the machine has left; 0: unknown.
        peak_memory, total_memory: of the device (of the process and the machine on a CPU), bytes; 0: unknown.
        chunk_size: as configured.
        data: overrides that choose the data set.
        archives: whether pictures are read from archives at random places.
        trials: override -> seconds of the network with it / as configured.
        loading_trials: override -> seconds that a loading process takes for an anchor with it.
        periodic: setting of a callback -> (seconds of an act, steps between acts).
    """

    step: float
    parts: dict[str, float]
    stages: dict[str, float]
    anchors: int
    pictures: int
    workers: int = 0
    cores: int = 1
    threads: int = 1
    device: str = "cpu"
    batch_size: int = 64
    view_size: int = 224
    short_side: int = 0
    decoded_bytes: int = 0
    cache_mb: int = 0
    free_memory: int = 0
    peak_memory: int = 0
    total_memory: int = 0
    chunk_size: int | None = None
    data: str = "data=..."
    archives: bool = False
    trials: dict[str, float] = field(default_factory=dict)
    loading_trials: dict[str, float] = field(default_factory=dict)
    periodic: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def waiting(self) -> float:
        """Seconds of a step that loading costs."""
        return sum(self.parts.get(part, 0.0) for part in LOADING_PARTS)

    @property
    def training(self) -> float:
        """Seconds of a step with its batch at hand."""
        return max(self.step - self.waiting, 1e-9)

    @property
    def loading(self) -> float:
        """Seconds that one loading process takes for a batch; what was seen in the run where it loads itself."""
        return self.waiting if self.workers == 0 else sum(self.stages.values()) * self.anchors

    @property
    def loading_in_company(self) -> float:
        """The same beside training: where training waits, a process takes longer than alone, if anything."""
        waits = self.workers > 0 and self.waiting >= WAITING * self.step
        return max(self.loading, self.workers * self.step) if waits else self.loading

    @property
    def periodic_seconds(self) -> float:
        """Seconds per step of callbacks that act now and then."""
        return sum(seconds / every for seconds, every in self.periodic.values())

    @property
    def whole(self) -> float:
        """Seconds of a step with its part of the callbacks that act now and then."""
        return self.step + self.periodic_seconds

    @property
    def network(self) -> float:
        """Seconds of a step in forward and backward passes."""
        return sum(self.parts.get(part, 0.0) for part in NETWORK)

    def share(self, stage: str) -> float:
        """Part of the loading time that a stage takes, 0 to 1."""
        return self.stages.get(stage, 0.0) / max(sum(self.stages.values()), 1e-12)


def loading_capacity(m: Measured, workers: int | None = None) -> float:
    """Pictures per second that the loading processes deliver when nothing else uses the cores."""
    count = max(1, m.workers if workers is None else workers)
    return m.pictures / max(_batch_seconds(m, count, m.loading, m.share(READ)), 1e-12)


def training_capacity(m: Measured) -> float:
    """Pictures per second that training takes when every batch is at hand."""
    return m.pictures / m.training


def expected_step(m: Measured, workers: int, loading: float, read_share: float) -> float:
    """Seconds of a step by a simple model: loading overlaps with training, and both share the cores.

    Args:
        m: the measurement.
        workers: loading processes.
        loading: seconds that one process takes for a batch.
        read_share: part of it that waits for storage and uses no core.
    """
    if workers == 0:
        return m.training + loading
    busy = m.training * (m.threads if m.device == "cpu" else 1) + loading * (1 - read_share)
    return max(m.training, _batch_seconds(m, workers, loading, read_share), busy / m.cores)


def _batch_seconds(m: Measured, workers: int, loading: float, read_share: float) -> float:
    return max(loading / workers, loading * (1 - read_share) / m.cores)

"""Handing an interrupted job back to SLURM."""

from __future__ import annotations

import os
import signal
import subprocess

_INTERACTIVE = ("interactive", "bash")
_WAIT = 60  # seconds that SLURM's controller has for its answer


def slurm_job() -> str | None:
    """The batch job that this process belongs to (`ARRAY_TASK` for a task of an array); None outside of one."""
    job, name = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NAME", "")
    if not job or name in _INTERACTIVE:
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    # One task of an array has the array's own number as SLURM_JOB_ID, which would requeue all of them.
    return f"{array}_{task}" if array and task else job


def requeue(signal_number: int) -> str | None:
    """Put the job back into the queue, unless it was Ctrl-C (or `scancel --signal=INT`) that ended it.

    To be called by one process of the job, when its state is saved: SLURM may end the job at once.

    Returns:
        What happened, in one line; None outside of SLURM.
    """
    job = slurm_job()
    if job is None or signal_number == signal.SIGINT:
        return None
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=_WAIT, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"job {job} could not be requeued ({error}). Submit it again"
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        return f"job {job} could not be requeued ({reason[0]}). Submit it again"
    return f"job {job} is in the queue again and will go on from here"

"""The stages in their order, and the walk through those that a run wants."""

import time

from fgjax.core.progress import say
from fgjax.stages.compare.stage import Compare
from fgjax.stages.evaluate.stage import Evaluate
from fgjax.stages.explain.stage import Explain
from fgjax.stages.focus.stage import Patches
from fgjax.stages.funnybirds.stage import FunnyBirds
from fgjax.stages.job import Job
from fgjax.stages.look.stage import Look
from fgjax.stages.mend import mend
from fgjax.stages.parts.stage import Parts
from fgjax.stages.probe.stage import Probe
from fgjax.stages.prompts.stage import Prompts
from fgjax.stages.report import Report
from fgjax.stages.stage import Stage
from fgjax.stages.test import Test
from fgjax.stages.train.stage import Train
from fgjax.stages.tta.stage import Tta

CHAIN: tuple[Stage, ...] = (
    Patches(),
    Train(),
    Probe(),
    Prompts(),
    Test(),
    Explain(),
    Evaluate(),
    Report(),
    Look(),
    Compare(),
    FunnyBirds(),
    Tta(),
    Parts(),
)
"""Every stage, each after those whose results it uses."""


def wanted(job: Job) -> list[Stage]:
    """Return the stages that this process takes part in, in their order.

    Raises:
      ConfigError, DataError: one of them lacks something.
    """
    stages = [stage for stage in CHAIN if stage.needed(job)]
    for stage in stages:
        stage.missing(job)
    return [stage for stage in stages if job.share.leads or stage.shared]


def walk(job: Job, stages: list[Stage]) -> int:
    """Go through the stages; return 0, or 1 when images failed in any of them."""
    if not stages:
        say(f"process {job.share.own}: nothing to do, process 0 does the rest")
        return 0
    began = time.monotonic()
    mend(job)
    failed = sum(stage.run(job) for stage in stages)
    if not job.share.leads:
        return 1 if failed else 0
    failures = job.run.failures()
    if failures:
        count = "1 image" if len(failures) == 1 else f"{len(failures)} images"
        say(f"{count} failed; see {job.run.path / 'failures.csv'}. The first:")
        say(f"  {failures[0]['name']} ({failures[0]['stage']}): {failures[0]['reason']}")
    say(f"{time.monotonic() - began:.0f} s in all")
    return 1 if failed or failures else 0

"""Stage "explain": a heat map for every test image, each written as soon as it is done."""

import time
from collections.abc import Iterator

import numpy as np

from fgjax.attribution import METHODS
from fgjax.core.batching import in_chunks
from fgjax.core.progress import progress, say
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError
from fgjax.evaluation.blank import blank_sentence, count_reasons, why_blank
from fgjax.processes.waiting import join_maps
from fgjax.runs.arrange import read_names, write_names
from fgjax.runs.maps import MapStore, read_traces
from fgjax.stages.explain.explainer import Answer, Explainer, Item
from fgjax.stages.explain.infills import check_infills
from fgjax.stages.explain.made_maps import check_made_maps, take_made_maps
from fgjax.stages.explain.map_writer import MapWriter
from fgjax.stages.focus.patches import known_patches
from fgjax.stages.job import Job
from fgjax.stages.stage import Stage


class Explain(Stage):
    """Make a heat map of every test image, or take those made elsewhere; each process those of its
    share."""

    name = "explain"
    shared = True

    def missing(self, job: Job) -> None:
        """Tell that there is nothing to explain, or that infills are missing."""
        _ = job.records
        check_infills(job)
        check_made_maps(job)

    def run(self, job: Job) -> int:
        """Explain what has no maps yet; the first process waits for the others' images."""
        folder = job.run.path / "maps.zarr"
        total = len(job.records)
        if (folder / "target").is_dir():
            store = MapStore(folder, total)
            _take_back_damaged(job, store)
            if (store.targets() >= 0).all():
                if job.share.leads:
                    say(f"explain: all {total} images are done")
                job.run.set_failures("explain", {})
                return 0
        failed = take_made_maps(job) if job.config.maps else explain_images(job)
        if job.share.leads and job.share.processes > 1:
            failed += join_maps(job.run, job.share, job.records)
        return failed


def _take_back_damaged(job: Job, store: MapStore) -> None:
    """Images whose maps are damaged or gone are done again, each by the process it belongs to."""
    own = set(job.share.places(store.images).tolist())
    damaged = [int(place) for place in store.damaged() if int(place) in own]
    if not damaged:
        return
    store.forget(damaged)
    for stage in ("evaluate", "report"):
        job.run.forget(stage)
    first = job.records[damaged[0]].name
    say(f"explain: the maps of {len(damaged)} images are damaged ({first}, …): they are done again")


def explain_images(job: Job) -> int:
    """Explain what has no maps yet, of several processes this one's share. Return how many images
    failed.

    An image that cannot be read, or for which the model returns NaN, goes to failures.csv;
    the others are done.

    Raises:
      DataError: maps cannot be written.
      ConfigError: the method does not fit the classifier, or one image not the memory.
    """
    _ = job.explained  # what is wrong with the model leaves no empty store behind
    maps = job.run.path / "maps.zarr"
    if read_names(maps) is None:
        write_names(maps, [record.name for record in job.records])
    store = MapStore(maps, len(job.records))
    own = job.share.places(len(job.records))
    pending = own[store.targets()[own] < 0]
    failed: dict[str, str] = _explain(job, store, pending) if len(pending) else {}
    job.run.set_failures("explain", failed)
    return len(failed)


def _explain(job: Job, store: MapStore, pending: np.ndarray) -> dict[str, str]:
    config, share, explain = job.config, job.share, job.config.explain
    names = [record.name for record in job.records]
    mine = len(share.places(len(names)))
    say(
        f"explain: {explain.method} ({explain.preset}), {len(pending)} images"
        + (f" of {mine}, the others are done" if len(pending) < mine else "")
        + (f"; process {share.own} of {share.processes}" if share.processes > 1 else "")
        + (f", in {explain.precision}" if explain.precision != "f32" else "")
    )
    began, failed, unreadable = time.monotonic(), {}, {}
    reasons: list[str | None] = []
    earlier = job.run.stage("explain").get("seconds", 0.0)
    patches = known_patches(job)
    explainer = Explainer(job, METHODS[explain.method], names, patches, len(pending))

    def readable() -> Iterator[Item]:
        wanted = [job.records[i] for i in pending]
        for i, example in load_examples(job.source, wanted, workers=config.data.workers):
            name = names[pending[i]]
            if patches is not None and name not in patches and not isinstance(example, DataError):
                example = DataError(f"{name}: no patch of this image is known")
            if isinstance(example, DataError):
                unreadable[name] = str(example)
            else:
                yield int(pending[i]), example

    def write(answer: Answer) -> None:
        """In a thread of its own."""
        maps = {"heatmap": answer.maps.heatmap, **answer.maps.maps}
        maps = {name: np.asarray(m) for name, m in maps.items()}
        traces = {name: np.asarray(t) for name, t in answer.maps.traces.items()}
        for i, place in enumerate(answer.places):
            counter.advance()
            if not np.isfinite(answer.logits[i]).all() or not np.isfinite(maps["heatmap"][i]).all():
                failed[names[place]] = (
                    "the model returned NaN or infinity for this image or a masked copy of it"
                )
                continue
            spread = traces.get("spread")
            reasons.append(
                why_blank(maps["heatmap"][i], None if spread is None else float(spread[i, 0]))
            )
            store.write(
                place,
                int(answer.targets[i]),
                {name: m[i] for name, m in maps.items()},
                {name: t[i] for name, t in traces.items()},
            )

    with progress("explain", len(pending)) as counter, MapWriter(write) as writer:
        for answer in explainer.answers(in_chunks(readable(), explainer.handed)):
            writer.put(answer)
    failed |= unreadable
    done = store.targets() >= 0
    running = read_traces(store.folder).get("running") if done.any() else None
    saved = {} if running is None else {"steps_saved": round(1 - float(running[done].mean()), 4)}
    if saved:
        say(f"explain: images stopped early; {saved['steps_saved']:.0%} of the steps were saved")
    if said := blank_sentence(count_reasons(reasons)):
        say(f"explain: {said}")
    job.run.finish(
        "explain",
        seconds=round(earlier + time.monotonic() - began, 1),
        images=int(done.sum()),
        failed=len(failed),
        **saved,
    )
    return failed

"""Stage "explain": a heat map for every test image, each written as soon as it is done."""

import time
from collections.abc import Iterator

import numpy as np

from fgjax.attribution import METHODS
from fgjax.core.progress import progress, say
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Record, Source
from fgjax.options.schema import Config
from fgjax.processes.shares import ALONE, Share
from fgjax.runs.folder import RunFolder
from fgjax.runs.maps import MapStore, read_traces
from fgjax.stages.explain.explainer import (
    Answer,
    Explainer,
    Item,
    choose_target,
    image_key,
    in_chunks,
)
from fgjax.stages.explain.images_per_step import given_or_usual
from fgjax.stages.explain.map_writer import MapWriter
from fgjax.stages.focus.patches import known_patches
from fgjax.stages.setup import Explained

__all__ = ["choose_target", "chunk_size", "explain_stage", "image_key"]


def chunk_size(config: Config, devices: int) -> int:
    """Return images per compiled step: as set, else 1 on a CPU and 16 on an accelerator, per
    device."""
    return given_or_usual(config.explain.settings, devices)


def explain_stage(
    config: Config,
    source: Source,
    records: tuple[Record, ...],
    explained: Explained,
    run: RunFolder,
    share: Share = ALONE,
) -> int:
    """Explain what has no maps yet, of several processes this one's share. Returns how many
    images failed.

    An image that cannot be read, or for which the model returns NaN, goes to failures.csv;
    the others are done.

    Raises:
      DataError: maps cannot be written.
      ConfigError: the method does not fit the classifier, or one image not the memory.
    """
    store = MapStore(run.path / "maps.zarr", len(records))
    own = share.places(len(records))
    pending = own[store.targets()[own] < 0]
    failed: dict[str, str] = {}
    if len(pending):
        failed = _explain(config, source, records, explained, run, store, pending, share)
    run.set_failures("explain", failed)
    return len(failed)


def _explain(config, source, records, explained, run, store, pending, share) -> dict[str, str]:
    names = [record.name for record in records]
    mine = len(share.places(len(records)))
    say(
        f"explain: {config.explain.method} ({config.explain.preset}), {len(pending)} images"
        + (f" of {mine}, the others are done" if len(pending) < mine else "")
        + (f"; process {share.own} of {share.processes}" if share.processes > 1 else "")
        + (f", in {config.explain.precision}" if config.explain.precision != "f32" else "")
    )
    began, failed, unreadable = time.monotonic(), {}, {}
    earlier = run.stage("explain").get("seconds", 0.0)
    patches = known_patches(config, source, run.path, explained.model)
    method = METHODS[config.explain.method]
    explainer = Explainer(config, source, explained, method, names, patches, len(pending))

    def readable() -> Iterator[Item]:
        loaded = load_examples(source, [records[i] for i in pending], workers=config.data.workers)
        for i, example in loaded:
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
    run.finish(
        "explain",
        seconds=round(earlier + time.monotonic() - began, 1),
        images=int(done.sum()),
        failed=len(failed),
        **saved,
    )
    return failed

"""`maps=DIR`: maps that were made elsewhere are taken where ours would be made.

Everything after that is as with maps of ours: evaluation, report, a run that goes on.
"""

import time
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from fgjax.core.batching import fill_up, in_chunks
from fgjax.core.progress import progress, say
from fgjax.data.made_maps import MadeMaps
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Example
from fgjax.evaluation.importance import SCALES, to_importance
from fgjax.evaluation.judge import BATCH
from fgjax.options.schema import ConfigError
from fgjax.runs.maps import MapStore
from fgjax.stages.focus.patches import boxes_of, known_patches
from fgjax.stages.job import Job


def check_made_maps(job: Job) -> None:
    """Tell which images have no map, before anything takes long.

    Raises:
      ConfigError: maps=DIR is asked for and not given, or does not go with another option.
      DataError: some images have no map.
    """
    config = job.config
    if config.maps is None:
        return
    if not config.maps:
        raise ConfigError(
            "maps=DIR is missing: a folder with a .npy or .png map for every image, under its "
            "name, or one .npy file of all maps in the images' order"
        )
    if config.explain.against is not None:
        raise ConfigError(
            f"explain.against={config.explain.against}: maps made elsewhere explain a class by "
            "itself; leave it out"
        )
    made_maps(job)


def made_maps(job: Job) -> MadeMaps:
    """Return the maps of `maps=DIR`.

    Raises:
      DataError: they cannot be used.
    """
    names = [record.name for record in job.records]
    fit = getattr(job.source, "fit", None)
    try:
        return MadeMaps(str(job.config.maps), names, job.config.data.size, fit)
    except DataError as error:
        raise DataError(f"maps: {error}") from None


def take_made_maps(job: Job) -> int:
    """Store the map of every image that has none yet; of several processes, this one's share.
    Return how many images failed.

    An image or map that cannot be read, or is of another size or range, goes to failures.csv.
    """
    config, maps, records = job.config, made_maps(job), job.records
    explained, patches = job.explained, known_patches(job)
    store = MapStore(job.run.path / "maps.zarr", len(records), "float32")
    own = job.share.places(len(records))
    pending = own[store.targets()[own] < 0]
    began, failed = time.monotonic(), dict[str, str]()
    say(
        f"explain: the maps of {config.maps} for {len(pending)} images, taken {config.maps_scale} "
        f"({SCALES[config.maps_scale]})"
    )

    def readable() -> Iterator[tuple[int, Example]]:
        wanted = [records[i] for i in pending]
        for i, example in load_examples(job.source, wanted, workers=config.data.workers):
            if isinstance(example, DataError):
                failed[records[pending[i]].name] = str(example)
            else:
                yield int(pending[i]), example

    with progress("explain", len(pending)) as counter:
        for chunk in in_chunks(readable(), BATCH):
            filled = fill_up(chunk, BATCH)  # one program serves all
            examples = [example for _, example in filled]
            images = np.stack([e.image for e in examples]).astype(np.float32) / 255
            boxes = None
            if patches is not None:
                names = [records[place].name for place, _ in filled]
                boxes = boxes_of(job, patches, names, examples)
            logits = explained.predict(images, boxes)
            for (place, example), row in zip(chunk, logits, strict=False):
                counter.advance()
                name = records[place].name
                try:
                    heat = _importance(maps, place, example, config.maps_scale)
                except DataError as error:
                    failed[name] = str(error)
                    continue
                if not np.isfinite(row).all():
                    failed[name] = "the model returned NaN or infinity for this image"
                    continue
                target = explained.target(example.label, row, config.explain.target)
                store.write(place, target, {"heatmap": heat}, {})
    job.run.set_failures("explain", failed)
    done = int((store.targets() >= 0).sum())
    if len(pending) and len(failed) == len(pending):
        raise DataError(f"maps: none can be used. The first: {next(iter(failed.values()))}")
    job.run.finish(
        "explain", seconds=round(time.monotonic() - began, 1), images=done, failed=len(failed)
    )
    return len(failed)


def _importance(
    maps: MadeMaps, place: int, example: Example, scale: str
) -> Float[np.ndarray, "h w"]:
    """Return the map of one image, in [0, 1].

    Raises:
      DataError: it cannot be used.
    """
    try:
        heat = to_importance(maps.read(place, example.shape)[None], scale)[0]
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"maps_scale={scale}: {error}") from None
    if not np.isfinite(heat).all():
        raise DataError(f"{maps.path}: its map holds NaN or infinity")
    return heat

"""Stage "explain": a heat map for every test image, each written as soon as it is done."""

import time
import zlib
from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np

from fgjax.attribution import METHODS
from fgjax.data.patch_table import Table
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Example, Record, Source
from fgjax.models.classifier import Classifier
from fgjax.models.folding import fold_batch_norm
from fgjax.options import Config, ConfigError
from fgjax.parallel import make_mesh, shard, spread
from fgjax.progress import progress, say
from fgjax.run_folder import RunFolder
from fgjax.shares import ALONE, Share
from fgjax.stages.focus import boxes_of, known_patches
from fgjax.stages.setup import Explained, base_key
from fgjax.store import MapStore

REWRITTEN = ("guided_backprop", "deconvnet", "guided_grad_cam")
"""Methods that replace the model's ReLUs: inside a pmap they could not find them."""
WITH_PATCHES = ("step_cam",)
"""Methods that call the model with the images as they are, so that each image's own patches can
be given. For any other a two-stream network finds the patches of what it is shown."""


def image_key(key: jax.Array, name: str) -> jax.Array:
    """An image's own key: a function of the seed and its name, so no neighbour changes it."""
    return jax.random.fold_in(key, zlib.crc32(name.encode("utf-8", "surrogateescape")))


def chunk_size(config: Config, devices: int) -> int:
    """Images per compiled step: as set, else 1 on a CPU and 16 on an accelerator, per device."""
    given = getattr(config.explain.settings, "images_per_step", None)
    each = given or (1 if jax.default_backend() == "cpu" else 16)
    return -(-each // devices) * devices if given else each * devices


def _in_chunks(
    loaded: Iterator[tuple[int, Example | DataError]], size: int, failed: dict[int, str]
) -> Iterator[list[tuple[int, Example]]]:
    chunk = []
    for place, example in loaded:
        if isinstance(example, DataError):
            failed[place] = str(example)
            continue
        chunk.append((place, example))
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _with_patches(loaded, names: list[str], patches: Table):
    for place, example in loaded:
        if names[place] not in patches and not isinstance(example, DataError):
            example = DataError(f"{names[place]}: no patch of this image is known")
        yield place, example


def choose_target(explained: Explained, label: int | None, logits: np.ndarray, how: str) -> int:
    """The output to explain: the label's where it is wanted and known, else the predicted."""
    known = explained.index[label] if label is not None and how == "label" else None
    return int(logits.argmax()) if known is None else known


def explain_stage(
    config: Config,
    source: Source,
    records: tuple[Record, ...],
    explained: Explained,
    run: RunFolder,
    share: Share = ALONE,
) -> int:
    """Explains what has no maps yet, of several processes this one's share. Returns how many
    images failed.

    An image that cannot be read, or for which the model returns NaN, goes to failures.csv;
    the others are done.
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
    mesh = make_mesh(config.parallel)
    devices = mesh.devices.size
    size = min(chunk_size(config, devices), -(-len(pending) // devices) * devices)
    method = METHODS[config.explain.method]
    settings = config.explain.settings
    # A method that takes a step for all images at once has them split, too, not its calls alone.
    stepwise = hasattr(settings, "images_per_step")
    if stepwise:
        settings = replace(settings, images_per_step=size)
    key = jax.random.fold_in(base_key(config), 3)
    mine = len(share.places(len(records)))
    way = "jit" if config.explain.method in REWRITTEN else config.parallel
    model = explained.model
    if isinstance(model, Classifier):
        model = fold_batch_norm(model)
    model = spread(model, mesh, way)
    if config.explain.method in WITH_PATCHES:  # it needs the model as it is, on one device
        model = explained.model
        if not model.looks_again:
            raise ConfigError(
                f"explain.method={config.explain.method}: the classifier has no time steps to "
                "explain; model.name=two_stream has, with focus.readout=attention, last or sum"
            )
    say(
        f"explain: {config.explain.method} ({config.explain.preset}), {len(pending)} images"
        + (f" of {mine}, the others are done" if len(pending) < mine else "")
        + (f"; process {share.own} of {share.processes}" if share.processes > 1 else "")
    )
    began, failed, unreadable = time.monotonic(), {}, {}
    earlier = run.stage("explain").get("seconds", 0.0)
    loaded = load_examples(source, [records[i] for i in pending], workers=config.data.workers)
    patches, boxes = known_patches(config, source, run.path, explained.model), None
    if patches is not None:
        loaded = _with_patches(loaded, [records[i].name for i in pending], patches)
    with progress("explain", len(pending)) as counter:
        for chunk in _in_chunks(loaded, size, unreadable):
            places = [pending[place] for place, _ in chunk]
            # A short last chunk is filled up with its last image: one program serves all.
            filled = [chunk[min(i, len(chunk) - 1)][1] for i in range(size)]
            images = np.stack([e.image for e in filled]).astype(np.float32) / 255
            names = [records[place].name for place in places]
            names += names[-1:] * (size - len(names))
            if patches is not None:
                boxes = boxes_of(config, source, patches, names, filled)
            logits = explained.predict(images, boxes)
            targets = np.array(
                [
                    choose_target(explained, e.label, row, config.explain.target)
                    for e, row in zip(filled, logits, strict=True)
                ],
                np.int32,
            )
            keys = jax.numpy.stack([image_key(key, name) for name in names])
            batch = (jax.numpy.asarray(images), jax.numpy.asarray(targets), keys)
            if devices > 1 and stepwise and way != "pmap":
                batch = shard(mesh, batch)
            if boxes is not None and config.explain.method in WITH_PATCHES:
                model = model.replace(boxes=boxes)
            result = method(model, batch[0], batch[1], key=batch[2], config=settings)
            maps = {"heatmap": result.heatmap, **result.maps}
            maps = {name: np.asarray(m) for name, m in maps.items()}
            traces = {name: np.asarray(t) for name, t in result.traces.items()}
            for i, place in enumerate(places):
                counter.advance()
                if not np.isfinite(logits[i]).all() or not np.isfinite(maps["heatmap"][i]).all():
                    failed[records[place].name] = (
                        "the model returned NaN or infinity for this image or a masked copy of it"
                    )
                    continue
                store.write(
                    int(place),
                    int(targets[i]),
                    {name: m[i] for name, m in maps.items()},
                    {name: t[i] for name, t in traces.items()},
                )
    failed |= {records[pending[place]].name: reason for place, reason in unreadable.items()}
    run.finish(
        "explain",
        seconds=round(earlier + time.monotonic() - began, 1),
        images=int((store.targets() >= 0).sum()),
        failed=len(failed),
    )
    return failed

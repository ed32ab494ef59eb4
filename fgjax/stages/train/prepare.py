"""Everything that a training needs before its first epoch."""

import time
from dataclasses import dataclass, field, replace

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Key

from fgjax.core.progress import say
from fgjax.data.pipeline import epoch_order
from fgjax.devices.collectives import leads, of_first, same_everywhere
from fgjax.devices.mesh import make_mesh
from fgjax.models.classifier import Classifier
from fgjax.options.schema import Config, ConfigError
from fgjax.options.training import TrainConfig
from fgjax.runs.folder import RunFolder
from fgjax.stages.classifier import training_model
from fgjax.stages.images import make_source, training_records, untrained_classes
from fgjax.stages.job import Job
from fgjax.stages.train.history import History
from fgjax.stages.train.images import TrainingImages, load_training_images
from fgjax.stages.train.kinds import Plain, kind_of
from fgjax.stages.train.recipe import make_recipe
from fgjax.training.batch_size import cache_file, find_batch_size
from fgjax.training.classifier import Recipe


@dataclass(frozen=True)
class Training:
    """A training that is ready to run.

    Attributes:
      model: where it starts from.
      kind: what its network needs beside a cross-entropy.
      training, validation: places of the images in `images`.
      batch: images per step, over all processes.
      steps: per epoch.
      epochs: how many; fewer than the schedule has, where it is known how many were best.
      mesh, own_mesh: the devices of all connected processes, and of this one.
      history: the epochs that are done.
      failed: images that cannot be read, and why.
      began: when this process began, by `time.monotonic`.
    """

    job: Job
    model: Classifier
    kind: Plain
    images: TrainingImages
    training: Int[np.ndarray, "n"]
    validation: Int[np.ndarray, "m"]
    batch: int
    steps: int
    epochs: int
    mesh: Mesh
    own_mesh: Mesh
    recipe: Recipe
    history: History
    failed: dict[str, str]
    began: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> Key[Array, ""]:
        """The key of the training's randomness."""
        return jax.random.fold_in(self.job.key, 2)


def prepare(job: Job) -> Training:
    """Read the images, and settle model, batches and recipe.

    Connected processes all call it; the first decides what might differ between them.

    Raises:
      ConfigError: there is nothing to train on, or the training cannot be done as told.
    """
    config, began = job.config, time.monotonic()
    records = training_records(job.source, config)
    if names := untrained_classes(job.source):
        some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        say(
            f"train: {len(names)} of {len(job.source.classes)} classes have test images and none "
            f"to train on ({some}): they cannot be learnt, and their test images count as wrong"
        )
    model = training_model(config, job.source)
    kind = kind_of(model)
    patches = kind.patches(job)
    source = make_source(config, margin=True) if with_margin(config.train) else job.source
    images, failed = load_training_images(source, records, config, patches)
    job.run.set_failures("train", failed)
    if not same_everywhere("\n".join(record.name for record in images.records)):
        raise ConfigError(
            f"data.path={config.data.path}: the processes cannot read the same training images "
            f"(this one: {len(images.records)}); every machine needs all of them"
        )
    own = np.array([record.validation for record in images.records], bool)
    if config.train.validation_from == "share":
        own[:] = False
    training, validation = split_validation(
        images.labels, config.train.validation, config.seed, own
    )
    if len(training) < 2 or (config.train.validation and not len(validation)):
        raise ConfigError(f"data.path={config.data.path}: too few training images that can be read")
    _check_proxies(config, images)
    mesh, own_mesh = make_mesh(config.parallel, everywhere=True), make_mesh(config.parallel)
    batch = _batch_size(config, model, images, len(training), job.run, mesh.devices.size)
    steps = len(training) // batch
    if steps * config.train.epochs < config.train.accumulate:
        raise ConfigError(
            f"train.accumulate={config.train.accumulate}: the training has only "
            f"{steps * config.train.epochs} batches, so that nothing would be learnt"
        )
    return Training(
        job,
        model,
        kind,
        images,
        training,
        validation,
        batch,
        steps,
        config.train.epochs,
        mesh,
        own_mesh,
        make_recipe(config, model, steps * config.train.epochs, images.labels[training]),
        History(job.run.path, config.train.select),
        failed,
        began,
    )


def again(training: Training, epochs: int) -> Training:
    """Return the same training from its start on all images, those for validation too, for so
    many epochs of the same schedule."""
    job, every = training.job, np.arange(len(training.images.labels))
    steps = len(every) // training.batch
    return replace(
        training,
        training=every,
        validation=every[:0],
        steps=steps,
        epochs=epochs,
        recipe=make_recipe(
            job.config, training.model, steps * job.config.train.epochs, training.images.labels
        ),
        history=History(job.run.path / "refit", "last"),
    )


def with_margin(settings: TrainConfig) -> bool:
    """Return whether training images are read with what the centre crop cuts off."""
    return (settings.crop < 1 and settings.crop_from == "square") or settings.window == "random"


def split_validation(
    labels: Int[np.ndarray, "n *a"],
    share: float,
    seed: int,
    own: Bool[np.ndarray, "n"] | None = None,
) -> tuple[Int[np.ndarray, "a"], Int[np.ndarray, "b"]]:
    """Return places for training and for validation: about `share` of every class, at least one
    image of a class that has two or more. Of images with attributes: about `share` of all.

    Args:
      labels: of all images.
      share: 0: all train.
      seed: another seed, another split.
      own: images that are for validation, where any are; then no share of the others is.
    """
    every = np.arange(len(labels))
    if share == 0:
        return every, every[:0]
    if own is not None and own.any():
        return np.flatnonzero(~own), np.flatnonzero(own)
    if labels.ndim == 2:
        labels = np.zeros(len(labels), np.int32)
    validation = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        order = epoch_order(seed, int(label), len(places))
        count = min(max(1, round(share * len(places))), len(places) - 1)
        validation.extend(places[order[:count]])
    validation = np.sort(np.array(validation, np.int64))
    return np.setdiff1d(every, validation), validation


def _check_proxies(config: Config, images: TrainingImages) -> None:
    """Raise ConfigError where mixing or proxies want what these images do not have."""
    if images.labels.ndim > 1 and config.train.sampling == "balanced":
        raise ConfigError(
            "train.sampling=balanced: images with several attributes are of no one class"
        )
    if images.labels.ndim > 1 and config.train.class_weights != "none":
        raise ConfigError(
            f"train.class_weights={config.train.class_weights}: images with several attributes "
            "are of no one class"
        )
    if images.labels.ndim > 1 and (config.train.mix, config.proxy.method) != ("none", "none"):
        raise ConfigError(
            "train.mix and proxy.method want one class an image, and these images have several "
            "labels: train.mix=none proxy.method=none"
        )
    if config.train.crop < 1 and config.train.crop_from == "file":
        if images.boxes is not None:
            raise ConfigError(
                "train.crop_from=file: a two-stream network is shown patches, whose places are "
                "those of the middle square; train.crop_from=square"
            )
        if config.train.window != "center":
            raise ConfigError(
                f"train.window={config.train.window} and train.crop_from=file both say where "
                "images are cut; leave one out"
            )
        if images.windows is None:
            raise ConfigError(
                f"train.crop_from=file: data.source={config.data.source} has no larger images to "
                "cut from; train.crop_from=square"
            )
    if images.boxes is not None and config.train.window == "anywhere":
        raise ConfigError(
            "train.window=anywhere: a two-stream network is shown patches, whose places are those "
            "of the middle square; train.window=random"
        )
    if images.boxes is not None and config.proxy.method != "none":
        raise ConfigError(
            f"proxy.method={config.proxy.method}: a two-stream network is shown patches beside "
            "images, and proxies have none: proxy.method=none, or focus.readout=none"
        )


def _batch_size(
    config: Config,
    model: Classifier,
    images: TrainingImages,
    count: int,
    run: RunFolder,
    devices: int,
) -> int:
    """Return the images per step: as told, at most those there are, a multiple of the devices."""
    batch = config.train.batch_size
    if not batch and leads():
        batch = _largest_batch(config, model, images, count, run, devices)
    batch = min(of_first(batch), count)
    batch = max(batch - batch % devices, devices)
    if batch > count:
        raise ConfigError(
            f"data.path={config.data.path}: {count} training images for {devices} devices; "
            "give fewer devices (distributed.processes, parallel=none)"
        )
    return batch


def _largest_batch(
    config: Config,
    model: Classifier,
    images: TrainingImages,
    count: int,
    run: RunFolder,
    devices: int,
) -> int:
    """For train.batch_size=0: what fits the devices, found once for a run wherever it goes on."""
    if "batch_size" not in run.facts:
        network = model.network.clone(dtype=compute_dtype(config.train))
        try:
            each = find_batch_size(
                model.replace(network=network),
                make_recipe(config, model, 10 * config.train.accumulate, images.labels),
                round(config.data.size / (config.data.crop if with_margin(config.train) else 1)),
                max(1, count // devices),
                labels=images.labels.shape[1:],
                patches=0 if images.boxes is None else images.boxes.shape[1],
                cache=cache_file(),
            )
        except ValueError as error:
            raise ConfigError(f"train.batch_size=0: {error}") from None
        run.facts["batch_size"] = each * devices
        run.save_facts()
        say(f"train: batches of {each * devices}, the largest that fit (train.batch_size=0)")
    return run.facts["batch_size"]


def compute_dtype(settings: TrainConfig) -> type:
    """Return the type of the network's sums in training."""
    bf16 = {"f32": False, "bf16": True, "auto": jax.default_backend() != "cpu"}
    return jax.numpy.bfloat16 if bf16[settings.precision] else jax.numpy.float32

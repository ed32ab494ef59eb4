"""Images to heat maps: one chunk at a time, on all devices, in the memory there is."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Key

from fgjax.attribution.common.streaming import choose_chunk
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import OWN_NETWORKS, needs
from fgjax.core.batching import fill_up
from fgjax.core.functional import partition
from fgjax.core.keys import image_key
from fgjax.core.progress import say
from fgjax.data.patch_table import PatchTable
from fgjax.data.types import Example
from fgjax.devices.memory import is_exhausted
from fgjax.devices.mesh import make_mesh, shard, spread
from fgjax.models.classifier import Classifier
from fgjax.models.folding import fold_batch_norm
from fgjax.models.precision import in_precision
from fgjax.options.schema import ConfigError
from fgjax.stages.explain.against import find_rivals, question
from fgjax.stages.explain.images_per_step import halved, images_per_step
from fgjax.stages.explain.infills import read_infills
from fgjax.stages.focus.patches import boxes_of
from fgjax.stages.job import Job

TURNS = 4
"""How many times as many images as are optimised at a time wait for their turn."""

Item = tuple[int, Example]
"""An image's place among all, and the image."""


def explaining_keys(job: Job, names: Sequence[str]) -> Key[jax.Array, "n"]:
    """Return each image's own key, whatever its neighbours are."""
    key = jax.random.fold_in(job.key, 3)
    return jax.numpy.stack([image_key(key, name) for name in names])


class Answer(NamedTuple):
    """What was found for some images, in their order. There may be more rows than images: the
    last ones fill up. The maps are still on the device."""

    places: list[int]
    logits: Float[np.ndarray, "n k"]
    targets: Int[np.ndarray, "n"]
    maps: Attribution


class Explainer:
    """Explains chunks of images with one method; see `answers`.

    Args:
      method: of `METHODS`, the one that the options name.
      names: of all images, by their places.
      patches: of the images, for a network that looks at them.
      pending: how many images there are.

    Attributes:
      size: images at a time.
      handed: images that the method is given in one call. More than `size` where an image may
        stop early, so that another one takes its place.

    Raises:
      ConfigError: the method does not fit the classifier.
    """

    def __init__(
        self,
        job: Job,
        method: Callable[..., Attribution],
        names: Sequence[str],
        patches: PatchTable | None,
        pending: int,
    ):
        config, self._job = job.config, job
        self._method, self._names, self._patches = method, names, patches
        self._mesh = make_mesh(config.parallel)
        self._settings = config.explain.settings
        wants = needs(config.explain.method)
        # Inside a pmap a method would not find the ReLUs that it rewrites, nor a model its layers.
        way = "jit" if {"relus", "attention", "rules", "prompts"} & set(wants) else config.parallel
        # A method that takes a step for all images at once has them split, not its calls alone.
        stepwise = hasattr(self._settings, "images_per_step")
        self._split = self._mesh.devices.size > 1 and stepwise and way != "pmap"
        model = job.explained.model
        # Of steps each image's own patches are given, to the model as it is, on one device. For
        # any other method a two-stream network finds the patches of what it is shown.
        self._own_patches = "steps" in wants
        if self._own_patches:
            if not getattr(model, "looks_again", False):
                raise ConfigError(
                    f"explain.method={config.explain.method}: the classifier has no time steps to "
                    "explain; model.name=two_stream has, with focus.readout=attention, last or sum"
                )
            self._model = in_precision(model, config.explain.precision)
        else:
            if isinstance(model, Classifier):
                model = fold_batch_norm(model)
            self._model = spread(in_precision(model, config.explain.precision), self._mesh, way)
        self._rivals = find_rivals(job)
        if self._rivals is not None and OWN_NETWORKS & set(wants):
            raise ConfigError(
                f"explain.against={config.explain.against}: {config.explain.method} reads its map "
                "off the network's own parts, prompts or steps, which know no rivals; other "
                "methods do"
            )
        self._split = self._split and self._rivals is None
        self.size = images_per_step(config, self._model, self._mesh, pending, self._split)
        if self._rivals is not None:  # the question is another one for every image
            self.size = 1

    @property
    def handed(self) -> int:
        stops = getattr(self._settings, "stop", None) is not None and self.size > 1
        return TURNS * self.size if stops else self.size

    def answers(self, chunks: Iterator[list[Item]]) -> Iterator[Answer]:
        """Explain chunks of at most `handed` images, in their order.

        Where a device's memory is exhausted, what was asked of it is halved, and the chunk goes on
        in pieces.

        Raises:
          ConfigError: the memory does not suffice for one image.
        """
        for chunk in chunks:
            left = chunk
            while left:
                now, exhausted = left[: self.handed], False
                try:
                    answer = self._explain(now)
                except jax.errors.JaxRuntimeError as error:
                    if not is_exhausted(error):
                        raise
                    exhausted = True
                    traceback.clear_frames(error.__traceback__)  # they hold arrays on the device
                if exhausted:
                    self._halve(now[0][1])
                    continue
                left = left[len(now) :]
                yield answer

    def _explain(self, chunk: list[Item]) -> Answer:
        config, explained = self._job.config, self._job.explained
        # A short chunk is filled up with its last image: one program serves all.
        count = -(-len(chunk) // self.size) * self.size
        filled = fill_up(chunk, count)
        examples, names = [e for _, e in filled], [self._names[place] for place, _ in filled]
        images = np.stack([e.image for e in examples]).astype(np.float32) / 255
        images, model, boxes = jax.numpy.asarray(images), self._model, None
        if self._patches is not None:
            boxes = boxes_of(self._job, self._patches, names, examples)
        logits = explained.predict(images, boxes)
        targets = np.array(
            [
                explained.target(e.label, row, config.explain.target)
                for e, row in zip(examples, logits, strict=True)
            ],
            np.int32,
        )
        keys = explaining_keys(self._job, names)
        batch = (images, jax.numpy.asarray(targets), keys)
        if self._split:
            batch = shard(self._mesh, batch)
        if boxes is not None and self._own_patches:
            model = model.replace(boxes=boxes)
        settings = self._settings
        if hasattr(settings, "images_per_step"):
            settings = replace(settings, images_per_step=self.size)
        if config.explain.infills is not None:
            settings = replace(settings, infill=read_infills(self._job, names, images.shape))
        if self._rivals is not None:
            model = question(self._rivals, model, int(targets[0]), logits[0])
            batch = (batch[0], jax.numpy.zeros_like(batch[1]), batch[2])
        maps = self._method(model, batch[0], batch[1], key=batch[2], config=settings)
        # Waited for here, where an exhausted memory can still be met with less.
        maps = jax.block_until_ready(maps)
        return Answer([place for place, _ in chunk], logits, targets, maps)

    def _halve(self, example: Example) -> None:
        """Return half as many images at a time, and half as many to a model call.

        Raises:
          ConfigError: it is one already.
        """
        chunk = None
        if hasattr(self._settings, "chunk_size"):
            one = np.zeros((1, *example.image.shape), np.float32)
            chunk = self._settings.chunk_size or choose_chunk(
                *partition(self._model), one, backward=True
            )
        less = halved(self._settings, self.size, chunk, self._mesh.devices.size)
        if less is None:
            raise ConfigError(
                "explain: the device's memory does not suffice for one image: what takes less is "
                + (
                    "a smaller explain.batch_size or "
                    if hasattr(self._settings, "batch_size")
                    else ""
                )
                + "a smaller data.size, or explain.precision=bf16"
            )
        self._settings, self.size = less
        asked = self._settings.chunk_size if chunk else getattr(less[0], "masks_per_pass", None)
        calls = f", {asked} to a model call" if asked else ""
        say(
            "explain: the device's memory is exhausted; it goes on with "
            f"{self.size} {'image' if self.size == 1 else 'images'} at a time{calls}"
        )

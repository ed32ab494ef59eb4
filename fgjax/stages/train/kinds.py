"""The kinds of training: what a network needs beside images, labels and a cross-entropy.

The loop is given one of these; it asks for no names.
"""

from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from fgjax.core.batching import filled_places
from fgjax.core.progress import say
from fgjax.data.patch_table import PatchTable
from fgjax.models.classifier import Classifier
from fgjax.models.composed.prototypes import PrototypeNet, project
from fgjax.models.composed.region_grouping import RegionGrouping
from fgjax.options.schema import Config, ConfigError
from fgjax.stages.focus.patches import looks_at_patches, patches_to_train
from fgjax.stages.job import Job
from fgjax.stages.train.images import TrainingImages
from fgjax.training.augment.geometry_and_light import center_crop
from fgjax.training.augment.patches import PatchAugmentation
from fgjax.training.classifier import Recipe
from fgjax.training.objectives.part_objective import PartObjective
from fgjax.training.objectives.prototype_loss import PrototypeLoss
from fgjax.training.objectives.ranking import StreamLoss
from fgjax.training.prototype_schedule import Phase, phase_of

BATCH = 16
"""Images per forward pass while prototypes are moved."""


class Plain:
    """An ordinary classifier: nothing beside."""

    def patches(self, job: Job) -> PatchTable | None:
        """Return the patches that the network is shown beside its images; None: none."""
        return None

    def check(self, config: Config, model: Classifier) -> None:
        """Tell what this kind of network cannot be trained with.

        Raises:
          ConfigError: an option does not fit it.
        """

    def recipe(self, config: Config, recipe: Recipe) -> Recipe:
        """Return the recipe with what this kind of network changes in it."""
        return recipe

    def of_epoch(self, config: Config, recipe: Recipe, epoch: int, epochs: int) -> Recipe:
        """Return the recipe of one epoch; the optimizer stays."""
        return recipe

    def counts(self, config: Config, epoch: int, epochs: int) -> bool:
        """Return whether the classifier after this epoch may be the one that is kept."""
        return True

    def change(
        self,
        config: Config,
        epoch: int,
        epochs: int,
        model: Classifier,
        images: TrainingImages,
        training: Int[np.ndarray, "n"],
    ) -> Classifier | None:
        """Return the classifier to go on with after an epoch; None: as it is."""
        return None

    def finish(
        self, model: Classifier, images: TrainingImages, training: Int[np.ndarray, "n"]
    ) -> Classifier:
        """Return the classifier after its last step, done after the best epoch was chosen."""
        return model


class Regions(Plain):
    """Region grouping: the occurrence prior beside the cross-entropy."""

    def check(self, config: Config, model: Classifier) -> None:
        """Tell where the maps are smaller than the window that smooths them."""
        side, window = config.data.size, 2 * config.parts.radius + 1
        images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        cells = min(jax.eval_shape(lambda m, x: m.features(x), model, images).shape[1:3])
        if config.parts.weight and cells < window:
            radius = (cells - 1) // 2
            raise ConfigError(
                f"data.size={side}: the parts' maps have {cells}x{cells} cells, fewer than the "
                f"window of parts.radius={config.parts.radius} ({window}x{window}): data.size="
                f"{-(-side // cells) * window} or more, or parts.radius={radius}"
            )

    def recipe(self, config: Config, recipe: Recipe) -> Recipe:
        """Return the recipe with the paper's objective."""
        parts = config.parts
        objective = PartObjective(
            parts.weight,
            parts.alpha,
            parts.beta,
            parts.radius,
            parts.std,
            config.train.label_smoothing,
        )
        return replace(recipe, method="regions", objective=objective)


class Prototypes(Plain):
    """Prototypes: cluster and separation costs, moves onto patches of images, and the last layer
    that learns between them."""

    def check(self, config: Config, model: Classifier) -> None:
        """Tell that prototypes have no mean."""
        if config.train.ema:
            raise ConfigError(
                f"train.ema={config.train.ema}: prototypes move onto patches of images, and a "
                "mean of theirs is none; train.ema=0"
            )

    def of_epoch(self, config: Config, recipe: Recipe, epoch: int, epochs: int) -> Recipe:
        """Return the recipe of a stage of ProtoPNet: the new layers, all but the last one (which
        says whose prototypes are whose), or the last one alone with its L1 cost."""
        learns, focus = self._phase(config, epoch, epochs).learns, config.focus
        given = recipe.frozen[:-1]  # the classifier comes last, see `recipe`
        if learns == "new":
            return replace(recipe, frozen=(*given, "trunk", "classifier"))
        if learns == "joint":
            return recipe
        loss = PrototypeLoss(0.0, 0.0, config.train.label_smoothing, focus.last_l1)
        return replace(
            recipe, objective=loss, frozen=(*given, "trunk", "adapt1", "adapt2", "prototypes")
        )

    def counts(self, config: Config, epoch: int, epochs: int) -> bool:
        """Return whether prototypes are patches of images, which only a push makes them."""
        pushes = any(self._phase(config, e, epochs).push for e in range(epochs))
        phase = self._phase(config, epoch, epochs)
        return not pushes or phase.push or phase.learns == "last"

    def change(
        self,
        config: Config,
        epoch: int,
        epochs: int,
        model: Classifier,
        images: TrainingImages,
        training: Int[np.ndarray, "n"],
    ) -> Classifier | None:
        """Return the classifier with every prototype moved, after the epochs that end so."""
        pushed = self._phase(config, epoch, epochs).push
        return self.finish(model, images, training) if pushed else None

    def _phase(self, config: Config, epoch: int, epochs: int) -> Phase:
        focus = config.focus
        return phase_of(epoch, epochs, focus.warm, focus.push_every, focus.last_layer)

    def recipe(self, config: Config, recipe: Recipe) -> Recipe:
        """Return the recipe with the costs; the last layer stays."""
        focus = config.focus
        return replace(
            recipe,
            method="compare",
            objective=PrototypeLoss(focus.cluster, focus.separation, config.train.label_smoothing),
            frozen=(*recipe.frozen, "classifier"),
        )

    def finish(
        self, model: Classifier, images: TrainingImages, training: Int[np.ndarray, "n"]
    ) -> Classifier:
        """Return the classifier with every prototype moved."""
        say("train: every prototype moves onto the nearest patch of a training image of its class")
        return project(model, _middle_squares(images, training, model.size))


class Streams(Plain):
    """Two streams: patches beside images, and the ranking loss."""

    def patches(self, job: Job) -> PatchTable:
        """Return the patches that were given, or that the stage before found."""
        return patches_to_train(job)

    def recipe(self, config: Config, recipe: Recipe) -> Recipe:
        """Return the recipe with the losses of both streams."""
        focus = config.focus
        return replace(
            recipe,
            method="streams",
            objective=StreamLoss(
                focus.local_weight,
                focus.ranking,
                focus.margin,
                focus.moves_reference,
                focus.readout == "last",
                config.train.label_smoothing,
            ),
            augment=PatchAugmentation(recipe.augment, focus.patch_size, focus.random_patch),
        )


def kind_of(model: Classifier) -> Plain:
    """Return the kind of training that a network wants."""
    if isinstance(model.network, RegionGrouping):
        return Regions()
    if isinstance(model.network, PrototypeNet):
        return Prototypes()
    return Streams() if looks_at_patches(model) else Plain()


def check_mixing(config: Config, model: Classifier, recipe: Recipe) -> None:
    """Raise ConfigError where labels are to be mixed, and the network has a loss of its own."""
    if recipe.objective is not None and recipe.mix.name != "none":
        raise ConfigError(
            f"train.mix={recipe.mix.name}: {model.name} trains with a loss of its own, which "
            "knows no mixed labels; train.mix=none, or train.erase=…"
        )
    if recipe.objective is not None and recipe.class_weights:
        raise ConfigError(
            f"train.class_weights={config.train.class_weights}: {model.name} trains with a loss "
            "of its own, which knows no such weights; train.sampling=balanced"
        )


def _middle_squares(
    images: TrainingImages, order: Int[np.ndarray, "m"], size: int
) -> Iterator[tuple[Float[jax.Array, "b s s 3"], Int[np.ndarray, "b"]]]:
    """Yield training images in [0, 1], their middle squares, and labels; a last short batch is
    filled up with its last image."""
    for i in range(0, len(order), BATCH):
        part = order[i : i + BATCH]
        part = part[filled_places(len(part), BATCH)]
        pixels, labels = next(images.batches(part, BATCH))
        yield center_crop(jnp.asarray(pixels), size).astype(np.float32) / 255, labels

"""The objectives of networks that are trained by more than a cross-entropy."""

from dataclasses import replace

from fgjax.models.classifier import Classifier
from fgjax.models.composed.prototypes import PrototypeNet
from fgjax.models.composed.region_grouping import RegionGrouping
from fgjax.models.composed.two_stream import TwoStream
from fgjax.options.schema import Config, ConfigError
from fgjax.training.augment.patches import PatchAugmentation
from fgjax.training.classifier import Recipe
from fgjax.training.objectives.part_objective import PartObjective
from fgjax.training.objectives.prototype_loss import PrototypeLoss
from fgjax.training.objectives.ranking import StreamLoss


def looks_at_patches(model: Classifier) -> bool:
    """Return whether the network wants boxes of patches beside images."""
    return isinstance(model.network, TwoStream) and model.network.readout != "none"


def special_recipe(config: Config, model: Classifier, recipe: Recipe) -> Recipe:
    """Return the recipe with what this network's kind needs; of an ordinary classifier, as it is.

    Raises:
      ConfigError: labels are to be mixed, and the network trains with a loss of its own.
    """
    special = _special(config, model, recipe)
    if special.objective is not None and recipe.mix.name != "none":
        raise ConfigError(
            f"train.mix={recipe.mix.name}: {model.name} trains with a loss of its own, which "
            "knows no mixed labels; train.mix=none, or train.erase=…"
        )
    return special


def _special(config: Config, model: Classifier, recipe: Recipe) -> Recipe:
    smoothing = config.train.label_smoothing
    if isinstance(model.network, RegionGrouping):
        parts = config.parts
        objective = PartObjective(
            parts.weight, parts.alpha, parts.beta, parts.radius, parts.std, smoothing
        )
        return replace(recipe, method="regions", objective=objective)
    focus = config.focus
    if isinstance(model.network, PrototypeNet):
        # The last layer, which says whose prototypes are whose, stays (stage 1 of ProtoPNet).
        return replace(
            recipe,
            method="compare",
            objective=PrototypeLoss(focus.cluster, focus.separation, smoothing),
            frozen=(*recipe.frozen, "classifier"),
        )
    if looks_at_patches(model):
        every_step = focus.readout == "last"
        return replace(
            recipe,
            method="streams",
            objective=StreamLoss(
                focus.local_weight, focus.ranking, focus.margin, every_step, smoothing
            ),
            augment=PatchAugmentation(recipe.augment, focus.patch_size, focus.random_patch),
        )
    return recipe

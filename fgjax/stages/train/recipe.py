"""From the options `train.*` to the recipe of a training."""

import numpy as np
from flax import traverse_util
from jaxtyping import Int

from fgjax.models.classifier import Classifier
from fgjax.models.pretrained_trunk import TRUNK
from fgjax.options.ranges import read_rates
from fgjax.options.schema import Config, ConfigError
from fgjax.stages.train.kinds import check_mixing, kind_of
from fgjax.training.augment.erasing import Erasing
from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.augment.mixing import Mixing
from fgjax.training.classifier import Recipe
from fgjax.training.objectives.losses import class_weights
from fgjax.training.optimizer import begins_with, check_modules, make_optimizer


def make_recipe(
    config: Config,
    model: Classifier,
    steps: int,
    labels: Int[np.ndarray, "n *a"] | None = None,
) -> Recipe:
    """Return the recipe of `train.*` for a training of so many steps.

    Args:
      labels: of the images that are trained on, which train.class_weights counts.

    Raises:
      ConfigError: train.rates or train.freeze names no module of the network, or labels are to
        be mixed, which the network's loss does not know.
    """
    settings = config.train
    rates = read_rates(settings.rates)
    for option, names in (("rates", [n for n, _ in rates]), ("freeze", settings.freeze)):
        try:
            check_modules(model.variables["params"], names)
        except ValueError as error:
            raise ConfigError(f"train.{option}: {error}") from None
    optimizer = make_optimizer(
        steps,
        settings.learning_rate,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        warmup=settings.warmup,
        drops=settings.drops,
        weight_decay=settings.weight_decay,
        adam_eps=settings.adam_eps,
        momentum=settings.momentum,
        rates=rates,
        layer_decay=settings.layer_decay,
        clip=settings.clip,
        decay=settings.decay,
        accumulate=settings.accumulate,
    )
    augment = Augmentation(
        size=config.data.size,
        crop=1.0 if settings.crop_from == "file" else settings.crop,  # else cut where it is decoded
        window=settings.window,
        flip=settings.flip,
        shift=settings.shift,
        light=settings.light,
        color=settings.color,
        hue=settings.hue,
        randaugment=settings.randaugment,
        operations=settings.operations,
        # Erasing papers fill with what is 0 once an image is normalised.
        erase=Erasing(settings.erase, settings.erase_side, tuple(model.mean)),
    )
    mix = Mixing(settings.mix, settings.mix_alpha, settings.mix_probability)
    # The new layers of a composed network came with no statistics: they learn them.
    modules = (TRUNK,) if TRUNK in model.variables["params"] else ("",)
    batch_norm = settings.batch_norm
    if batch_norm == "auto":
        # A fresh network's statistics look as if they were folded, too; it has to learn them.
        folded = config.model.pretrained is not None and statistics_are_folded(model, modules)
        batch_norm = "fixed" if folded else "batch"
    weights: tuple[float, ...] = ()
    if settings.class_weights != "none" and labels is not None:
        counts = np.bincount(labels, minlength=model.network.num_classes)
        weights = class_weights(counts, settings.class_weights, settings.class_beta)
    plain = Recipe(
        optimizer,
        augment,
        settings.label_smoothing,
        batch_norm,
        modules,
        settings.freeze,
        mix=mix,
        class_weights=weights,
        accumulate=settings.accumulate,
        average=settings.ema,
    )
    kind = kind_of(model)
    kind.check(config, model)
    recipe = kind.recipe(config, plain)
    check_mixing(config, model, recipe)
    return recipe


def statistics_are_folded(model: Classifier, modules: tuple[str, ...] = ("",)) -> bool:
    """Return whether every BatchNorm of these modules has mean 0 and variance 1: then its work is
    done by the convolution before it, and the statistics of a batch would undo that."""
    flat = traverse_util.flatten_dict(model.variables.get("batch_stats", {}), sep="/")
    own = {path: value for path, value in flat.items() if begins_with(path, modules)}
    unit = [bool((value == float(path.endswith("/var"))).all()) for path, value in own.items()]
    return bool(unit) and all(unit)

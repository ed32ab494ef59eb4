"""How alike a map and that of the same network with a fresh last layer are."""

from dataclasses import replace

import jax
from jaxtyping import Array, Float, Int

from fgjax.attribution import METHODS
from fgjax.attribution.registry import OWN_NETWORKS, needs
from fgjax.evaluation.randomisation import absolute_correlation, layers_top_down, randomise
from fgjax.models.classifier import Classifier
from fgjax.models.folding import fold_batch_norm
from fgjax.models.precision import in_precision
from fgjax.options.schema import ConfigError
from fgjax.stages.explain.explainer import explaining_keys
from fgjax.stages.explain.infills import read_infills
from fgjax.stages.job import Job


def check_randomised(job: Job) -> None:
    """Tell where no map of another network can be made.

    Raises:
      ConfigError: the maps came from elsewhere, are asked against another class, or are read off
        the network's own parts, prompts or steps.
    """
    config = job.config
    if not config.evaluate.randomised:
        return
    if config.maps:
        why = "maps made elsewhere cannot be made again"
    elif config.explain.against:
        why = f"explain.against={config.explain.against} asks another question of each network"
    elif OWN_NETWORKS & set(needs(config.explain.method)):
        why = f"{config.explain.method} reads its map off the network's own parts, prompts or steps"
    else:
        return
    raise ConfigError(f"evaluate.randomised=true: {why}; evaluate.randomised=false")


def randomised_alike(
    job: Job,
    images: Float[Array, "n h w 3"],
    targets: Int[Array, "n"],
    names: list[str],
    heat: Float[Array, "n h w"],
) -> Float[Array, "n"]:
    """Return |ρ|, Spearman's over the pixels, of maps and of those whose network has a fresh last
    layer, drawn by its own initialisers; NaN where either map is blank.

    Everything else is as it was when the maps were made: settings, keys, infills, precision.

    Raises:
      ConfigError: the classifier is a plain function, whose layers nobody knows.

    References:
      Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018.
    """
    config, model = job.config, job.explained.model
    if not isinstance(model, Classifier):
        raise ConfigError(
            "evaluate.randomised=true: only a classifier of fgjax has layers that can be drawn "
            "anew; evaluate.randomised=false"
        )
    last = layers_top_down(model, images)[:1]
    fresh = randomise(model, images, last, key=jax.random.key(config.seed))
    settings = config.explain.settings
    if config.explain.infills is not None:
        settings = replace(settings, infill=read_infills(job, names, images.shape))
    asked = in_precision(fold_batch_norm(fresh), config.explain.precision)
    method, keys = METHODS[config.explain.method], explaining_keys(job, names)
    maps = method(asked, images, targets, key=keys, config=settings).heatmap
    return absolute_correlation(heat, maps)

"""LIME: ridge regression of the probability on which superpixels are shown."""

import jax
import jax.numpy as jnp
import numpy as np
from torch_resnet import torch

import fgjax
from fgjax.attribution.common.superpixels import superpixels
from fgjax.attribution.lime import draw_shown
from fgjax.core.keys import image_keys
from torch_methods.case import Case, Setup, our_call, probability, to_torch


def torch_lime(model, images, targets, config, chunk, draw):
    """Return the coefficients, each pixel that of its superpixel, `n h w`. The superpixels are the
    same library's on both sides."""
    maps = []
    with torch.no_grad():
        for i, (image, target) in enumerate(zip(images, targets, strict=True)):
            pixels = image.permute(1, 2, 0)
            labels = superpixels(pixels.cpu().numpy(), config.segments, config.compactness)
            labels = to_torch(labels.astype(np.int64), image.device)
            flat, count = labels.flatten(), int(labels.max()) + 1
            sums = torch.zeros(count, 3, device=image.device).index_add_(
                0, flat, pixels.reshape(-1, 3)
            )
            means = sums / flat.bincount(minlength=count)[:, None]
            hidden = means[labels].permute(2, 0, 1)
            shown = draw(i, config.samples, count)
            scores = torch.cat(
                [
                    probability(model, torch.where(part[:, None, labels], image, hidden), target)
                    for part in shown.split(chunk)
                ]
            )
            maps.append(ridge(shown, scores, config)[labels])
    return torch.stack(maps)


def ridge(shown, scores, config):
    """Weighted by nearness to the whole image, with an intercept, in float64."""
    z, y = shown.double(), scores.double()
    distance = 1 - z.mean(1).sqrt()
    weight = torch.exp(-((distance / config.kernel_width) ** 2)).sqrt()
    design = torch.cat([z, torch.ones_like(z[:, :1])], 1)
    penalty = config.ridge * torch.ones(design.shape[1], device=z.device, dtype=z.dtype)
    penalty[-1] = 0
    gram = design.T @ (weight[:, None] * design) + torch.diag(penalty)
    return torch.linalg.solve(gram, design.T @ (weight * y))[:-1].float()


def make(setup: Setup) -> Case:
    config = fgjax.LimeConfig(samples=setup.passes, chunk_size=setup.chunk)
    keys = image_keys(jax.random.key(0), len(setup.images))

    def same(i, samples, count):
        shown = draw_shown(keys[i], jnp.arange(samples), jnp.arange(count))
        return to_torch(shown, setup.device)

    def draw(i, samples, count):
        shown = torch.rand(samples, count, device=setup.device) < 0.5
        shown[0] = True
        return shown

    return Case(
        our_call(setup, "lime", "signed", config),
        lambda model, draw: torch_lime(model, *setup.inputs(), config, setup.chunk, draw),
        setup.theirs,
        {"forward": setup.passes},
        draw=draw,
        same=same,
        unit=f"{setup.passes} samples",
    )


MAKERS = {"lime": make}

"""The gradient, its mean over noisy images, and its integral along a line."""

import jax
import numpy as np
from torch_resnet import torch

import fgjax
from fgjax.attribution.path_integral import quadrature
from fgjax.core.keys import image_keys
from torch_methods.case import Case, Setup, our_call, to_torch, torch_score_gradient

NOISE = 0.15


def torch_gradient(model, images, targets, chunk):
    """Return sum over the channels, `n h w`."""
    parts = [
        torch_score_gradient(model, x, t)
        for x, t in zip(images.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat(parts).sum(1)


def torch_smooth_gradient(model, images, targets, samples, chunk, draw):
    """Return the mean over `samples` noisy copies, summed over the channels."""
    maps = []
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        total = torch.zeros_like(image)
        spread = NOISE * (image.max() - image.min())
        for start in range(0, samples, chunk):
            noise = draw(i, start, min(chunk, samples - start))
            points = image + spread * noise
            total += torch_score_gradient(model, points, target.expand(len(points))).sum(0)
        maps.append((total / samples).sum(0))
    return torch.stack(maps)


def torch_integrated_gradients(model, images, targets, steps, chunk):
    """From black, by Gauss and Legendre's nodes, summed over the channels."""
    nodes, weights = (to_torch(a, images.device) for a in quadrature("gausslegendre", steps))
    maps = []
    for image, target in zip(images, targets, strict=True):
        total = torch.zeros_like(image)
        for alpha, weight in zip(nodes.split(chunk), weights.split(chunk), strict=True):
            points = alpha[:, None, None, None] * image
            values = torch_score_gradient(model, points, target.expand(len(points)))
            total += (weight[:, None, None, None] * values).sum(0)
        maps.append((image * total).sum(0))
    return torch.stack(maps)


def make_gradient(setup: Setup) -> Case:
    config = fgjax.GradientConfig(chunk_size=setup.chunk)
    return Case(
        our_call(setup, "gradient", "signed", config, None),
        lambda model, draw: torch_gradient(model, *setup.inputs(), setup.chunk),
        setup.theirs,
        {"gradient": 1},
    )


def make_smooth(setup: Setup) -> Case:
    config = fgjax.SmoothGradientConfig(samples=setup.passes, noise=NOISE, chunk_size=setup.chunk)
    keys, shape = image_keys(jax.random.key(0), len(setup.images)), setup.images.shape[1:]

    def same(i, start, count):
        samples = [jax.random.fold_in(keys[i], s) for s in range(start, start + count)]
        noise = np.stack([jax.random.normal(key, shape) for key in samples])
        return to_torch(noise.transpose(0, 3, 1, 2), setup.device)

    def draw(i, start, count):
        return torch.randn(count, shape[2], *shape[:2], device=setup.device)

    def theirs(model, draw):
        args = (*setup.inputs(), setup.passes, setup.chunk, draw)
        return torch_smooth_gradient(model, *args)

    return Case(
        our_call(setup, "smooth_gradient", "signed", config),
        theirs,
        setup.theirs,
        {"gradient": setup.passes},
        draw=draw,
        same=same,
        unit=f"{setup.passes} samples",
    )


def make_integrated(setup: Setup) -> Case:
    config = fgjax.IntegratedGradientsConfig(steps=setup.passes, chunk_size=setup.chunk)

    def theirs(model, draw):
        return torch_integrated_gradients(model, *setup.inputs(), setup.passes, setup.chunk)

    return Case(
        our_call(setup, "integrated_gradients", "signed", config, None),
        theirs,
        setup.theirs,
        {"gradient": setup.passes},
        unit=f"{setup.passes} steps",
    )


MAKERS = {
    "gradient": make_gradient,
    "smooth_gradient": make_smooth,
    "integrated_gradients": make_integrated,
}

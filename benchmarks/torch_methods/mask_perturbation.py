"""Mask perturbation: a coarse mask optimised by Adam, enlarged and blurred."""

from dataclasses import replace

import jax
import numpy as np
from torch_resnet import torch

import fgjax
from fgjax.attribution.mask_perturbation import smooth_enlarging
from fgjax.core.filters import gaussian_matrix
from fgjax.core.keys import image_keys
from torch_methods.case import Case, Setup, our_call, probability, to_torch, torch_blur

CHECKED = 3
"""Steps after which the masks are compared: Adam's steps have one size, whatever rounding made
of a small gradient."""


def shift(images, offset, room):
    """Return each image moved by its own offset; what comes in repeats the border."""
    before, (height, width) = room // 2, images.shape[2:]
    sides = (before, room - before, before, room - before)
    padded = torch.nn.functional.pad(images, sides, mode="replicate")
    return torch.stack(
        [x[:, y : y + height, z : z + width] for x, (y, z) in zip(padded, offset, strict=True)]
    )


def torch_mask_perturbation(model, images, targets, config, draw):
    """1 - m, enlarged, `n h w`; all images in one step."""
    n, size, device = len(images), images.shape[-1], images.device
    infill = torch_blur(images, gaussian_matrix(size, config.blur_sigma * size / 224))
    line = smooth_enlarging(size, config.mask_size, config.mask_blur * size / 224)
    line = to_torch(line, device)
    jitter = round(config.jitter * size / 224)
    mask = torch.full((n, config.mask_size, config.mask_size), 1 - config.initial, device=device)
    mask.requires_grad_()
    optimizer = torch.optim.Adam([mask], config.learning_rate)
    scale = 28 / config.mask_size
    for step in range(config.steps):
        optimizer.zero_grad()
        kept = (line @ mask @ line.T)[:, None]
        x, x_hat = images, infill
        if jitter > 1:
            offset = draw(n, step, jitter)
            x, x_hat = (shift(a, offset, jitter - 1) for a in (x, x_hat))
        p = probability(model, kept * x + (1 - kept) * x_hat, targets).diagonal()
        l1 = (1 - mask).sum() * scale**2
        tv = sum(mask.diff(dim=d).abs().pow(config.tv_beta).sum() for d in (1, 2))
        loss = p.sum() + config.l1 * l1 + config.tv * tv * scale ** (2 - config.tv_beta)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
    with torch.no_grad():
        return (1 - line @ mask @ line.T).clamp(0, 1)


def make(setup: Setup) -> Case:
    config = fgjax.MaskPerturbationConfig(steps=setup.passes, chunk_size=len(setup.images))
    # Without its price: in a few steps a mask follows that alone where the network says little.
    short = replace(config, steps=min(config.steps, CHECKED), l1=0.0, tv=0.0)
    keys = image_keys(jax.random.key(0), len(setup.images))

    def same(n, step, jitter):
        draw = lambda key: jax.random.randint(jax.random.fold_in(key, step), (2,), 0, jitter)
        return np.stack([draw(key) for key in keys]).tolist()

    def draw(n, step, jitter):
        return torch.randint(0, jitter, (n, 2)).tolist()

    def theirs(model, draw, config=config):
        return torch_mask_perturbation(model, *setup.inputs(), config, draw)

    return Case(
        our_call(setup, "mask_perturbation", "heatmap", config),
        theirs,
        setup.theirs,
        {"gradient": config.steps},
        draw=draw,
        same=same,
        check=(
            our_call(setup, "mask_perturbation", "heatmap", short),
            lambda model, draw: theirs(model, draw, short),
        ),
        unit=f"{config.steps} steps",
    )


MAKERS = {"mask_perturbation": make}

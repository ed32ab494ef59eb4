"""FIDO: both masks of every image optimised together, in plain PyTorch.

Eqs. 1 to 10, as the preset `soft` has them on our side: without what the default adds.
"""

from dataclasses import replace

import jax
import numpy as np
from torch_resnet import torch

import fgjax
from fgjax.core.filters import gaussian_matrix
from fgjax.core.keys import image_keys
from torch_methods.case import Case, Setup, channels_last, our_call, to_torch, torch_blur

BATCH = 8
"""Masks per step for each of the two objectives."""
START = 0.5
"""Importance before the first step; what is left of it would hide differences."""
CHECKED = 3
"""Steps after which the masks are compared."""


def torch_loss(logits, model, image, infill, target, noise, step, config):
    """Compute Eqs. 2 and 3 with TV, as fgjax has them, summed over images. logits `n 2 h w`, image
    and infill `n 3 h w`, target `n`, noise `n m 2 h w`. Gives the loss and p(c) under either mask,
    `n 2`."""
    n, samples, _, height, width = noise.shape
    masks = torch.sigmoid((logits[:, None] + noise) / config.temperature)[:, :, :, None]
    phi = (1 - masks) * image[:, None, None] + masks * infill[:, None, None]
    outputs = model(channels_last(phi.flatten(0, 2))).float()
    repeated = target.repeat_interleave(samples * 2)
    one_hot = torch.nn.functional.one_hot(repeated, outputs.shape[1]).bool()
    others = outputs.masked_fill(one_hot, -torch.inf)
    chosen = outputs.gather(1, repeated[:, None])[:, 0]
    scores = (chosen - torch.logsumexp(others, 1)).reshape(n, samples, 2).mean(1)
    with torch.no_grad():
        probability = outputs.softmax(1).gather(1, repeated[:, None])
        probability = probability.reshape(n, samples, 2).mean(1)

    sign = torch.tensor((-1.0, 1.0), device=logits.device)
    importance = torch.sigmoid(sign[:, None, None] * logits)
    l1 = importance.sum((2, 3)) * (224**2 / (height * width))
    tv = importance.diff(dim=2).square().sum((2, 3))
    tv = tv + importance.diff(dim=3).square().sum((2, 3))
    ramp = min(1.0, step / config.warmup) if config.warmup else 1.0
    loss = (sign * scores + ramp * (config.l1 * l1 + config.tv * tv)).sum()
    return loss, probability


def torch_optimizer(logits, config):
    rate, eps = config.learning_rate, config.adam_eps
    return torch.optim.AdamW([logits], rate, eps=eps, weight_decay=0)


def draw_noise(logits, samples):
    """log(η / (1 - η)) for uniform η, `n samples 2 h w`."""
    n, *rest = logits.shape
    uniform = torch.empty((n, samples, *rest), device=logits.device).uniform_(1e-7, 1 - 1e-7)
    return uniform.logit()


def torch_step(logits, optimizer, model, image, infill, target, noise, step, config):
    """Return one step; `logits` change in place. noise=None draws it."""
    if noise is None:
        noise = draw_noise(logits, config.batch_size)
    optimizer.zero_grad()
    args = (model, image, infill, target, noise, step, config)
    loss, probability = torch_loss(logits, *args)
    loss.backward()
    # Per reference pixel, as fgjax has it.
    logits.grad *= logits[0, 0].numel() / 224**2
    optimizer.step()
    return probability


def torch_fido(model, images, targets, config, draw):
    """Return how far importance moved from 1/2 in the SSR, `n h w`: `config.images_per_step` images
    at a time."""
    size, each, maps = images.shape[-1], config.images_per_step, []
    blur = gaussian_matrix(size, config.blur_sigma * size / 224)
    for start in range(0, len(images), each):
        image, target = images[start : start + each], targets[start : start + each]
        infill = torch_blur(image, blur)
        shape = (len(image), 2, size, size)
        logits = torch.zeros(shape, device=image.device, requires_grad=True)
        optimizer = torch_optimizer(logits, config)
        for step in range(config.steps):
            noise = draw(logits, start, step)
            torch_step(logits, optimizer, model, image, infill, target, noise, step, config)
        theta = logits.detach().sigmoid()
        maps.append(1 - theta[:, 0] - START)
    return torch.cat(maps)


def config_of(setup: Setup) -> fgjax.FidoConfig:
    steps = max(1, setup.passes // (2 * BATCH))
    each = max(1, min(len(setup.images), setup.chunk // (2 * BATCH)))
    changes = dict(steps=steps, batch_size=BATCH, initial=START, images_per_step=each)
    return fgjax.fido_preset("soft", **changes)


def make(setup: Setup, **changes) -> Case:
    """Return the case; `changes` are of FIDO's settings, on our side only."""
    config = config_of(setup)
    short = replace(config, steps=min(config.steps, CHECKED))
    size, keys = setup.images.shape[1], image_keys(jax.random.key(0), len(setup.images))

    def same(logits, start, step):
        draw = lambda key: jax.random.logistic(
            jax.random.fold_in(key, step), (BATCH, 2, size, size)
        )
        noise = np.stack([draw(key) for key in keys[start : start + len(logits)]])
        return to_torch(noise, setup.device)

    def theirs(model, draw, config=config):
        return torch_fido(model, *setup.inputs(), config, draw)

    def ours(config):
        call = our_call(setup, "fido", "ssr", replace(config, **changes))
        return lambda: call() - START

    return Case(
        ours(config),
        theirs,
        setup.theirs,
        {"gradient": config.steps * 2 * BATCH},
        draw=lambda logits, start, step: None,
        same=same,
        check=(ours(short), lambda model, draw: theirs(model, draw, short)),
        unit=f"{config.steps} steps × ({BATCH} + {BATCH}) masks",
    )


MAKERS = {"fido": make}

"""GLAS: lights and shadows at the points of a grid; and again on what is left."""

import math

from torch_resnet import torch

import fgjax
from torch_methods.case import Case, Setup, our_call, probability, torch_unit

ROUNDS = 2
"""Of recursive GLAS, which is kept from ending before."""


def bells(size, config, sigma, device):
    """exp(-½ (d / σ)²) around the search points, `points h w`; σ in pixels of 224."""
    centre = (torch.arange(config.grid, device=device) + 0.5) * size / config.grid
    pixel = torch.arange(size, device=device) + 0.5
    line = torch.exp(-0.5 * ((pixel - centre[:, None]) / (sigma * size / 224)) ** 2)
    return (line[:, None, :, None] * line[None, :, None, :]).flatten(0, 1)


def torch_scores(model, image, target, masks, chunk):
    """p of the image under every mask."""
    parts = [probability(model, image * part[:, None], target) for part in masks.split(chunk)]
    return torch.cat(parts)


def torch_fusion(model, image, target, config, chunk, alive=None):
    """Return one image's map, `h w` in [0, 1], made of the points `alive`."""
    size, device = image.shape[-1], image.device
    whole = probability(model, image[None], target)
    lights = bells(size, config, config.sigma_light, device)
    light = torch_scores(model, image, target, lights, chunk)
    shadows = 1 - bells(size, config, config.sigma_shadow, device)
    shadow = (whole - torch_scores(model, image, target, shadows, chunk)).abs() + 1e-5
    values = light * shadow * (1 if alive is None else alive)
    spread = bells(size, config, config.sigma_spatial / math.sqrt(2), device)
    return torch_unit((values[:, None, None] * spread).sum(0)[None])[0]


def torch_glas(model, images, targets, config, chunk):
    """Return maps, `n h w`."""
    with torch.no_grad():
        pairs = zip(images, targets, strict=True)
        return torch.stack([torch_fusion(model, *pair, config, chunk) for pair in pairs])


def torch_recursive_glas(model, images, targets, config, chunk):
    """Return the sums of the rounds' maps, scaled, `n h w`."""
    maps = []
    size, device = images.shape[-1], images.device
    place = ((torch.arange(config.grid, device=device) + 0.5) * size / config.grid).long()
    with torch.no_grad():
        for image, target in zip(images, targets, strict=True):
            alive = torch.ones(config.grid**2, device=device)
            total = torch.zeros(size, size, device=device)
            for _ in range(config.rounds):
                found = torch_fusion(model, image, target, config, chunk, alive)
                total += found
                image = image * (1 - found)
                alive *= found[place][:, place].flatten() <= config.threshold
                # What the stop condition looks at; asked as ours asks it.
                probability(model, image[None], target).item()
            maps.append(total)
        return torch_unit(torch.stack(maps))


def _grid(passes: int) -> int:
    return max(2, math.isqrt(passes // 2))


def make_glas(setup: Setup) -> Case:
    config = fgjax.GlasConfig(grid=_grid(setup.passes), chunk_size=setup.chunk)
    return Case(
        our_call(setup, "glas", "heatmap", config, None),
        lambda model, draw: torch_glas(model, *setup.inputs(), config, setup.chunk),
        setup.theirs,
        {"forward": 1 + 2 * config.grid**2},
        unit=f"{config.grid} × {config.grid} points",
    )


def make_recursive(setup: Setup) -> Case:
    config = fgjax.RecursiveGlasConfig(
        grid=_grid(setup.passes // ROUNDS), rounds=ROUNDS, stop=1e30, chunk_size=setup.chunk
    )
    return Case(
        our_call(setup, "recursive_glas", "heatmap", config, None),
        lambda model, draw: torch_recursive_glas(model, *setup.inputs(), config, setup.chunk),
        setup.theirs,
        {"forward": ROUNDS * (2 + 2 * config.grid**2)},
        unit=f"{ROUNDS} rounds of {config.grid} × {config.grid} points",
    )


MAKERS = {"glas": make_glas, "recursive_glas": make_recursive}

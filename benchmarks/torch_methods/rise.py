"""RISE: random masks, and the mean of them weighted with the class's probability."""

import math

import jax
import numpy as np
from torch_resnet import torch

import fgjax
from fgjax.attribution.rise import rise_masks
from torch_methods.case import Case, Setup, our_call, probability, to_torch, torch_unit

CELLS, KEEP = 7, 0.5


def draw_masks(size, device):
    """(start, count) -> masks `count 1 h w`: cells enlarged, cut at a random shift."""

    def draw(start, count):
        cell = math.ceil(size / CELLS)
        room = (CELLS + 1) * cell
        grid = (torch.rand(count, 1, CELLS, CELLS, device=device) < KEEP).float()
        large = torch.nn.functional.interpolate(
            grid, (room, room), mode="bilinear", align_corners=False
        )
        corner = torch.randint(0, cell, (2, count, 1), device=device)
        rows, columns = corner + torch.arange(size, device=device)
        which = torch.arange(count, device=device)[:, None, None]
        return large[which, 0, rows[:, :, None], columns[:, None, :]][:, None]

    return draw


def torch_rise(model, images, targets, masks, chunk, draw):
    """Return maps in [0, 1], `n h w`."""
    maps = []
    with torch.no_grad():
        for image, target in zip(images, targets, strict=True):
            total = torch.zeros(image.shape[1:], device=image.device)
            for start in range(0, masks, chunk):
                mask = draw(start, min(chunk, masks - start))
                p = probability(model, image * mask, target)
                total += (p[:, None, None] * mask[:, 0]).sum(0)
            maps.append(total / masks / KEEP)
    return torch_unit(torch.stack(maps))


def make(setup: Setup) -> Case:
    size, masks = setup.images.shape[1], setup.passes
    config = fgjax.RiseConfig(masks=masks, cells=CELLS, keep=KEEP, chunk_size=setup.chunk)
    key = jax.random.key(0)

    def theirs(model, draw):
        return torch_rise(model, *setup.inputs(), masks, setup.chunk, draw)

    def same(start, count):
        made = rise_masks(key, np.arange(start, start + count), size, size, cells=CELLS, keep=KEEP)
        return to_torch(made, setup.device)[:, None]

    return Case(
        our_call(setup, "rise", "heatmap", config),
        theirs,
        setup.theirs,
        {"forward": masks},
        draw=draw_masks(size, setup.device),
        same=same,
        unit=f"{masks} masks",
    )


MAKERS = {"rise": make}

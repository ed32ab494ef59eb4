"""Occlusion: a square of the mean colour slid over the image."""

import math

from torch_resnet import torch

import fgjax
from fgjax.attribution.occlusion import windows
from torch_methods.case import Case, Setup, our_call, probability, to_torch

WINDOW = 48


def torch_occlusion(model, images, targets, down, across, chunk):
    """Return what the windows over each pixel cost on average, `n h w`."""
    covers = (down[:, None, :, None] * across[None, :, None, :]).flatten(0, 1)
    maps = []
    with torch.no_grad():
        for image, target in zip(images, targets, strict=True):
            mean = image.mean((1, 2), keepdim=True)
            whole = probability(model, image[None], target)
            total = torch.zeros(image.shape[1:], device=image.device)
            for part in covers.split(chunk):
                covered = torch.where(part[:, None] > 0, mean, image)
                lost = whole - probability(model, covered, target)
                total += (lost[:, None, None] * part).sum(0)
            maps.append(total / covers.sum(0))
    return torch.stack(maps)


def make(setup: Setup) -> Case:
    size = setup.images.shape[1]
    side = max(2, math.isqrt(setup.passes))
    stride = min(WINDOW, max(1, (224 - WINDOW) // (side - 1)))
    config = fgjax.OcclusionConfig(window=WINDOW, stride=stride, chunk_size=setup.chunk)
    scaled = [max(1, round(length * size / 224)) for length in (WINDOW, stride)]
    line = windows(size, *scaled)

    def theirs(model, draw):
        lines = to_torch(line, setup.device)
        return torch_occlusion(model, *setup.inputs(), lines, lines, setup.chunk)

    return Case(
        our_call(setup, "occlusion", "signed", config, None),
        theirs,
        setup.theirs,
        {"forward": 1 + len(line) ** 2},
        unit=f"{len(line)} × {len(line)} windows",
    )


MAKERS = {"occlusion": make}

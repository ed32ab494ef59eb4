"""Class activation maps: Grad-CAM, Grad-CAM++, Guided Grad-CAM and Score-CAM."""

from torch_resnet import torch

import fgjax
from torch_methods.case import Case, Setup, channels_last, our_call, probability
from torch_methods.gradients import torch_gradient
from torch_methods.guided import with_rule


def enlarge(maps, size):
    """`n H W` to `n size size`, bilinearly."""
    return torch.nn.functional.interpolate(
        maps[:, None], (size, size), mode="bilinear", align_corners=False
    )[:, 0]


def torch_features(model, images, targets):
    """Return the last map, and the gradient of the class's logit by it, through the head alone."""
    with torch.no_grad():
        features = model.features(channels_last(images))
    features = features.float().requires_grad_()
    chosen = model.head(features).float().gather(1, targets[:, None])
    return features.detach(), torch.autograd.grad(chosen.sum(), features)[0]


def weigh(features, weights, size):
    """Σ_k w_k A^k, enlarged."""
    return enlarge((weights[:, :, None, None] * features).sum(1), size)


def torch_grad_cam(model, images, targets):
    features, gradient = torch_features(model, images, targets)
    return weigh(features, gradient.mean((2, 3)), images.shape[-1])


def torch_grad_cam_plus_plus(model, images, targets):
    features, gradient = torch_features(model, images, targets)
    bottom = 2 + features.sum((2, 3), keepdim=True) * gradient
    share = torch.where((gradient > 0) & (bottom != 0), 1 / bottom, 0)
    weights = (share * gradient.relu()).sum((2, 3))
    return weigh(features, weights, images.shape[-1])


def torch_guided_grad_cam(model, images, targets, chunk):
    features, gradient = torch_features(model, images, targets)
    coarse = (gradient.mean((2, 3))[:, :, None, None] * features).sum(1)
    return enlarge(coarse.relu(), images.shape[-1]) * torch_gradient(model, images, targets, chunk)


def torch_score_cam(model, images, targets, channels, chunk):
    """w = the probability under the channel's mask, less that of black."""
    size, maps = images.shape[-1], []
    with torch.no_grad():
        features = model.features(channels_last(images)).float()
        for image, target, own in zip(images, targets, features, strict=True):
            own = own[own.std((1, 2)).topk(min(channels, len(own))).indices]
            weights = []
            for part in own.split(chunk):
                mask = enlarge(part, size)
                low, high = mask.amin((1, 2), keepdim=True), mask.amax((1, 2), keepdim=True)
                mask = (mask - low) / torch.where(high == low, 1, high - low)
                p = probability(model, image * mask[:, None], target)
                weights.append(torch.where((high == low)[:, 0, 0], torch.nan, p))
            black = probability(model, torch.zeros_like(image)[None], target)
            weights = torch.nan_to_num(torch.cat(weights) - black)  # a constant channel counts 0
            maps.append(weigh(own[None], weights[None], size)[0])
    return torch.stack(maps)


def _make(name: str, config: type, torch_method):
    def make(setup: Setup) -> Case:
        return Case(
            our_call(setup, name, "signed", config(chunk_size=setup.chunk), None),
            lambda model, draw: torch_method(model, *setup.inputs()),
            setup.theirs,
            {"forward": 1},
        )

    return make


def make_guided(setup: Setup) -> Case:
    config = fgjax.GuidedGradCamConfig(chunk_size=setup.chunk)
    guided = with_rule(setup.theirs, "guided_backprop")

    def theirs(model, draw):
        # Grad-CAM differentiates no ReLU, so that it may use the network with other ones.
        return torch_guided_grad_cam(model, *setup.inputs(), setup.chunk)

    return Case(
        our_call(setup, "guided_grad_cam", "signed", config, None),
        theirs,
        guided,
        {"forward": 1, "gradient": 1},
    )


def make_score_cam(setup: Setup) -> Case:
    config = fgjax.ScoreCamConfig(channels=setup.passes, chunk_size=setup.chunk)

    def theirs(model, draw):
        return torch_score_cam(model, *setup.inputs(), setup.passes, setup.chunk)

    return Case(
        our_call(setup, "score_cam", "signed", config, None),
        theirs,
        setup.theirs,
        {"forward": setup.passes + 2},
        unit=f"{setup.passes} channels",
    )


MAKERS = {
    "grad_cam": _make("grad_cam", fgjax.GradCamConfig, torch_grad_cam),
    "grad_cam_plus_plus": _make(
        "grad_cam_plus_plus", fgjax.GradCamPlusPlusConfig, torch_grad_cam_plus_plus
    ),
    "guided_grad_cam": make_guided,
    "score_cam": make_score_cam,
}

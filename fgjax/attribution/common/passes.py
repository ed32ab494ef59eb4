"""How often a method asks the model about an image: what its time is made of."""

from typing import Any, NamedTuple

from fgjax.attribution.occlusion import windows
from fgjax.core.filters import REFERENCE_SIDE


class Passes(NamedTuple):
    """Per image. A pass with its gradient is counted once, as `backward`; so the two are apart.

    Attributes:
      forward: images sent through the model without a gradient.
      backward: images sent through the model and back.
    """

    forward: int
    backward: int


def count_passes(method: str, config: Any, height: int, width: int, channels: int = 0) -> Passes:
    """Return the model passes of `METHODS[method]` for one image; where it may stop early, the
    most.

    What fills up a last, short chunk is not counted, nor is a pass through the head alone.

    Args:
      config: the method's settings.
      height, width: of the image, in pixels.
      channels: of the model's last feature map; Score-CAM masks one after the other.
    """
    if method == "fido":
        return Passes(0, config.steps * 2 * config.batch_size)
    if method == "glas":
        return Passes(1 + 2 * config.grid**2, 0)
    if method == "recursive_glas":
        return Passes(config.rounds * (2 + 2 * config.grid**2), 0)
    if method == "rise":
        return Passes(config.masks, 0)
    if method == "occlusion":
        scale = min(height, width) / REFERENCE_SIDE
        window, stride = (max(1, round(n * scale)) for n in (config.window, config.stride))
        down, across = (len(windows(side, window, stride)) for side in (height, width))
        return Passes(1 + down * across, 0)
    if method == "mask_perturbation":
        return Passes(0, config.steps)
    if method == "lime":
        return Passes(config.samples, 0)
    if method == "smooth_gradient":
        return Passes(0, config.samples)
    if method == "integrated_gradients":
        return Passes(0, config.steps)
    if method == "score_cam":
        masked = min(config.channels or channels, channels)
        return Passes(1 + masked + (config.weights == "increase"), 0)
    # The head alone is differentiated, or the recurrence; the patches of an image count with it.
    if method in ("grad_cam", "grad_cam_plus_plus", "region_attention", "step_cam"):
        return Passes(1, 0)
    if method == "guided_grad_cam":
        return Passes(1, 1)
    return Passes(0, 1)

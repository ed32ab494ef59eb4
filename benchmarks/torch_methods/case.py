"""What the harness hands to a method, and what a method hands back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from torch_resnet import torch

import fgjax


@dataclass(frozen=True)
class Setup:
    """What both sides are given.

    Attributes:
      name: of the network.
      model: fgjax's classifier, in the precision that is measured.
      plain: the same, in float32 and with its batch normalisation: what training starts from.
      theirs: the PyTorch network with the same weights; None: ours is measured alone.
      images: `n h w 3` in [0, 1].
      targets: class index per image.
      passes: of the model for each image, about; each method makes of it what it can.
      chunk: perturbed images per model call, on both sides.
      precision: "f32" or "bf16".
      device: PyTorch's name of the device.
    """

    name: str
    model: Any
    plain: Any
    theirs: Any
    images: np.ndarray
    targets: np.ndarray
    passes: int
    chunk: int
    precision: str = "f32"
    device: str = "cpu"

    def inputs(self) -> tuple[Any, Any]:
        """Return images `n 3 h w` and targets for PyTorch."""
        images = to_torch(self.images.transpose(0, 3, 1, 2), self.device)
        return images, to_torch(self.targets.astype(np.int64), self.device)


class Case(NamedTuple):
    """A piece of work that both sides do.

    Attributes:
      ours: does it and waits for it; gives the map, or losses, that are compared.
      theirs: (PyTorch network, draw) -> the same.
      network: the PyTorch network it wants.
      passes: how often the model runs for each image: "forward", and "gradient" for a forward
        pass with the gradient by the image.
      draw: how the PyTorch side draws what is random; None: nothing is.
      same: gives instead what ours drew, for the check.
      check: (ours, theirs) with fewer steps, where a whole run is not needed to compare.
      flops: of the whole work, where `passes` do not tell.
      unit: what the work consists of, for the table.
    """

    ours: Callable[[], np.ndarray]
    theirs: Callable[[Any, Any], Any]
    network: Any
    passes: dict[str, int]
    draw: Any = None
    same: Any = None
    check: Any = None
    flops: Callable[[], float] | None = None
    unit: str = ""


def to_torch(a: Any, device: str = "cpu") -> Any:
    """Return an array as a tensor of its own."""
    return torch.from_numpy(np.array(a)).to(device)


def channels_last(x: Any) -> Any:
    """Return the memory layout that PyTorch's convolutions like best."""
    return x.contiguous(memory_format=torch.channels_last)


def probability(model: Any, x: Any, target: Any) -> Any:
    """Return the class's share after the softmax, `m`."""
    return model(channels_last(x)).float().softmax(1)[:, target]


def torch_score_gradient(model: Any, x: Any, targets: Any) -> Any:
    """∂ logit / ∂ x of every image, `n 3 h w`."""
    leaf = channels_last(x).detach().requires_grad_()
    chosen = model(leaf).float().gather(1, targets[:, None])
    return torch.autograd.grad(chosen.sum(), leaf)[0]


def torch_unit(maps: Any) -> Any:
    """Return each map scaled to [0, 1] by its own minimum and maximum."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def torch_blur(images: Any, matrix: np.ndarray) -> Any:
    """Return both axes of `n 3 h w` multiplied with a matrix that blurs a line."""
    line = to_torch(matrix, images.device)
    return line @ images @ line.T


def our_call(setup: Setup, name: str, output: str, config: Any, key: int | None = 0) -> Callable:
    """Return a whole call of a method of fgjax, its map on the host."""
    images, targets = jnp.asarray(setup.images), jnp.asarray(setup.targets, jnp.int32)
    keys = {} if key is None else {"key": jax.random.key(key)}

    def call() -> np.ndarray:
        found = fgjax.METHODS[name](setup.model, images, targets, config=config, **keys)
        return np.asarray(found.heatmap if output == "heatmap" else found.maps[output])

    return call

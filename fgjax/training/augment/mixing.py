"""Augmentations that mix each image with another of its batch, and their labels with it.

All are batched, pure functions of a key, and return the images, the place of each one's partner
in the batch, and the share of the target that stays with its own label:

  loss = share · loss(own label) + (1 - share) · loss(partner's label)

Boxes and shares are drawn for each image; the released codes of CutMix and SaliencyMix draw one
for the whole batch.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from fgjax.training.augment.augmix import augmix
from fgjax.training.augment.erasing import rectangles
from fgjax.training.objectives.losses import cross_entropy, jensen_shannon

Images = Float[Array, "n h w c"]

LUMA = (0.299, 0.587, 0.114)
"""Rec. 601."""


class Mixed(NamedTuple):
    """Mixed images; see the module."""

    images: Images
    partner: Int[Array, "n"]
    share: Float[Array, "n"]


def mixup(key: Key[Array, ""], images: Images, alpha: float = 0.2) -> Mixed:
    """x̃ = λ x_A + (1 - λ) x_B, with λ from Beta(α, α) for each image.

    Reference: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018 (ImageNet: α = 0.2).
    """
    keys = jax.random.split(key)
    partner = jax.random.permutation(keys[0], len(images))
    share = jax.random.beta(keys[1], alpha, alpha, (len(images),))
    own = share[:, None, None, None].astype(images.dtype)
    return Mixed(own * images + (1 - own) * images[partner], partner, share)


def _paste(images: Images, partner, inside) -> Mixed:
    """Return the partner's pixels where `inside`; the share is that of the pixels that are left."""
    mixed = jnp.where(inside[..., None], images[partner], images)
    return Mixed(mixed, partner, 1 - inside.astype(jnp.float32).mean((1, 2)))


def _sides(key, n: int, alpha: float, height: int, width: int):
    """Return height and width of boxes of area 1 - λ, λ from Beta(α, α)."""
    root = jnp.sqrt(1 - jax.random.beta(key, alpha, alpha, (n,)))
    return jnp.floor(root * height), jnp.floor(root * width)


def cutmix(key: Key[Array, ""], images: Images, alpha: float = 1.0) -> Mixed:
    """x̃ = M ⊙ x_A + (1 - M) ⊙ x_B: a box of area 1 - λ comes from the partner, λ from
    Beta(α, α); its centre is uniform, what lies outside is cut off, and λ is then that of the
    pixels.

    Reference: Yun et al., CutMix, 2019, Eq. 1 and Algorithm A1.
    """
    n, height, width, _ = images.shape
    keys = jax.random.split(key, 3)
    partner = jax.random.permutation(keys[0], n)
    tall, wide = _sides(keys[1], n, alpha, height, width)
    centre = jax.random.uniform(keys[2], (2, n))
    top = jnp.floor(centre[0] * height) - jnp.floor(tall / 2)
    left = jnp.floor(centre[1] * width) - jnp.floor(wide / 2)
    return _paste(images, partner, rectangles(top, left, tall, wide, (height, width)))


def attentive_cutmix(
    key: Key[Array, ""],
    images: Images,
    attention: Float[Array, "n H W"],
    patches: int = 6,
    grid: int = 7,
) -> Mixed:
    """Return the partner's most attended cells of a `grid` x `grid` are pasted where they lie.

    Args:
      attention: where a network looks in each image, of any resolution; averaged over the cells.
      patches: cells that are pasted; the paper finds 6 of 49 best.

    Reference: Walawalkar et al., Attentive CutMix, 2020.
    """
    n, height, width, _ = images.shape
    partner = jax.random.permutation(key, n)
    cells = jax.image.resize(attention, (n, grid, grid), "linear", antialias=True)
    _, best = jax.lax.top_k(cells.reshape(n, -1), patches)
    chosen = (jnp.arange(grid * grid)[None, None] == best[..., None]).any(1)
    chosen = chosen.reshape(n, grid, grid)[partner]
    rows, columns = jnp.arange(height) * grid // height, jnp.arange(width) * grid // width
    return _paste(images, partner, chosen[:, rows][:, :, columns])


def saliency(images: Images) -> Float[Array, "n h w"]:
    """Return what differs from its surroundings: Σ over scales of |I - mean of I around|, I the
    luma.

    On- and off-centre differences with surrounds of 1/4, 1/8 and 1/16 of the shorter side, as in
    OpenCV's fine-grained static saliency, which the paper uses.

    Reference: Montabone, Soto, Human detection using a mobile platform and novel features derived
      from a visual saliency mechanism, 2010.
    """
    n, height, width, channels = images.shape
    weights = jnp.asarray(LUMA if channels == 3 else (1 / channels,) * channels, images.dtype)
    light = (images * weights[None, None, None]).sum(3)
    total = jnp.zeros_like(light)
    for share in (4, 8, 16):
        radius = max(1, min(height, width) // (2 * share))
        side = 2 * radius + 1
        padded = jnp.pad(light, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
        summed = jax.lax.reduce_window(
            padded, jnp.zeros((), light.dtype), jax.lax.add, (1, side, side), (1, 1, 1), "valid"
        )
        total += jnp.abs(light - summed / side**2)
    return total


def saliency_mix(key: Key[Array, ""], images: Images, alpha: float = 1.0) -> Mixed:
    """CutMix whose box lies around the partner's most salient pixel, and is pasted there.

    Reference: Uddin et al., SaliencyMix, 2021.
    """
    n, height, width, _ = images.shape
    keys = jax.random.split(key)
    partner = jax.random.permutation(keys[0], n)
    tall, wide = _sides(keys[1], n, alpha, height, width)
    peak = saliency(images).reshape(n, -1).argmax(1)[partner]
    top = (peak // width).astype(jnp.float32) - jnp.floor(tall / 2)
    left = (peak % width).astype(jnp.float32) - jnp.floor(wide / 2)
    return _paste(images, partner, rectangles(top, left, tall, wide, (height, width)))


MIXING = ("mixup", "cutmix", "attentive_cutmix", "saliency_mix", "augmix")
CONSISTENCY = 12.0
"""Weight of AugMix's Jensen-Shannon divergence."""


@dataclass(frozen=True)
class Mixing:
    """One of `MIXING`; "none" changes nothing.

    Attributes:
      name: of the method.
      alpha: of its Beta distribution; None: the paper's.
      probability: of a batch to be mixed; AugMix takes every batch.
    """

    name: str = "none"
    alpha: float | None = None
    probability: float = 1.0

    def __call__(
        self, key: Key[Array, ""], images: Images, attention: Float[Array, "n H W"] | None = None
    ) -> Mixed:
        """Return the mixed images; a function of the key. `attention` is that of attentive_cutmix.

        AugMix returns 3 n images: each as it is, then all in one version, and all in another.
        """
        alone = Mixed(images, jnp.arange(len(images)), jnp.ones((len(images),), jnp.float32))
        if self.name == "none":
            return alone
        keys = jax.random.split(key)
        if self.name == "augmix":
            versions = [augmix(k, images) for k in keys]
            return alone._replace(images=jnp.concatenate([images, *versions]))
        if self.name == "attentive_cutmix":
            if attention is None:
                raise ValueError("attentive_cutmix wants the attention of the images")
            mixed = attentive_cutmix(keys[0], images, attention)
        else:
            method = {"mixup": mixup, "cutmix": cutmix, "saliency_mix": saliency_mix}[self.name]
            given = {} if self.alpha is None else {"alpha": self.alpha}
            mixed = method(keys[0], images, **given)
        if self.probability == 1:
            return mixed
        taken = jax.random.bernoulli(keys[1], self.probability)
        return jax.tree.map(lambda a, b: jnp.where(taken, a, b), mixed, alone)

    def loss(
        self,
        logits: Float[Array, "m k"],
        labels: Int[Array, "n"],
        mixed: Mixed,
        smoothing: float,
        class_weights: tuple[float, ...] = (),
    ) -> Float[Array, ""]:
        """Return the mean loss of a mixed batch; with "none", cross-entropy.

        Args:
          class_weights: what a label's cross-entropy is multiplied by; none: all alike.
        """
        n = len(labels)

        def towards(labels):
            loss = cross_entropy(logits[:n], labels, smoothing)
            return loss * jnp.asarray(class_weights)[labels] if class_weights else loss

        own = towards(labels)
        if self.name == "augmix":
            views = logits.reshape(3, n, -1)
            return (own + CONSISTENCY * jensen_shannon(views)).mean()
        if self.name == "none":
            return own.mean()
        other = towards(labels[mixed.partner])
        return (mixed.share * own + (1 - mixed.share) * other).mean()

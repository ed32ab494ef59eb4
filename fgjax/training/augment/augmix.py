"""AugMix: chains of simple changes, mixed with each other and with the image.

  x_mix = Σ_i w_i chain_i(x),   x_aug = (1 - m) x + m x_mix

with w from Dirichlet(α, …, α) and m from Beta(α, α); a chain is one to three of `OPERATIONS`,
drawn with their strengths for each image. Training asks that the image and two such versions get
like predictions: `fgjax.training.objectives.losses.jensen_shannon`.

Batched, a pure function of the key; images are in [0, 1]. Pixel values are those of 8-bit
images, as in Pillow, whose operations the paper uses.

Reference: Hendrycks et al., AugMix: A Simple Data Processing Method to Improve Robustness and
  Uncertainty, 2020, Algorithm 1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Image = Float[Array, "h w c"]

OPERATIONS = ("autocontrast", "equalize", "posterize", "solarize", "rotate", "shear_x", "shear_y",
              "translate_x", "translate_y")  # fmt: skip
FIRST_WARP = OPERATIONS.index("rotate")
DEPTH = 3
"""The most operations of a chain."""


def autocontrast(image: Image) -> Image:
    """Return each channel stretched to [0, 1]; one of a single value stays."""
    low, high = image.min((0, 1), keepdims=True), image.max((0, 1), keepdims=True)
    spread = high - low
    return jnp.where(spread > 0, (image - low) / jnp.where(spread > 0, spread, 1), image)


def equalize(image: Image) -> Image:
    """Return each channel through the table that makes its histogram flat (Pillow's)."""
    values = jnp.round(image * 255).astype(jnp.int32)

    def channel(values):
        counts = jnp.zeros(256, jnp.int32).at[values.reshape(-1)].add(1)
        last = jnp.max(jnp.where(counts > 0, jnp.arange(256), 0))
        step = (values.size - counts[last]) // 255
        before = jnp.cumsum(counts) - counts
        table = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
        table = jnp.where(step == 0, jnp.arange(256), table)
        return table[values]

    return jax.vmap(channel, in_axes=2, out_axes=2)(values).astype(image.dtype) / 255


def posterize(image: Image, bits: Int[Array, ""]) -> Image:
    """Return only the highest `bits` of the eight of each value."""
    values = jnp.round(image * 255).astype(jnp.int32)
    return ((values >> (8 - bits)) << (8 - bits)).astype(image.dtype) / 255


def solarize(image: Image, threshold: Float[Array, ""]) -> Image:
    """Return values from `threshold` on, in [0, 1], become 1 - value."""
    return jnp.where(image < threshold, image, 1 - image)


def warp(image: Image, matrix: Float[Array, "2 3"]) -> Image:
    """Return the pixel at (x, y) comes from `matrix` · (x, y, 1), bilinearly; black from outside.

    Coordinates are in pixels from the image's corner; the middle of the first lies at 0.5.
    """
    height, width, _ = image.shape
    rows, columns = (jnp.arange(k, dtype=jnp.float32) + 0.5 for k in (height, width))
    y, x = jnp.meshgrid(rows, columns, indexing="ij")
    from_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] - 0.5
    from_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] - 0.5

    def channel(values):
        return jax.scipy.ndimage.map_coordinates(values, [from_y, from_x], 1, mode="constant")

    return jax.vmap(channel, in_axes=2, out_axes=2)(image)


def warp_matrix(
    operation: Int[Array, ""], level: Float[Array, ""], sign: Float[Array, ""], side: int
) -> Float[Array, "2 3"]:
    """Of one of the operations from "rotate" on: up to 30°, a shear of 0.3, a third of the side,
    times `level` / 10. A rotation is about the middle."""
    angle, share = -jnp.deg2rad(30.0) * sign * level / 10, sign * level / 10
    cos, sin, half = jnp.cos(angle), jnp.sin(angle), side / 2
    one, zero = jnp.ones(()), jnp.zeros(())
    matrices = jnp.stack([
        jnp.stack([cos, sin, half - cos * half - sin * half,
                   -sin, cos, half + sin * half - cos * half]),
        jnp.stack([one, 0.3 * share, zero, zero, one, zero]),
        jnp.stack([one, zero, zero, 0.3 * share, one, zero]),
        jnp.stack([one, zero, side / 3 * share, zero, one, zero]),
        jnp.stack([one, zero, zero, zero, one, side / 3 * share]),
    ])  # fmt: skip
    return matrices[operation].reshape(2, 3)


def _change(key: Key[Array, ""], image: Image, severity: float) -> Image:
    """Return one operation, drawn with its strength."""
    keys = jax.random.split(key, 3)
    operation = jax.random.randint(keys[0], (), 0, len(OPERATIONS))
    level = jax.random.uniform(keys[1], (), minval=0.1, maxval=severity)
    sign = jnp.where(jax.random.bernoulli(keys[2]), 1.0, -1.0)
    matrix = warp_matrix(operation - FIRST_WARP, level, sign, image.shape[0])
    bits = 4 - jnp.floor(level * 4 / 10).astype(jnp.int32)
    changed = jnp.stack([
        autocontrast(image),
        equalize(image),
        posterize(image, bits),
        solarize(image, 1 - level / 10),
        warp(image, matrix),
    ])  # fmt: skip
    return changed[jnp.minimum(operation, FIRST_WARP)]


def augmix(
    key: Key[Array, ""],
    images: Float[Array, "n h w c"],
    severity: float = 3.0,
    width: int = 3,
    alpha: float = 1.0,
) -> Float[Array, "n h w c"]:
    """Return one augmented version of each image.

    Args:
      images: square ones.
      severity: strengths are uniform in [0.1, `severity`] of 10.
      width: chains that are mixed.
      alpha: of the Dirichlet and the Beta distribution.
    """
    n = len(images)
    keys = jax.random.split(key, 4)
    weights = jax.random.dirichlet(keys[0], jnp.full((width,), alpha), (n,))
    share = jax.random.beta(keys[1], alpha, alpha, (n,))
    lengths = jax.random.randint(keys[2], (n, width), 1, DEPTH + 1)

    def chain(key, image, length):
        def change(image, step):
            place, own = step
            return jnp.where(place < length, _change(own, image, severity), image), None

        steps = (jnp.arange(DEPTH), jax.random.split(key, DEPTH))
        return jax.lax.scan(change, image, steps)[0]

    chains = jax.vmap(jax.vmap(chain, (0, None, 0)))(
        jax.random.split(keys[3], (n, width)), images, lengths
    )
    mixed = jnp.einsum("nk,nkhwc->nhwc", weights, chains, precision="highest")
    share = share[:, None, None, None]
    return (1 - share) * images + share * mixed

"""What a model's `features(images)` may be: a grid, or a grid and other tokens.

A convolutional network gives its last map, `n H W d`. A transformer has tokens that lie nowhere
in the image, too (a class token, registers), and gives a tuple whose first part is the grid.
`head` takes back what `features` gave. Methods that look at the grid need no more than these two
functions.
"""

from typing import Any, NamedTuple

from jaxtyping import Array, Float


class Features(NamedTuple):
    """A grid of the image, and the tokens that lie beside it.

    Attributes:
      grid: a cell for each patch of the image.
      tokens: the class token, then registers; there may be none.
    """

    grid: Float[Array, "n H W d"]
    tokens: Float[Array, "n t d"]


class Attended(NamedTuple):
    """What a transformer's tokens looked at.

    Attributes:
      logits: as of any classifier.
      weights: of every block, from the first: how much each token (a row) takes of each other,
        for each head; rows sum to 1.
      readout: how much of each token the classifier reads: a class token alone, or every cell of
        the grid alike. Tokens beside the grid come first, then the grid
        row by row.
    """

    logits: Float[Array, "n k"]
    weights: list[Float[Array, "n g t t"]]
    readout: Float[Array, "n t"]


def grid_of(features: Any) -> Any:
    """Return the grid of what a model's `features` gave."""
    return features[0] if isinstance(features, tuple) else features


def with_grid(features: Any, grid: Any) -> Any:
    """Return the same features with another grid, as the model's `head` takes them."""
    if not isinstance(features, tuple):
        return grid
    if hasattr(features, "_replace"):  # a NamedTuple, of any names
        return type(features)(grid, *features[1:])
    return (grid, *features[1:])

"""When the parts of a network with prototypes learn, and when prototypes move onto images.

Reference: Chen et al., This Looks Like That, 2019: new layers first, then all of them but the last
one, pushes in between, each followed by a stage in which the last layer alone learns, with an L1
cost.
"""

from typing import Literal, NamedTuple


class Phase(NamedTuple):
    """What an epoch is: what learns in it, and whether prototypes are pushed at its end."""

    learns: Literal["new", "joint", "last"]
    push: bool = False


def phase_of(epoch: int, epochs: int, warm: int, joint: int, last: int) -> Phase:
    """Return what the epoch with this number, from 0, is.

    `warm` epochs for the new layers; then again and again `joint` epochs, a push, and `last`
    epochs for the last layer, as often as all of it fits; what is left belongs to the last layer,
    so that it always ends fitted to prototypes that are patches of images. A training too short
    for one round is joint throughout, without a push.

    Args:
      epoch, epochs: of the training.
      warm, joint, last: 0 or more; `joint` at least 1.

    Example:
      >>> [phase_of(e, 7, 1, 2, 1).learns for e in range(7)]
      ['new', 'joint', 'joint', 'last', 'joint', 'joint', 'last']
    """
    rounds = (epochs - warm) // (joint + last) if epochs > warm else 0
    if rounds < 1:
        return Phase("joint")
    if epoch < warm:
        return Phase("new")
    turn, place = divmod(epoch - warm, joint + last)
    if turn >= rounds or place >= joint:
        return Phase("last")
    return Phase("joint", push=place == joint - 1)

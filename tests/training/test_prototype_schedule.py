"""The stages of a training of prototypes, by hand, and what learns in each."""

import optax
import pytest

from fgjax.options.resolve import resolve
from fgjax.stages.train.kinds import Prototypes
from fgjax.training.classifier import Recipe
from fgjax.training.prototype_schedule import phase_of


def words(epochs, warm, joint, last):
    phases = [phase_of(e, epochs, warm, joint, last) for e in range(epochs)]
    return " ".join(p.learns + ("!" if p.push else "") for p in phases)


@pytest.mark.parametrize(
    "settings, said",
    [
        ((6, 1, 2, 2), "new joint joint! last last last"),
        ((9, 1, 2, 2), "new joint joint! last last joint joint! last last"),
        ((4, 0, 1, 1), "joint! last joint! last"),
        ((3, 0, 3, 0), "joint joint joint!"),
        ((4, 2, 2, 1), "joint joint joint joint"),  # too short for one round
        ((2, 5, 5, 5), "joint joint"),
    ],
)
def test_stages_by_hand(settings, said):
    assert words(*settings) == said


def test_what_learns_and_what_may_be_kept():
    given = ("focus.warm=1", "focus.push_every=1", "focus.last_layer=1", "focus.last_l1=0.25")
    config = resolve(["config=focus_species", *given])[1]
    kind = Prototypes()
    recipe = kind.recipe(config, Recipe(optax.sgd(0.1), frozen=("trunk/stem",)))
    frozen, costs, counting = [], [], []
    for epoch in range(3):
        own = kind.of_epoch(config, recipe, epoch, 3)
        assert own.optimizer is recipe.optimizer
        frozen.append(set(own.frozen) - {"trunk/stem"})
        costs.append((own.objective.cluster > 0, own.objective.l1))
        counting.append(kind.counts(config, epoch, 3))
    assert frozen == [
        {"trunk", "classifier"},
        {"classifier"},
        {"trunk", "adapt1", "adapt2", "prototypes"},
    ]
    assert costs == [(True, 0), (True, 0), (False, 0.25)]
    assert counting == [False, True, True]
    assert kind.counts(config, 0, 2)  # too short for a round: the push comes at the end

"""Birds that several parts tell: the classes, and what drawing without parts changes."""

import numpy as np
import pytest

from fgjax.data.species.funny import KINDS, TELLING, draw_kind, draw_subsets
from fgjax.data.species.source import PARTS, SPECIES, sample_scene
from fgjax.evaluation.funnybirds import rival_classes, sufficient_sets

SIZE, KIND = 64, 4


@pytest.fixture(scope="module")
def scene():
    """The first scene with a loose part in the background."""
    scenes = (sample_scene(3, np.random.default_rng(i)) for i in range(40))
    return next(scene for scene in scenes if scene.distractors)


@pytest.fixture(scope="module")
def birds(scene):
    return draw_subsets(scene, KIND, SIZE)


def test_every_class_has_every_part_and_is_told_by_several():
    for part, donors in zip(TELLING, KINDS.T, strict=True):
        looks = [SPECIES[i].looks[part] for i in np.unique(donors)]
        assert len(set(looks)) == len(looks) >= 2
    for label in range(len(KINDS)):
        sets = sufficient_sets(KINDS, label)
        assert sets.sum(1).min() >= 2
        assert len(set(rival_classes(KINDS, label))) == 2


def test_without_a_part_only_that_part_changes(scene, birds):
    assert birds.images.shape == (32, SIZE, SIZE, 3) and birds.masks.any((1, 2)).all()
    whole = draw_kind(scene, KIND, SIZE)
    for i, part in enumerate(TELLING):
        changed = (birds.images[1 << i] != birds.images[0]).any(-1)
        seen = whole.part_map == 1 + PARTS.index(part)
        assert changed[seen].mean() > 0.8
        others = np.delete(birds.masks, i, axis=0).any(0)
        far = ~birds.masks[i] & ~others & (whole.part_map == 0)
        assert changed.sum() > 0 and changed[far].mean() < 0.05


def test_subset_numbers_name_the_parts_left_out(scene, birds):
    alone = draw_kind(scene, KIND, SIZE, without=("crest", "tail_tip", "legs"))
    np.testing.assert_array_equal(birds.images[0b10101], alone.image)
    assert len({image.tobytes() for image in birds.images}) == 32


def test_a_loose_part_goes_and_nothing_else_does(scene, birds):
    assert len(birds.things) == len(scene.distractors) > 0
    assert birds.things.any((1, 2)).all()
    assert not (birds.things & draw_kind(scene, KIND, SIZE).mask).any()


def test_there_is_no_such_class(scene):
    with pytest.raises(ValueError, match="classes are 0 to 11"):
        draw_kind(scene, 12, SIZE)

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from math import acos, pi, sqrt

import numpy as np
import pytest
from scipy import ndimage, stats

from fgjax.data.species.drawing import Cone, Look, Polygon, disc, frame, paint, rasterise
from fgjax.data.species.source import (
    BACKGROUNDS,
    CLASSES,
    PARTS,
    SPECIES,
    SpeciesSource,
    draw,
    sample_scene,
    species_named,
)
from fgjax.data.types import DataError, Record

SIBLINGS = [(a, b) for a, b in combinations(range(len(SPECIES)), 2)
            if SPECIES[a].family == SPECIES[b].family]  # fmt: skip


def scene(label: int, seed: int, **kwargs):
    return sample_scene(label, np.random.default_rng(seed), **kwargs)


def bare(label: int, seed: int):
    """A scene with nothing but the animal."""
    return replace(scene(label, seed), distractors=(), occluders=())


def touched(look: Look, at, size: int) -> np.ndarray:
    """Every pixel on which the shape has any part."""
    patch = rasterise(look.strokes, at, size)
    area = np.zeros((size, size), bool)
    area[patch.window] = patch.coverage > 0
    return area


# ------------------------------------------------------------------ drawing


def brute_force(stroke, x, y):
    if isinstance(stroke, Cone):
        t = np.linspace(0, 1, 4001)[:, None]
        cx, cy = (a + (b - a) * t for a, b in zip(stroke.start, stroke.end, strict=True))
        radius = stroke.start_radius + (stroke.end_radius - stroke.start_radius) * t
        return (np.hypot(x - cx, y - cy) - radius).min(0)
    t, distance = np.linspace(0, 1, 4001)[:, None], np.inf
    for (ax, ay), (bx, by) in stroke.sides():
        gap = np.hypot(x - ax - (bx - ax) * t, y - ay - (by - ay) * t).min(0)
        distance = np.minimum(distance, gap)
    return distance


@pytest.mark.parametrize(
    "stroke",
    [
        Cone((0.1, -0.2), (0.4, 0.3), 0.2, 0.05),
        Cone((0.1, -0.2), (0.4, 0.3), 0.05, 0.2),
        Cone((0.0, 0.0), (0.1, 0.0), 0.3, 0.1),  # the second circle lies in the first
        Cone((0.0, 0.0), (0.1, 0.0), 0.1, 0.3),
        disc(0.2, -0.1, 0.3),
    ],
)
def test_cone_distance_is_that_of_its_circles(stroke):
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, 300))
    np.testing.assert_allclose(stroke.distance(x, y), brute_force(stroke, x, y), atol=1e-5)


def test_polygon_distance_inside_is_that_to_its_sides():
    polygon = Polygon(((-0.6, -0.5), (0.5, -0.4), (0.3, 0.6)))  # area 0.56 of 4
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, 1000))
    distance = polygon.distance(x, y)
    inside = distance < 0
    assert 100 < inside.sum() < 180
    np.testing.assert_allclose(
        -distance[inside], brute_force(polygon, x[inside], y[inside]), atol=1e-3
    )


def cone_area(length, r0, r1):
    """Two circles and their outer tangents: trapezoids and the two arcs that bulge out."""
    angle = acos((r0 - r1) / length)
    return sqrt(length**2 - (r0 - r1) ** 2) * (r0 + r1) + r0**2 * (pi - angle) + r1**2 * angle


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.6])
@pytest.mark.parametrize(
    "strokes, area",
    [
        ((disc(0.0, 0.0, 0.5),), pi / 4),
        ((Cone((-0.3, 0.1), (0.3, 0.1), 0.2, 0.2),), cone_area(0.6, 0.2, 0.2)),
        ((Cone((-0.4, 0.0), (0.2, 0.0), 0.3, 0.1),), cone_area(0.6, 0.3, 0.1)),
        ((Polygon(((-0.5, -0.4), (0.5, -0.4), (0.5, 0.4), (-0.5, 0.4))),), 0.8),
    ],
)
def test_covered_area_is_the_analytic_area(strokes, area, scale):
    for angle in (0.0, 0.3, 1.1):
        at = frame(0.512, 0.487, scale, angle, flip=True)
        covered = rasterise(strokes, at, 96).coverage.sum()
        assert covered == pytest.approx(area * (scale * 96) ** 2, rel=0.02)


def test_edges_are_soft_and_one_pixel_wide():
    image = np.ones((64, 64, 3), np.float32)
    paint(image, Look((disc(0.0, 0.0, 0.3),), (0.0, 0.0, 0.0), (0.0, 0.0)), frame(0.5, 0.5, 1.0))
    soft = (image[..., 0] > 0.02) & (image[..., 0] < 0.98)
    edge_length = 2 * pi * 0.3 * 64
    assert 0.8 * edge_length < soft.sum() < 1.5 * edge_length
    y, x = np.mgrid[:64, :64] + 0.5
    assert np.abs(np.hypot(x - 32, y - 32)[soft] - 0.3 * 64).max() < 0.75


def test_frames_mirror_turn_and_invert():
    at = frame(0.3, 0.6, 0.5, pi / 2, flip=True).joint((1.0, 0.0), 0.0)
    # (1, 0) mirrored is (-1, 0), a quarter turn (x to y) makes it (0, -1)
    np.testing.assert_allclose([at.x, at.y, at.scale], [0.3, 0.1, 0.5], atol=1e-12)
    bent = frame(0.3, 0.6, 0.5, 0.4, flip=True).joint((0.2, -0.1), 0.7)
    points = np.random.default_rng(0).uniform(-1, 1, (20, 2))
    np.testing.assert_allclose(np.stack(bent.locate(*bent.place(points).T), 1), points, atol=1e-12)


# ------------------------------------------------------------------ the class tree


def differing(a, b):
    return {p for p in PARTS if SPECIES[a].looks.get(p) != SPECIES[b].looks.get(p)}


def test_siblings_differ_in_exactly_the_cue_and_families_in_several_parts():
    assert len(set(CLASSES)) == len(CLASSES) == 10
    assert len(SIBLINGS) == 3 + 1 + 3 + 1
    for a, b in combinations(range(len(SPECIES)), 2):
        if (a, b) in SIBLINGS:
            assert differing(a, b) == {SPECIES[a].cue} == {SPECIES[b].cue}
        else:
            assert len(differing(a, b)) >= 5
    assert len({s.cue for s in SPECIES}) == len({s.family for s in SPECIES}) == 4


@pytest.mark.parametrize("a, b", SIBLINGS)
@pytest.mark.parametrize("size", [64, 96])
def test_siblings_of_a_scene_differ_only_inside_the_cue(a, b, size):
    cue = SPECIES[a].cue
    for seed in range(3):
        sa, sb = scene(a, seed), scene(b, seed)
        da, db = draw(sa, size), draw(sb, size)
        differ = (da.image != db.image).any(-1)
        at = sa.part_frame(cue)
        inside = touched(SPECIES[a].looks[cue], at, size) | touched(SPECIES[b].looks[cue], at, size)
        assert differ.any() and not (differ & ~inside).any()
        # taking the sibling's part is being the sibling, and without the part there is no telling
        np.testing.assert_array_equal(draw(sa, size, swap={cue: b}).image, db.image)
        np.testing.assert_array_equal(
            draw(sa, size, without=cue).image, draw(sb, size, without=cue).image
        )


def test_the_colour_of_the_cue_pixels_names_the_sibling():
    right = []
    for seed in range(80):
        label = seed % len(SPECIES)
        drawing = draw(scene(label, 1000 + seed), 96)
        seen = drawing.image[drawing.cue].mean(0)
        siblings = [k for k, s in enumerate(SPECIES) if s.family == SPECIES[label].family]
        cue = SPECIES[label].cue
        colours = np.array([SPECIES[k].looks[cue].colour for k in siblings]) * 255
        # brightness is a nuisance: compare directions
        cosine = colours @ seen / np.linalg.norm(colours, axis=1)
        right.append(siblings[int(cosine.argmax())] == label)
    assert np.mean(right) > 0.99


@pytest.mark.parametrize("label", range(10))
def test_the_cue_is_2_to_6_percent_of_the_bird(label):
    for seed in range(10):
        drawing = draw(bare(label, seed), 192)
        assert 0.02 < drawing.cue.sum() / drawing.mask.sum() < 0.06


def test_at_least_60_percent_of_the_cue_stays_visible():
    least, hidden = 1.0, 0
    for seed in range(100):
        full = scene(seed % 10, 50 + seed)
        seen = draw(full, 96).cue.sum() / draw(replace(full, occluders=()), 96).cue.sum()
        least, hidden = min(least, seen), hidden + (seen < 1)
    assert 0.6 <= least < 0.9
    assert hidden >= 5  # leaves do cover parts of cues


# ------------------------------------------------------------------ annotations


def test_box_mask_cue_and_part_map_agree():
    for seed in range(30):
        drawing = draw(scene(seed % 10, seed), 96)
        np.testing.assert_array_equal(drawing.mask, drawing.part_map > 0)
        cue_id = 1 + PARTS.index(SPECIES[seed % 10].cue)
        np.testing.assert_array_equal(drawing.cue, drawing.part_map == cue_id)
        (rows, columns) = ndimage.find_objects(drawing.mask.astype(int))[0]
        expected = [columns.start, rows.start, columns.stop, rows.stop]
        np.testing.assert_array_equal(drawing.box, expected)


def test_every_species_lies_wholly_inside_the_image():
    for seed in range(20):
        drawing = draw(bare(seed % 10, seed), 128)
        border = np.ones((128, 128), bool)
        border[1:-1, 1:-1] = False
        assert not (drawing.mask & border).any()


def test_the_mask_is_where_the_animal_changes_the_picture():
    for seed in range(10):
        full = scene(seed % 10, seed)
        with_animal, without = draw(full, 128), draw(full, 128, without=PARTS)
        assert not without.mask.any() and without.box is None
        differ = (with_animal.image != without.image).any(-1)
        # a rim of half-covered pixels and tips finer than a pixel make the only difference
        near = ndimage.binary_dilation(with_animal.mask, np.ones((3, 3)))
        assert (differ & ~near).sum() < 0.01 * differ.sum()
        assert (differ & with_animal.mask).sum() > 0.97 * with_animal.mask.sum()


def test_landmarks_lie_in_their_parts_and_follow_them():
    visible = np.zeros(len(PARTS))
    present = np.zeros(len(PARTS))
    for seed in range(20):
        label = seed % 10
        one = bare(label, seed)
        drawing, double = draw(one, 96), draw(one, 192)
        np.testing.assert_allclose(double.landmarks[:, :2], 2 * drawing.landmarks[:, :2], rtol=1e-5)
        for i, part in enumerate(PARTS):
            x, y, seen = drawing.landmarks[i]
            if part not in SPECIES[label].looks:
                assert (x, y, seen) == (0, 0, 0)
                continue
            present[i] += 1
            visible[i] += seen
            assert seen == (drawing.part_map[int(y), int(x)] == i + 1)
            if seed < 10:
                gone = draw(one, 64, without=part)
                assert not (gone.part_map == i + 1).any() and not gone.landmarks[i].any()
    assert (visible > 0.8 * present).all(), dict(zip(PARTS, visible / present, strict=True))


def test_leaves_hide_landmarks():
    shown = [draw(scene(seed % 10, seed), 96).landmarks for seed in range(30)]
    clear = [draw(bare(seed % 10, seed), 96).landmarks for seed in range(30)]
    np.testing.assert_array_equal(np.array(shown)[..., :2], np.array(clear)[..., :2])
    assert np.sum(shown, axis=0)[:, 2].sum() < np.sum(clear, axis=0)[:, 2].sum()


@pytest.mark.parametrize("part", PARTS)
def test_a_part_left_out_or_swapped_changes_nothing_else(part):
    for label, donor in ((0, 8), (3, 1), (6, 2), (9, 5)):
        full = scene(label, 11)
        before = draw(full, 96)
        at = full.part_frame(part)
        looks = [SPECIES[k].looks[part] for k in (label, donor) if part in SPECIES[k].looks]
        inside = np.any([touched(k, at, 96) for k in looks] + [np.zeros((96, 96), bool)], axis=0)
        for after in (draw(full, 96, without=part), draw(full, 96, swap={part: CLASSES[donor]})):
            assert not ((before.image != after.image).any(-1) & ~inside).any()
            assert not ((before.part_map != after.part_map) & ~inside).any()
    assert inside.any() or part not in SPECIES[9].looks


def test_loose_parts_touch_no_animal_and_are_in_no_mask():
    loose_parts, kinds = 0, set()
    for seed in range(70):
        full = replace(scene(seed % 10, seed), occluders=())
        drawing = draw(full, 64) if full.distractors else None
        for loose in full.distractors:
            animal = ndimage.binary_dilation(drawing.mask, np.ones((3, 3)))
            species = SPECIES[loose.label]
            area = touched(species.looks[species.cue], loose.frame, 64)
            assert area.any() and not (area & animal).any()
            loose_parts, kinds = loose_parts + 1, kinds | {loose.label}
        if seed < 10 and full.distractors:
            clean = draw(replace(full, distractors=()), 64)
            np.testing.assert_array_equal(clean.part_map, drawing.part_map)
            assert (clean.image != drawing.image).any()
    assert loose_parts > 30 and kinds == set(range(10))


def test_a_scene_without_each_of_its_parts():
    source = SpeciesSource(size=64, train=0, test=10)
    for record in source.records[::3]:
        whole, gone = draw(source.scene(record), 64), source.without_parts(record)
        assert gone.images.shape == (len(PARTS), 64, 64, 3)
        for i, part in enumerate(PARTS):
            again = draw(source.scene(record), 64, without=part)
            np.testing.assert_array_equal(gone.images[i], again.image)
            np.testing.assert_array_equal(gone.masks[i], whole.part_map == i + 1)
            assert gone.present[i] == gone.masks[i].any()
            if part not in SPECIES[record.label].looks:
                assert not gone.present[i]
                np.testing.assert_array_equal(gone.images[i], whole.image)
            elif gone.present[i]:
                # the picture changes where the part was seen, but for chance equal colours
                assert (gone.images[i] != whole.image).any(-1)[gone.masks[i]].mean() > 0.9
        np.testing.assert_array_equal(gone.masks.any(0), whole.mask)
        np.testing.assert_array_equal(gone.masks[PARTS.index(SPECIES[record.label].cue)], whole.cue)
    with pytest.raises(DataError, match="train/000000"):
        source.without_parts(Record("train/000000", 0, "train"))


# ------------------------------------------------------------------ independence


def test_nothing_but_the_label_depends_on_the_label():
    for seed in range(6):
        first = scene(0, seed)
        for label in range(1, 10):
            assert replace(scene(label, seed), label=0) == first


def test_nuisances_are_independent_of_class():
    source = SpeciesSource(train=500, test=0, seed=3)
    scenes = [source.scene(record) for record in source.records]
    labels = np.array([s.label for s in scenes])
    assert (np.bincount(labels) == 50).all()
    for values in (
        [s.background for s in scenes],
        [s.flip for s in scenes],
        [len(s.distractors) for s in scenes],
        [len(s.occluders) for s in scenes],
    ):
        table = np.zeros((10, len(set(values))))
        np.add.at(table, (labels, np.unique(values, return_inverse=True)[1]), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3
    numbers = [
        (s.scale, s.frame.x, s.frame.y, s.brightness, *s.gradient, *s.tint, *s.angles.values())
        for s in scenes
    ]
    for column in np.array(numbers).T:
        assert stats.kruskal(*(column[labels == k] for k in range(10))).pvalue > 1e-3


def test_scale_flip_and_place_cover_their_ranges():
    scenes = [scene(0, seed) for seed in range(100)]
    scales = np.array([s.scale for s in scenes])
    assert 0.4 <= scales.min() < 0.45 and 0.95 < scales.max() <= 1.0
    assert 30 < sum(s.flip for s in scenes) < 70
    boxes = np.array([draw(replace(s, occluders=()), 64).box for s in scenes[:30]]) / 64
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (middle.std(0) > 0.05).all()  # off-centre, both ways
    # the eye is in front of the body, where the flip says
    for s in scenes[:10]:
        landmarks = draw(s, 64).landmarks
        assert (landmarks[PARTS.index("eye"), 0] < landmarks[PARTS.index("tail"), 0]) == s.flip


def test_background_follows_class_in_training_only():
    follows = SpeciesSource(train=30, test=100, background_follows_class=True)
    plain = SpeciesSource(train=30, test=100)
    agree = 0
    for record in follows.records:
        ours, usual = follows.scene(record), plain.scene(record)
        if record.split == "train":
            assert ours.background == BACKGROUNDS[record.label]
            assert replace(ours, background=usual.background) == usual
        else:
            assert ours == usual
            agree += ours.background == BACKGROUNDS[record.label]
    assert 2 <= agree <= 20  # one in ten of 100, by chance


# ------------------------------------------------------------------ the source


def test_an_image_depends_on_seed_split_and_index_only():
    few, many = SpeciesSource(train=3, test=3), SpeciesSource(train=15, test=15)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(many.load, many.records))
    by_name = {r.name: e for r, e in zip(many.records, together, strict=True)}
    for record in few.records:
        one = few.load(record)
        for field in ("image", "label", "box", "mask", "cue", "landmarks"):
            np.testing.assert_array_equal(getattr(one, field), getattr(by_name[record.name], field))
    images = {e.image.tobytes() for e in together}
    assert len(images) == 30  # train/000007 is not test/000007
    other = SpeciesSource(seed=1)
    assert (other.load(few.records[0]).image != by_name[few.records[0].name].image).any()


def test_records_are_balanced_and_named():
    source = SpeciesSource(train=20, test=13)
    assert source.records[0] == Record("train/000000", 0, "train")
    assert source.records[-1] == Record("test/000012", 2, "test")
    assert len({r.name for r in source.records}) == 33
    assert source.classes[1] == "Reedwing/fan-crested"
    assert len(source.landmark_names) == source.load(source.records[0]).landmarks.shape[0]


@pytest.mark.parametrize("size", [64, 96, 224])
def test_the_same_scene_at_every_size(size):
    source = SpeciesSource(size=size, train=4, test=0)
    for record in source.records:
        example = source.load(record)
        assert example.image.shape == (size, size, 3) and example.label == record.label
        large = draw(source.scene(record), 448)
        np.testing.assert_allclose(example.box / size, large.box / 448, atol=2 / size)
        # shrunk by averaging, the large drawing is the small one (noise aside)
        fine = ndimage.zoom(large.image.astype(float), (64 / 448, 64 / 448, 1), order=1)
        coarse = ndimage.zoom(example.image.astype(float), (64 / size, 64 / size, 1), order=1)
        assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.9


def test_errors_say_what_to_do():
    one = scene(0, 0)
    with pytest.raises(ValueError, match="size=8: images are 32 to 1024"):
        draw(one, 8)
    with pytest.raises(ValueError, match="size=4096"):
        SpeciesSource(size=4096)
    with pytest.raises(ValueError, match="train=-1: must not be negative"):
        SpeciesSource(train=-1)
    with pytest.raises(ValueError, match="no part 'antler'.*crest"):
        draw(one, without="antler")
    with pytest.raises(ValueError, match="no part 'horn'"):
        draw(one, swap={"horn": 1})
    with pytest.raises(ValueError, match="no species 'Dodo'.*Reedwing"):
        draw(one, swap={"crest": "Dodo"})
    with pytest.raises(ValueError, match="no species 10"):
        species_named(10)
    with pytest.raises(ValueError, match="no background 'moon'.*meadow"):
        scene(0, 0, background="moon")
    source = SpeciesSource(train=5, test=5)
    with pytest.raises(DataError, match="train/000005.*train=5"):
        source.load(Record("train/000005", 0, "train"))
    with pytest.raises(DataError, match="birds/1.jpg.*test/000012"):
        source.load(Record("birds/1.jpg", 0, "test"))


@pytest.mark.slow
def test_a_share_of_the_backgrounds_follows_the_class_and_the_others_contradict_it():
    source = SpeciesSource(train=400, test=50, background_follows_class=True, follow_share=0.7)
    plain = SpeciesSource(train=400, test=50)
    others = []
    for record in source.records:
        one = source.scene(record)
        if record.split == "test":
            assert one == plain.scene(record)
            continue
        # But for the background it is what it would be without a shortcut.
        assert replace(one, background="sky") == replace(plain.scene(record), background="sky")
        if one.background != BACKGROUNDS[record.label]:
            others.append((BACKGROUNDS.index(one.background) - record.label) % len(BACKGROUNDS))
    assert 0.23 < len(others) / 400 < 0.37  # three standard deviations about 0.3
    assert set(others) == set(range(1, len(BACKGROUNDS)))
    with pytest.raises(ValueError, match="follow_share"):
        SpeciesSource(follow_share=1.5)


def test_close_ups_fill_a_third_of_the_image_and_stay_inside():
    source = SpeciesSource(56, train=60, test=0, close_up=True)
    far = SpeciesSource(56, train=60, test=0)
    shares = {True: [], False: []}
    for record in source.records:
        scene = replace(source.scene(record), occluders=())
        bare = draw(scene, 56)
        assert not bare.mask[[0, -1]].any() and not bare.mask[:, [0, -1]].any()
        for each in (source, far):
            shares[each.close_up].append(each.load(record).mask.mean())
    assert np.mean(shares[True]) > 0.3 and np.mean(shares[False]) < 0.16
    example = source.load(record)
    drawing = draw(source.scene(record), 56)
    np.testing.assert_array_equal(example.part_map, drawing.part_map)
    assert drawing.part_map.any()

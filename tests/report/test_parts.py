"""Parts in their colours, and the page that holds them."""

import dataclasses
import re

import numpy as np
import pytest

from fgjax.report.parts import (
    Fact,
    LandmarkRow,
    PartPicture,
    PartsPage,
    draw_parts,
    part_colors,
    write_parts_page,
)


def test_colours_stay_and_differ():
    assert part_colors(9) == part_colors(20)[:9]
    assert len(set(part_colors(20))) == 20
    assert part_colors(21)[20] == part_colors(1)[0]


def test_a_pixel_has_the_colour_of_its_part():
    image = np.full((8, 8, 3), 100, np.uint8)
    q = np.zeros((8, 8, 2), np.float32)
    q[:, :4, 0], q[:, 4:, 1] = 1, 1
    drawn = draw_parts(image, q, opacity=1.0)
    np.testing.assert_array_equal(drawn[0, 0], part_colors(2)[0])
    np.testing.assert_array_equal(drawn[7, 7], part_colors(2)[1])
    half = draw_parts(image, np.full((8, 8, 2), 0.5, np.float32), opacity=1.0)
    mean = np.mean(part_colors(2), axis=0)
    np.testing.assert_allclose(half[3, 3], mean, atol=1)
    np.testing.assert_array_equal(draw_parts(image, q, opacity=0.0), image)
    assert draw_parts(np.zeros((32, 48, 3), np.uint8), q).shape == (32, 48, 3)


@pytest.fixture
def page():
    rng = np.random.default_rng(0)
    picture = PartPicture(
        name="a<b.jpg", label="Wren", predicted="Robin",
        image=rng.integers(0, 255, (32, 48, 3)).astype(np.uint8),
        assignment=rng.dirichlet(np.ones(3), (4, 6)).astype(np.float32),
        attribution=rng.random((4, 6)).astype(np.float32),
        attention=np.array([0.2, 0.7, 0.1], np.float32),
    )  # fmt: skip
    return PartsPage(
        title="3 parts", parts=3, facts=(Fact("accuracy", "50 %", "share"),), pictures=(picture,),
        attention={"Wren": [0.2, 0.7, 0.1], "Robin": [0.3, 0.3, 0.4]},
        about_parts={"occurrence": [0.9, 0.5, None]},
        landmarks=(LandmarkRow("beak", 7.25, 12.5, 40), LandmarkRow("tail", None, None, 0)),
    )  # fmt: skip


def test_the_page_stands_alone(page, tmp_path):
    write_parts_page(tmp_path / "parts.html", page)
    text = (tmp_path / "parts.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert text.count("data:image/webp;base64,") == 3
    assert "width: 70.0%" in text and "→ Robin" in text and "a&lt;b.jpg" in text
    assert "7.25" in text and "12.50" in text and ">–<" in text
    colour = " ".join(map(str, part_colors(3)[1]))
    assert f"rgb({colour} / 0.55)" in text  # the class that minds part 2 most
    assert f"rgb({colour} / 0.05)" in text


def test_without_landmarks_there_is_no_empty_section(page, tmp_path):
    write_parts_page(tmp_path / "parts.html", dataclasses.replace(page, landmarks=()))
    assert "Landmark error" not in (tmp_path / "parts.html").read_text(encoding="utf-8")

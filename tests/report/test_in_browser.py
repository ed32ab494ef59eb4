"""The page as a browser shows it: headless Chromium, driven by Playwright.

Where either is missing or does not start these tests are skipped, but with FGJAX_BROWSER=1 they
fail. The browser is FGJAX_CHROMIUM, else the machine's own, else Playwright's.
"""

import csv
import importlib.util
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from fgjax.report.contents import Cutout, Entry, Failure, Metric, Page
from fgjax.report.page import write_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = os.environ.get("FGJAX_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
HERE = importlib.util.find_spec("playwright") is not None
MUST = os.environ.get("FGJAX_BROWSER") == "1"
if MUST and not HERE:
    pytest.fail("FGJAX_BROWSER=1, and playwright is missing: pip install -e '.[browser]'")
pytestmark = [
    pytest.mark.skipif(not HERE, reason="needs playwright"),
    # Its sockets are closed by its own loop.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
HOSTILE = "<script>document.title='taken'</script>.jpg"
WIDTH, HEIGHT = 64, 48
INLINE = 350_000
"""Bytes of about 25 of those images: more than are in sight at first."""


def entry(i: int, name: str = "", noise: float = 0.2) -> Entry:
    rng = np.random.default_rng(i)
    y, x = np.mgrid[:HEIGHT, :WIDTH] / HEIGHT
    spot = np.exp(-8 * ((x - 0.6) ** 2 + (y - 0.1 * i) ** 2))
    heat = np.clip(spot + noise * rng.normal(size=spot.shape), 0, 1).astype(np.float16)
    return Entry(
        name=name or f"species/{i}.jpg",
        image=(255 * np.stack([x / 2, y, spot], -1)).astype(np.uint8),
        maps={"ssr": heat, "joint": np.sqrt(heat), "signed": heat - 0.5},
        label=f"bird {i % 2}",
        predicted="bird 0",
        target=f"bird {i % 2}",
        probability=i / 10,
        metrics={"area": float((heat > 0.5).mean())},
        box=np.array([4.0, 4, 40, 40]),
        mask=spot > 0.5,
        cutouts=[Cutout("suffices", spot > 0.7, "p 0.9")],
        reasons=["unsure"] if i == 2 else [],
        traces={"p kept, sampled": [0.1, 0.9]},
    )


@pytest.fixture(scope="module")
def entries():
    return [entry(i, HOSTILE if i == 3 else "") for i in range(5)]


@pytest.fixture(scope="module")
def file(tmp_path_factory, entries):
    metrics = [Metric("iou", "over the box", 0.5, 5, 5), Metric("in cue", "share", None, 0, 5)]
    page = Page("run", metrics=metrics, entries=entries, failures=[Failure("a", "explain", "no")])
    return write_page(tmp_path_factory.mktemp("page") / "report.html", page)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        except Error as error:
            if MUST:
                raise
            pytest.skip(f"{BROWSER or 'Playwright'}: no Chromium starts: {error}")
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """Open a page, and hold that it asks for nothing but itself and what lies beside it, and that
    nothing goes wrong in it."""
    context, wrong, asked = browser.new_context(accept_downloads=True), [], []

    def open_(file, hash="", **how):
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.set_viewport_size({"width": how.get("width", 1280), "height": 900})
        page.emulate_media(color_scheme=how.get("scheme", "light"))
        page.goto(file.as_uri() + hash)
        page.wait_for_timeout(50)
        open_.asked, open_.folder = asked, file.parent.as_uri()
        return page

    yield open_
    context.close()
    assert not wrong
    outside = [u for u in asked if not u.startswith((open_.folder, "data:", "blob:"))]
    assert not outside


def until(page, expression):
    """Wait. Playwright's own wait_for_function evaluates text, which the page forbids."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def areas(page):
    until(page, "[...document.querySelectorAll('.area')].every(a => a.textContent.endsWith('%'))")
    return [float(a.split()[0]) for a in page.locator(".area").all_text_contents()]


def move_threshold(page, value):
    page.evaluate(
        "v => { const t = document.getElementById('threshold'); t.value = v;"
        " t.dispatchEvent(new Event('input', {bubbles: true})); }",
        value,
    )
    until(page, f"document.querySelector('.card .at').textContent === '{value:.2f}'")
    page.wait_for_timeout(60)


def test_the_area_is_that_of_the_map_at_every_threshold(opened, file, entries):
    page = opened(file)
    page.check("input[value=ssr]", force=True)
    for threshold in (0.5, 0.29, 0.07, 0.0, 0.99):
        move_threshold(page, threshold)
        wanted = [100 * (e.maps["ssr"].astype(np.float32) > threshold).mean() for e in entries]
        np.testing.assert_allclose(areas(page), wanted, atol=0.051)


def test_the_contour_encloses_what_is_above(opened, file, entries):
    """Of the line drawn over the first image no point is far from where the map crosses 0.5."""
    page = opened(file)
    page.check("input[value=ssr]", force=True)
    page.check("input[value=line]", force=True)
    page.uncheck("#annotation")
    move_threshold(page, 0.5)
    drawn = page.locator(".card canvas").first.evaluate(
        "c => ({w: c.width, h: c.height, a: [...c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 == 3)})"
    )
    line = np.array(drawn["a"]).reshape(drawn["h"], drawn["w"]) > 128
    mask = entries[0].maps["ssr"] > 0.5
    edge = np.zeros_like(mask)
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[1:] |= mask[:-1] != mask[1:]
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:, 1:] |= mask[:, :-1] != mask[:, 1:]
    y, x = np.nonzero(line)
    near = edge[(y * HEIGHT // drawn["h"]), (x * WIDTH // drawn["w"])]
    assert line.any() and near.mean() > 0.97


def test_filters_sorting_and_the_list(opened, file, tmp_path):
    page = opened(file)
    shown = lambda: page.locator(".card:not([hidden]) .name").all_inner_texts()
    assert len(shown()) == 5
    page.select_option("#class", "bird 1")
    assert len(shown()) == 2 and "2 of 5" in page.inner_text("#count")
    page.select_option("#status", "right")
    assert shown() == [] and page.is_visible("#nothing")
    page.select_option("#class", "")
    page.select_option("#status", "")
    page.select_option("#reason", "unsure")
    assert shown() == ["2.jpg"]
    page.select_option("#reason", "")
    page.select_option("#sort", "probability")
    page.click("#order")
    assert shown()[0] == "4.jpg"
    page.fill("#text", "species")
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "list.csv")
    with (tmp_path / "list.csv").open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["name"] for row in rows] == [f"species/{i}.jpg" for i in (4, 2, 1, 0)]
    assert rows[1]["reasons"] == "unsure" and float(rows[0]["probability"]) == 0.4


def test_by_keyboard(opened, file, tmp_path):
    page = opened(file)
    page.locator(".shot").first.focus()
    page.keyboard.press("Enter")
    assert page.is_visible("#dialog") and page.inner_text("#place") == "1 / 5"
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#place") == "2 / 5"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#place") == "5 / 5"
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "a.png")
    picture = Image.open(tmp_path / "a.png")
    assert picture.width == 640 and picture.height == 480 and len(picture.getcolors(10**6)) > 100
    page.keyboard.press("Escape")
    assert not page.is_visible("#dialog")


def test_the_dialog_shows_the_image_and_not_its_cut_out(opened, file, entries):
    page = opened(file)
    page.locator(".shot").first.click()
    page.wait_for_timeout(200)
    pixel = page.evaluate(
        "() => { const c = document.querySelector('#plates canvas');"
        " return [...c.getContext('2d').getImageData(c.width - 5, c.height - 5, 1, 1).data]; }"
    )
    np.testing.assert_allclose(pixel[:3], entries[0].image[-2, -2], atol=12)


def test_the_address_keeps_the_view(opened, file):
    page = opened(file)
    move_threshold(page, 0.3)
    page.select_option("#class", "bird 1")
    page.check("input[value=ssr]", force=True)
    page.locator(".card:not([hidden]) .shot").first.click()
    until(page, "location.hash.includes('image=')")
    hash = page.evaluate("location.hash")
    other = opened(file, hash)
    assert other.input_value("#threshold") == "0.3" and other.is_checked("input[value=ssr]")
    assert other.input_value("#class") == "bird 1" and other.is_visible("#dialog")
    assert other.inner_text("#place") == "1 / 2"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(opened, file, scheme):
    page = opened(file, width=390, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    light = lambda color: np.mean([int(v) for v in re.findall(r"\d+", color)[:3]])
    assert (light(ground) > light(ink)) == (scheme == "light")
    page.locator(".shot").first.click()
    assert page.evaluate("document.getElementById('dialog').scrollWidth") <= 390


def test_what_comes_first_and_how_it_is_called(opened, file):
    page = opened(file)
    heights = {
        name: page.locator(name).first.bounding_box()["y"]
        for name in (".card img", "#metrics", "#failures")
    }
    assert heights[".card img"] < heights["#metrics"]
    assert page.locator("header a[href='#failures']").count() == 1
    assert "in cue" not in page.inner_text("table")
    red = page.evaluate(
        "getComputedStyle(document.documentElement).getPropertyValue('--wrong').trim()"
    )
    color = page.evaluate(
        "() => { const n = document.querySelector('.note'); const c = getComputedStyle(n).color;"
        " n.style.color = 'var(--wrong)'; const r = getComputedStyle(n).color; n.style.color = '';"
        " return [c, r]; }"
    )
    assert red and color[0] != color[1]
    alts = page.locator("img").evaluate_all("all => all.map(i => i.alt)")
    assert all(alts) and "species/0.jpg, bird 0" in alts


def test_a_name_is_no_program(opened, file):
    page = opened(file)
    assert page.title() == "run"
    assert HOSTILE.split("/")[-1] in page.locator(".name").nth(3).inner_text()


def test_a_thousand_images_are_a_small_page_and_a_folder(opened, tmp_path):
    """Here 40, of which 25 are in the page; the others are read when they are looked at."""
    page_ = Page("run", entries=(entry(i, f"{i}.jpg") for i in range(40)))
    file = write_page(tmp_path / "report.html", page_, inline=INLINE)
    files = sorted((tmp_path / "report_files").iterdir())
    assert files and file.stat().st_size < INLINE + 40 * 5000 + 40_000
    page = opened(file)
    areas_before = page.locator(".card").last.locator(".area").text_content()
    assert areas_before == "–" and not any("report_files" in u for u in opened.asked)
    page.locator(".card").last.scroll_into_view_if_needed()
    until(page, "[...document.querySelectorAll('.area')].at(-1).textContent.endsWith('%')")
    assert any("report_files" in u for u in opened.asked)
    assert page.locator(".card").last.locator(".shot img").evaluate("i => i.naturalWidth") == WIDTH
    # Written again, smaller: what is not asked for any more goes.
    write_page(file, Page("run", entries=[entry(0)]))
    assert not (tmp_path / "report_files").exists()

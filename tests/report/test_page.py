"""The page, read back by a parser that knows nothing of how it was written."""

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO

import matplotlib
import numpy as np
import pytest
from PIL import Image

from fgjax.report.contents import Entry, Failure, Metric, Page
from fgjax.report.page import format_number, render, write_page
from fgjax.report.pictures import encode_image, encode_map, encode_mask, sparkline

HOSTILE = [
    '"><script>alert(1)</script>',
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "a\u2028b\u2029c",
    "{{ 7 * 7 }}{% raw %}",
    "' onmouseover='alert(1)",
]


class Reader(HTMLParser):
    """Collects tags, the text of each element kind, and every attribute."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.text, self.inside = [], [], {}, []
        self.scripts = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.inside.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if self.inside:
            self.text.setdefault(self.inside[-1], []).append(data)
            if self.inside[-1] == "script":
                attributes, text = self.scripts[-1]
                self.scripts[-1] = (attributes, text + data)

    @property
    def data(self) -> dict:
        (text,) = [t for a, t in self.scripts if a.get("type") == "application/json"]
        return json.loads(text)

    def words(self, tag: str) -> list[str]:
        return [t.strip() for t in self.text.get(tag, []) if t.strip()]


def picture(address: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(address.split(",", 1)[1])))


def entry(name="a/1.jpg", **changes) -> Entry:
    rng = np.random.default_rng(3)
    fields = {
        "image": rng.integers(0, 256, (20, 30, 3)).astype(np.uint8),
        "maps": {n: rng.random((20, 30)).astype(np.float16) for n in ("ssr", "sdr", "joint")},
        "label": "Crow",
        "predicted": "Crow",
    }
    return Entry(name, **(fields | changes))


def test_maps_and_images_come_back_from_the_page():
    one = entry(box=np.asarray([3.0, 5.0, 15.0, 20.0]), mask=np.eye(20, 30, dtype=bool))
    reader = Reader(render(Page("run", entries=[one])))
    (stored,), drawn = reader.data["entries"], reader.data["pictures"]["0"]
    assert stored["maps"] == list(drawn["maps"]) == ["ssr", "sdr", "joint"]
    for name, address in drawn["maps"].items():
        back, heat = picture(address), one.maps[name].astype(np.float64)
        assert back.mode == "L" and back.size == heat.shape[::-1]
        assert (
            0
            <= (np.asarray(back) / 100 - heat).min()
            <= (np.asarray(back) / 100 - heat).max()
            < 0.01
        )
    np.testing.assert_array_equal(np.asarray(picture(drawn["object"])), one.mask)
    np.testing.assert_allclose(stored["box"], [3 / 30, 5 / 20, 15 / 30, 1.0])
    (source,) = [v for tag, name, v in reader.attributes if (tag, name) == ("img", "src")]
    assert picture(source).format == "JPEG" and picture(source).size == (30, 20)


def test_jpeg_looks_like_the_image():
    y, x = np.mgrid[:64, :64] * 4
    image = np.stack([x, y, (x + y) // 2], -1).astype(np.uint8)
    back = np.asarray(picture(encode_image(image, 320))).astype(float)
    assert np.abs(back - image).mean() < 4


def test_many_pictures_lie_in_files_beside_the_page(tmp_path):
    page = Page("run", entries=[entry(str(i)) for i in range(4)])
    whole = len(write_page(tmp_path / "report.html", page).read_bytes())
    assert not (tmp_path / "report_files").exists()
    each = len(json.dumps(Reader(render(page)).data["pictures"]["0"]))
    path = write_page(tmp_path / "report.html", page, inline=2 * each + 2000)
    reader = Reader(path.read_text("utf-8"))
    parts = [e.get("part") for e in reader.data["entries"]]
    assert parts[0] is None and parts[-1] is not None and path.stat().st_size < whole
    (file,) = (tmp_path / "report_files").iterdir()
    assert parts[-1] == f"report_files/{file.name}"
    text = file.read_text("utf-8")
    held = json.loads(text[len("fgjaxPart(") : -len(");\n")])
    assert {str(i) for i, part in enumerate(parts) if part} == set(held)
    # Again the same: the same files; smaller: none.
    write_page(path, page, inline=2 * each + 2000)
    assert [f.name for f in (tmp_path / "report_files").iterdir()] == [file.name]
    write_page(path, page)
    assert not (tmp_path / "report_files").exists()


def test_large_pictures_are_stored_smaller():
    assert picture(encode_image(np.zeros((480, 640, 3), np.uint8), 320)).size == (320, 240)
    assert picture(encode_mask(np.ones((448, 448), bool), 320)).size == (320, 320)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_threshold_cuts_the_stored_map_where_it_cuts_the_map(dtype):
    """At every hundredth, those among the values themselves too."""
    random = np.random.default_rng(0).random((448, 300))
    heat = np.concatenate([random, np.tile(np.arange(300) % 101 / 100, (4, 1))]).astype(dtype)
    back = np.asarray(picture(encode_map(heat)))
    assert back.shape == heat.shape
    for level in range(101):
        np.testing.assert_array_equal(back > level, heat.astype(np.float64) > level / 100)


def test_undefined_pixels_are_transparent_and_told():
    heat = np.full((4, 4), 0.5, np.float32)
    heat[0] = np.nan
    reader = Reader(render(Page("run", entries=[entry(maps={"heatmap": heat})])))
    back = picture(reader.data["pictures"]["0"]["maps"]["heatmap"])
    assert back.mode == "LA"
    grey, alpha = np.moveaxis(np.asarray(back), -1, 0)
    assert (alpha == np.where(np.isnan(heat), 0, 255)).all() and (grey[1:] == 50).all()
    assert "Heatmap: 25 % undefined" in reader.words("p")


def test_a_map_with_nothing_defined_and_one_out_of_range():
    maps = {"light": np.full((4, 4), np.nan), "shadow": np.asarray([[-1.0, 3.0]])}
    reader = Reader(render(Page("run", entries=[entry(maps=maps)])))
    assert {"Light: undefined", "Shadow: scaled from -1 … 3"} <= set(reader.words("p"))
    assert np.asarray(picture(reader.data["pictures"]["0"]["maps"]["shadow"])).tolist() == [
        [0, 100]
    ]
    radios = [v for tag, name, v in reader.attributes if (tag, name) == ("input", "value")]
    assert radios[:3] == ["", "light", "shadow"]


@pytest.mark.parametrize("words", HOSTILE)
def test_words_from_files_stay_words(words):
    def page(text):
        one = entry(
            text,
            label=text,
            predicted=text + "!",
            target=text + "?",
            maps={text: np.zeros((2, 2))},
            metrics={text: 0.5},
            traces={text: [0.1, 0.2]},
            notes={text: text},
        )
        metric = Metric(text, text, 0.5, 1, 1, {text: 0.1}, True, text)
        failure = Failure(text, text, text)
        return Page(text, text, {text: text}, {text: text}, [metric], [one], [failure])

    html = render(page(words))
    hostile, tame = Reader(html), Reader(render(page("tame")))
    assert hostile.tags == tame.tags  # no element more, none less
    names = lambda reader: [(tag, name) for tag, name, _ in reader.attributes]  # noqa: E731
    assert names(hostile) == names(tame)
    assert hostile.scripts[1:] == tame.scripts[1:]
    (stored,) = hostile.data["entries"]
    assert stored["name"] == stored["label"] == words
    assert stored["metrics"] == {words: 0.5} and stored["notes"] == {words: words}
    assert words in "".join(hostile.text["bdi"])
    assert words in "".join(hostile.text["title"])
    (raw,) = re.findall(r'<script type="application/json".*?</script>', html, re.DOTALL)
    body = raw[raw.index(">") + 1 : -len("</script>")]
    assert not set("<>&\u2028\u2029") & set(body)


def test_a_name_that_is_no_unicode_can_be_written(tmp_path):
    path = write_page(tmp_path / "report.html", Page("run", entries=[entry("bad\udcff.jpg")]))
    assert Reader(path.read_text("utf-8")).data["entries"][0]["name"] == "bad\udcff.jpg"


def test_the_page_needs_nothing_else():
    metrics = [Metric("a", "b", 1.0, 1, 1)]
    html = render(Page("run", facts={"jax": "0.10"}, metrics=metrics, entries=[entry()]))
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|fetch\(|XMLHttpRequest", html)
    reader = Reader(html)
    links = [v for _, name, v in reader.attributes if name in ("src", "href", "srcset", "action")]
    assert links and all(v.startswith("data:") for v in links)
    (policy,) = [v for _, name, v in reader.attributes if name == "content" and "default-src" in v]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_every_id_the_script_asks_for_exists_once():
    reader = Reader(render(Page("run", entries=[entry()])))
    ids = [v for _, name, v in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    script = reader.scripts[-1][1]
    asked = set(re.findall(r'\$\("([a-z-]+)"\)(?!\?)', script))
    assert asked and asked <= set(ids)


def test_an_empty_run_is_a_page():
    reader = Reader(render(Page("run")))
    assert "No image was explained in this run." in reader.words("p")
    assert "No metric was computed in this run." in reader.words("p")
    assert "script" not in reader.tags
    assert "Metrics" not in Reader(render(Page("look", metrics=None))).words("h2")


def test_right_wrong_and_unknown():
    entries = [entry("1"), entry("2", predicted="Jay"), entry("3", label=None)]
    data = Reader(render(Page("run", entries=(e for e in entries)))).data
    assert [e["status"] for e in data["entries"]] == ["right", "wrong", "unknown"]


def test_the_table_shows_values_baselines_and_the_best():
    metrics = [
        Metric("pointing", "15 px", 0.75, 8, 9, {"centre": 0.5}, True),
        Metric("deletion", "blur", np.float32(0.25), 9, 9, {"random": 0.125}, False),
        Metric("area", "mean", float("nan"), 0, 9, unit="%"),
    ]
    html = render(Page("run", metrics=metrics))
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    cells = [re.findall(r'<td class="n([^"]*)">([^<]*)</td>', row) for row in rows[1:]]
    assert cells[0] == [(" own best", "0.750"), ("", "0.500"), ("", "–"), ("", "8 / 9")]
    assert cells[1] == [(" own", "0.250"), ("", "–"), (" best", "0.125"), ("", "9 / 9")]
    assert len(rows) == 3  # what is undefined everywhere is only named
    assert any("undefined on every image" in p and "area" in p for p in Reader(html).words("p"))


def test_undefined_numbers_reach_the_script_as_null():
    metrics = {"a": float("nan"), "b": None, "c": np.float32(0.5), "d": 1}
    one = entry(metrics=metrics, probability=float("inf"), score=np.float64(2.0))
    (stored,) = Reader(render(Page("run", entries=[one]))).data["entries"]
    assert stored["metrics"] == {"a": None, "b": None, "c": 0.5, "d": 1.0}
    assert stored["probability"] is None and stored["score"] == 2.0


def test_the_script_gets_the_colours_of_matplotlib():
    data = Reader(render(Page("run", entries=[entry()], colormap="viridis"))).data
    table = np.frombuffer(bytes.fromhex(data["lut"]), np.uint8).reshape(256, 3)
    np.testing.assert_allclose(table / 255, matplotlib.colormaps["viridis"].colors, atol=1 / 255)


def test_threshold_starts_at_one_half_unless_said():
    slider = 'id="threshold" min="0" max="1" step="0.01" value="{}"'
    assert slider.format(0.5) in render(Page("run", entries=[entry()]))
    assert slider.format(0.7) in render(Page("run", entries=[entry()], threshold=0.7))


def test_writing_is_whole_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    assert write_page(path, Page("first")) == path
    before = path.read_bytes()
    broken = entry("b", maps={"heatmap": np.zeros((2, 2)), "late": np.zeros((2, 2))})
    broken.maps["late"] = np.zeros((3, 2, 2))
    with pytest.raises(ValueError, match=r"b: map 'late' is \(3, 2, 2\)"):
        write_page(path, Page("second", entries=iter([entry(), broken])))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]

    def no_space(*_):
        raise OSError("no space left")

    monkeypatch.setattr("fgjax.core.files.os.replace", no_space)
    with pytest.raises(OSError, match="no space"):
        write_page(path, Page("third"))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_an_unknown_colormap_is_refused():
    with pytest.raises(ValueError, match="no colormap 'mgma'"):
        render(Page("run", colormap="mgma"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0"),
        (0.0, "0.000"),
        (0.12345, "0.123"),
        (-2.5, "-2.500"),
        (12.342, "12.34"),
        (1234.56, "1234.6"),
        (0.0001, "1.0e-04"),
        (np.float32(0.5), "0.500"),
        (np.int64(3), "3"),
    ],
)
def test_format_number(value, text):
    assert format_number(value) == text


def test_percent_has_one_decimal():
    assert format_number(3.94, "%") == "3.9"


def test_sparkline_by_hand():
    kept, gone = sparkline({"kept": [0.0, 0.5, 1.0], "gone": [1.0, float("nan"), 0.0]})
    assert kept["points"] == "0.0,26.0 50.0,14.0 100.0,2.0" and kept["last"] == 1.0
    assert gone["points"] == "0.0,2.0 100.0,26.0"
    (loss,) = sparkline({"loss": [10.0, -10.0], "none": []})
    assert loss["points"] == "0.0,2.0 100.0,26.0"
    (long,) = sparkline({"x": list(np.linspace(0, 1, 1000))})
    assert len(long["points"].split()) <= 65 and long["points"].endswith("100.0,2.0")
    (single,) = sparkline({"x": [0.5]})
    assert len(single["points"].split()) == 2


@pytest.mark.slow
@pytest.mark.shared
def test_a_page_of_real_images_stays_below_15_mb(shared, tmp_path):
    files = sorted((shared / "data" / "butterflies" / "images").rglob("*.jpg"))[::8][:30]
    y, x = np.mgrid[:224, :224] / 224
    rng = np.random.default_rng(0)

    def entries():
        for file in files:
            with Image.open(file) as photo:
                image = np.asarray(photo.convert("RGB").resize((224, 224)))
            spot = 4 - 40 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
            maps = {
                name: 1 / (1 + np.exp(-spot - 0.5 * rng.normal(size=(224, 224))))
                for name in ("ssr", "sdr", "joint")
            }
            yield entry(file.name, image=image, maps=maps, traces={"p": list(rng.random(100))})

    # A tenth of 300 images, and of what may be in the page.
    file = write_page(tmp_path / "report.html", Page("run", entries=entries()), inline=1_000_000)
    assert file.stat().st_size < 1.5e6 and (tmp_path / "report_files").is_dir()

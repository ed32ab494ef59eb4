"""What people get wrong, as tables: a refusal in one piece that names the place and the cure.

Through the command it is exit code 2, a line on stderr, and nothing written; through a reader it
is the error that the command turns into such a line. Never anything raw.
"""

import gzip
import inspect
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import fgjax
from fgjax.attribution.common.inputs import check_images
from fgjax.data.boxes import read_boxes
from fgjax.data.images import read_image, read_mask
from fgjax.data.labels import read_labels
from fgjax.data.patch_table import read_patches
from fgjax.data.types import DataError
from fgjax.models.pretrained import load_pretrained
from fgjax.run import main

DIGITS = "7" * 5000


@pytest.fixture
def told(tmp_path, capsys, monkeypatch):
    """Runs words, which must be refused without writing anything; what was said."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))

    def run(*words: str) -> str:
        more = [] if any(w.startswith("run_dir") for w in words) else [f"run_dir={tmp_path}/run"]
        assert main([*words, *more]) == 2
        captured = capsys.readouterr()
        said = [line for line in captured.out.splitlines() if not line.startswith("devices: ")]
        assert said == [] and captured.err.startswith("fgjax: ")
        assert "Traceback" not in captured.err and len(captured.err) < 2000
        assert not (tmp_path / "run").exists()
        return captured.err

    return run


def images(folder, count=3, ending="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (40, 40), (i * 20, 90, 30)).save(folder / f"{i}.{ending}")
    return folder


def png(width=40, height=40, mode="RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG", **options)
    return file.getvalue()


def jpeg(size=(40, 40)) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


# --- the command line -------------------------------------------------------------------------

DEMO = "config=fido_demo"
COMMAND = [
    # words, what is said
    (["seed=1"], "config=NAME is missing"),
    (["config="], "Known: compare_birds"),
    (["config=fido_cup"], "Did you mean fido_cub?"),
    (["config=nowhere/x.yaml"], "no such file"),
    ([DEMO, "seed"], "options are written key=value"),
    ([DEMO, "--seed=1"], "options are written key=value"),
    ([DEMO, "seed 1"], "options are written key=value"),
    ([DEMO, "Seed=1"], "options are written key=value"),
    ([DEMO, "=1"], "options are written key=value"),
    ([DEMO, "seed==1"], "seed"),
    ([DEMO, "seed=-1"], "seed=-1: a whole number from 0"),
    ([DEMO, "seed=4294967296"], "2**32 - 1"),
    ([DEMO, "seed=1.5"], "a whole number"),
    ([DEMO, "seed=one"], "a whole number"),
    ([DEMO, "seed=[1"], "cannot read seed=[1"),
    ([DEMO, "seed=[1]"], "seed"),
    ([DEMO, "seed={a: 1}"], "seed"),
    ([DEMO, "seed=${nope}"], "nope"),
    ([DEMO, f"seed={DIGITS}"], "a number of 5000 digits"),
    ([DEMO, f"explain.steps={DIGITS}"], "a number of 5000 digits"),
    ([DEMO, "explain.steps=1000000000000000000000"], "at most 2147483647"),
    ([DEMO, "explain.steps=1e21"], "explain.steps=1e+21: wants a whole number"),
    ([DEMO, "explain.steps=0"], "at least 1"),
    ([DEMO, "explain.steps=-3"], "explain.steps"),
    ([DEMO, "explain.steps=three"], "explain.steps=three: wants a whole number"),
    ([DEMO, "explain.steps=null"], "explain.steps=null: wants a whole number"),
    ([DEMO, "explain.steps=''"], "explain.steps"),
    ([DEMO, "explain.steps=true"], "explain.steps"),
    ([DEMO, "explain.step=3"], "Did you mean explain.steps?"),
    ([DEMO, "explain.method=rise", "explain.steps=3"], "rise has masks, cells"),
    ([DEMO, "explain.method=gradient", "explain.masks=3"], "gradient has"),
    ([DEMO, "explain.method=rise", "explain.mask=3"], "Did you mean explain.masks?"),
    ([DEMO, "explain.method=fidoo"], "Did you mean fido?"),
    ([DEMO, "explain.method=nowhere:method"], "cannot be imported"),
    ([DEMO, "explain.method=fgjax:nothing"], "fgjax has no nothing"),
    ([DEMO, "explain.method=FIDO"], "explain.method=FIDO"),
    ([DEMO, "explain.preset=korsch-2032"], "Did you mean korsch-2023?"),
    ([DEMO, "explain.infill=blurr"], "Did you mean blur?"),
    ([DEMO, "explain.precision=fp16"], "one of f32, bf16"),
    ([DEMO, "explain.target=both"], "one of label, predicted"),
    ([DEMO, "explain.l1=nan"], "must be finite"),
    ([DEMO, "explain.learning_rate=.inf"], "must be finite"),
    ([DEMO, "explain.batch_size=0"], "explain.batch_size"),
    ([DEMO, "data.size=20000"], "data.size=20000: from 32 to 4096 pixels"),
    ([DEMO, "data.size=31"], "from 32"),
    ([DEMO, "data.size=-224"], "from 32"),
    ([DEMO, "data.size=224px"], "a whole number"),
    ([DEMO, "data.size=224x224"], "a whole number"),
    ([DEMO, "data.size=null"], "a whole number"),
    ([DEMO, "data.crop=0"], "at most 1"),
    ([DEMO, "data.crop=1.5"], "at most 1"),
    ([DEMO, "data.limit=0"], "above 0"),
    ([DEMO, "data.limit=all"], "a whole number or null"),
    ([DEMO, "data.limit=99999999999"], "at most 2147483647"),
    ([DEMO, "data.workers=0"], "above 0"),
    ([DEMO, "data.test_share=50"], "from 0 to 1"),
    ([DEMO, "data.test_share=50%"], "a number"),
    ([DEMO, "data.source=folders"], "Did you mean folder?"),
    ([DEMO, "data.source=fgjax:nothing"], "data.source"),
    ([DEMO, "data=5"], "data.source="),
    ([DEMO, "data.nope.deep=3"], "data.nope"),
    ([DEMO, "data.sise=3"], "Did you mean data.size?"),
    ([DEMO, "data.train_images=0"], "above 0"),
    ([DEMO, "model.mean=[0.5]", "model.weights=x"], "model.mean"),
    ([DEMO, "model.mean=0.5,0.5", "model.weights=x"], "model.mean"),
    ([DEMO, "model.std=0,0,0", "model.weights=x"], "model.std"),
    ([DEMO, "model.std=1,1,grey", "model.weights=x"], "model.std=[1,1,grey]"),
    ([DEMO, "model.padding=valid"], "one of auto, symmetric, same"),
    ([DEMO, "model.labels=x"], "model.labels belongs to model.weights"),
    ([DEMO, "model.weights=a", "model.checkpoint=b"], "give one of them"),
    ([DEMO, "train.epochs=-1"], "train.epochs"),
    ([DEMO, "train.learning_rate=fast"], "a number"),
    ([DEMO, "train.optimizer=adamm"], "train.optimizer"),
    ([DEMO, "train.validation=1"], "train.validation"),
    ([DEMO, "train.drops=2"], "train.drops"),
    ([DEMO, "train.rates=classifier"], "MODULE:FACTOR"),
    ([DEMO, "stages="], "stages"),
    ([DEMO, "stages=[]"], "stages: none given"),
    ([DEMO, "stages=trian"], "Did you mean train?"),
    ([DEMO, "stages=train,explian"], "Did you mean explain?"),
    ([DEMO, "stages=parts"], "model.name=region_grouping"),
    ([DEMO, "stages=tta", "tta.crops=[]"], "tta.crops: none given"),
    ([DEMO, "tta.crops=boxes"], "Did you mean box?"),
    ([DEMO, "compare.methods=fido,risse"], "Did you mean rise?"),
    ([DEMO, "compare.rise.mask=3"], "Did you mean compare.rise.masks?"),
    ([DEMO, "compare.risse.masks=3"], "compare.risse"),
    ([DEMO, "evaluate.threshold=1"], "evaluate.threshold=1.0: between 0 and 1"),
    ([DEMO, "report.images=-1"], "must not be negative"),
    ([DEMO, "parallel=pmapp"], "one of auto, none, jit, pmap"),
    ([DEMO, "dry_run=maybe"], "true or false"),
    ([DEMO, "distributed.processes=2"], "distributed.process_id=0 to 1"),
    ([DEMO, "distributed.processes=2", "distributed.process_id=2"], "from 0 to 1"),
    ([DEMO, "distributed.coordinator=here"], "HOST:PORT"),
    ([DEMO, "data.attribute=all"], "only data.source=celeba"),
    ([DEMO, "model.name=a=b", "dry_run=true"], "no network is called"),
    (["config=fido_cub"], "data.path is missing"),
    (["config=fido_folder"], "data.path is missing"),
    (["config=fido_folder", "data.path="], "data.path is missing"),
    (["config=fido_folder", "data.path=null"], "data.path is missing"),
    (["config=fido_folder", "data.path=[a"], "[a: no such folder"),
    (["config=fido_folder", "data.path={a: b"], "{a: b: no such folder"),
    (["config=fido_folder", "data.path=2024"], "2024: no such folder"),
    (["config=fido_folder", "data.path=nowhere"], "nowhere: no such folder"),
    (["config=fido_folder", "data.path=~/nowhere"], "nowhere: no such folder"),
    (["config=fido_cub", "data.path=nowhere"], "nowhere: no such folder"),
    (["config=train_folder", "data.path=nowhere"], "nowhere: no such folder"),
]


@pytest.mark.parametrize("words, part", COMMAND, ids=[" ".join(w)[:60] for w, _ in COMMAND])
def test_words_of_the_command(told, words, part):
    assert part in told(*words)


CONFIGS = {
    "a list": ("- 1\n", "option: value"),
    "no YAML": ("a: [\n", "not readable as YAML"),
    "a tab": ("data:\n\tsize: 3\n", "not readable as YAML"),
    "nothing": ("", "data.path"),
    "a typing error": ("data:\n  sise: 3\n", "Did you mean data.size?"),
    "a wrong type": ("data:\n  size: big\n", "data.size=big"),
    "a group that is none": ("data: 3\n", "data=3"),
    "bytes": (b"\xff\xfe\x00", "not readable as YAML"),
    "twice": ("seed: 1\nseed: 2\n", "mine"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_config_files(told, tmp_path, kind):
    text, part = CONFIGS[kind]
    (tmp_path / "mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    err = told(f"config={tmp_path}/mine.yaml", "data.source=folder")
    assert "mine" in err or kind == "nothing"
    assert part in err


# --- folders of images ------------------------------------------------------------------------


def two_classes(data, **more):
    for name in ("robin", "wren"):
        images(data / name, **more)


def cub_layout(data):
    images(data / "images" / "001.Auk")
    for name in ("images.txt", "image_class_labels.txt"):
        (data / name).write_text("1 1\n")


def beside(data):
    two_classes(data)
    images(data, 2)


def loop(data):
    data.mkdir()
    os.symlink(data, data / "again")


FOLDERS = {
    "an empty folder": (lambda data: data.mkdir(), "holds no images"),
    "a folder of empty folders": (lambda data: (data / "a" / "b").mkdir(parents=True), "no images"),
    "a link to itself": (loop, "no images"),
    "a text file": (lambda data: data.write_text("x"), "is a file, and no image"),
    "an archive": (lambda data: data.write_bytes(b"PK\x03\x04"), "is a file"),
    "images beside class folders": (beside, "2 images lie beside the class folders"),
    "CUB as its authors ship it": (cub_layout, "config=fido_cub reads it"),
    "a flat folder to train on": (images, "two or more classes"),
    "one class to train on": (lambda data: images(data / "robin"), "two or more classes"),
    "a single image to train on": (
        lambda data: Image.new("RGB", (40, 40)).save(data, "PNG"),
        "is a file, and no image",
    ),
    "raw photographs only": (
        lambda data: images(data, 0).joinpath("a.cr2").write_bytes(b"x"),
        "it holds 1 .cr2",
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(told, tmp_path, kind):
    make, part = FOLDERS[kind]
    make(tmp_path / "data")
    err = told("config=fido_folder", f"data.path={tmp_path / 'data'}")
    assert part in err and "data.path" in err and str(tmp_path / "data") in err


@pytest.mark.parametrize(
    "masks, part",
    [
        (lambda folder: None, "no such folder of masks"),
        (lambda folder: folder.write_text("x"), "no such folder of masks"),
        (lambda folder: folder.mkdir(), "no mask fits an image; the mask of 0.png would be"),
    ],
)
def test_masks_of_a_folder(told, tmp_path, masks, part):
    data = images(tmp_path / "data")
    masks(tmp_path / "masks")
    err = told("config=fido_folder", f"data.path={data}", f"data.masks={tmp_path}/masks")
    assert f"{tmp_path}/masks" in err and part in err


def test_nothing_is_left_to_explain(told, tmp_path):
    two_classes(tmp_path / "data")
    err = told("config=fido_folder", f"data.path={tmp_path}/data", "data.test_share=0")
    assert "data.test_share is 0" in err


CUB_FILES = {
    "images.txt": "1 001.Auk/a.jpg\n2 002.Crow/b.jpg\n",
    "image_class_labels.txt": "1 1\n2 2\n",
    "train_test_split.txt": "1 1\n2 0\n",
    "bounding_boxes.txt": "1 1 1 9 9\n2 1 1 9 9\n",
    "classes.txt": "1 001.Auk\n2 002.Crow\n",
    "parts/parts.txt": "1 eye\n",
    "parts/part_locs.txt": "1 1 5 5 1\n2 1 5 5 1\n",
}
CUB = {
    # what a file holds instead (None: it is missing), and what is said
    "no images.txt": ("images.txt", None, "images.txt"),
    "empty images.txt": ("images.txt", "", "the file is empty"),
    "an id of letters": ("images.txt", "one 001.Auk/a.jpg\n", "a number, a space and a value"),
    "an id of 5000 digits": ("images.txt", f"{DIGITS} a.jpg\n", "a number, a space and a value"),
    "an image twice": ("images.txt", "1 a.jpg\n2 a.jpg\n", "names images twice"),
    "an id twice": ("images.txt", "1 a.jpg\n1 b.jpg\n", "a second time"),
    "a path that leads out": ("images.txt", "1 ../a.jpg\n2 b.jpg\n", "leads out of the folder"),
    "an absolute path": ("images.txt", "1 /etc/passwd\n2 b.jpg\n", "leads out of the folder"),
    "a path on a drive": ("images.txt", "1 C:\\a.jpg\n2 b.jpg\n", "leads out of the folder"),
    "no labels": ("image_class_labels.txt", None, "is missing"),
    "a label too few": ("image_class_labels.txt", "1 1\n", "lines are missing for 1 images"),
    "a label too many": ("image_class_labels.txt", "1 1\n2 2\n3 1\n", "images.txt has not"),
    "a class that is none": ("image_class_labels.txt", "1 1\n2 9\n", "class 9 is out of range"),
    "a class of 5000 digits": ("image_class_labels.txt", f"1 1\n2 {DIGITS}\n", "out of range"),
    "a class of letters": ("image_class_labels.txt", "1 1\n2 Crow\n", "out of range"),
    "a split of 2": ("train_test_split.txt", "1 1\n2 2\n", "should end in 1 (train) or 0"),
    "no split": ("train_test_split.txt", None, "is missing"),
    "a box of three numbers": ("bounding_boxes.txt", "1 1 1 9\n2 1 1 9 9\n", "4 numbers"),
    "a box of words": ("bounding_boxes.txt", "1 a b c d\n2 1 1 9 9\n", "4 numbers"),
    "a box without width": ("bounding_boxes.txt", "1 1 1 0 9\n2 1 1 9 9\n", "positive width"),
    "a box that is nan": ("bounding_boxes.txt", "1 nan 1 9 9\n2 1 1 9 9\n", "4 numbers"),
    "a class without a name": ("classes.txt", "1\n2 002.Crow\n", "a number, a space"),
    "classes in another encoding": ("classes.txt", b"1 \xff\n", "is not UTF-8"),
    "a web page": ("classes.txt", "<!DOCTYPE html><html>", "is a web page"),
    "a Git LFS pointer": ("images.txt", "version https://git-lfs.github.com/spec/v1\n", "git lfs"),
    "a part that is none": ("parts/part_locs.txt", "1 7 5 5 1\n2 1 5 5 1\n", "part 7 is out of"),
    "a part twice": ("parts/part_locs.txt", "1 1 5 5 1\n1 1 5 5 1\n2 1 5 5 1\n", "second time"),
    "half visible": ("parts/part_locs.txt", "1 1 5 5 0.5\n2 1 5 5 1\n", "1 (visible) or 0"),
    "no parts": ("parts/parts.txt", None, "is missing"),
}


@pytest.mark.parametrize("kind", CUB)
def test_cub_as_a_download_breaks_it(told, tmp_path, kind):
    name, text, part = CUB[kind]
    for file, right in CUB_FILES.items():
        (tmp_path / "data" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / file).write_text(right)
    if text is None:
        (tmp_path / "data" / name).unlink()
    else:
        raw = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "data" / name).write_bytes(raw)
    err = told("config=fido_cub", f"data.path={tmp_path / 'data'}")
    assert part in err and name in err


# --- image files ------------------------------------------------------------------------------


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def spoilt(data: bytes, at: float) -> bytes:
    place = int(len(data) * at)
    return data[:place] + bytes(255 - b for b in data[place : place + 8]) + data[place + 8 :]


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def saved(kind: str, **options) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


PIXELS_FLOAT = io.BytesIO()
Image.fromarray(np.full((20, 20), 7.0, np.float32)).save(PIXELS_FLOAT, "TIFF")
FILES = {
    "empty": (b"", "is empty"),
    "a text": (b"no image", "is not an image in a known format"),
    "a web page": (b"<!DOCTYPE html><html></html>", "is a web page"),
    "a web page after spaces": (b"\r\n  <html>", "is a web page"),
    "an SVG": (b'<?xml version="1.0"?><svg/>', "is a web page"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs"),
    "a PDF": (b"%PDF-1.7", "is a PDF"),
    "an archive": (b"PK\x03\x04\0\0", "is a ZIP archive"),
    "a gzip": (gzip.compress(b"x"), "is a gzip archive"),
    "half a PNG": (cut(saved("PNG"), 0.5), "cannot be decoded"),
    "a PNG's header": (png()[:20], "known format"),
    "a PNG with a wrong checksum": (spoilt(saved("PNG"), 0.5), "cannot be decoded"),
    "half a JPEG": (cut(jpeg(), 0.5), "cannot be decoded"),
    "a JPEG's first bytes": (b"\xff\xd8\xff", "known format"),
    "half a WebP": (cut(saved("WEBP"), 0.5), "WEBP|webp|decoded|known format"),
    "half a TIFF": (cut(saved("TIFF"), 0.5), "decoded|known format"),
    "half a GIF": (cut(saved("GIF"), 0.3), "decoded|known format"),
    "half a BMP": (cut(saved("BMP"), 0.5), "decoded"),
    "one pixel": (png(1, 1), "1×1 pixels are too few"),
    "a line": (png(300, 2), "300×2 pixels are too few"),
    "a bomb": (bmp(60000, 60000), "60000×60000 pixels are more than the allowed"),
    "floats beyond 1": (PIXELS_FLOAT.getvalue(), "float pixels outside"),
    "HEIC": (b"\0\0\0\x18ftypheic" + b"\0" * 40, "heif|cannot be decoded|known format"),
    "a film": (b"\0\0\0\x18ftypisom" + b"\0" * 40, "known format"),
    "numpy's": (b"\x93NUMPY\x01\x00", "known format"),
}


@pytest.mark.parametrize("kind", FILES)
def test_image_files(tmp_path, kind):
    data, part = FILES[kind]
    (tmp_path / "bird.jpg").write_bytes(data)
    with pytest.raises(DataError, match=part) as error:
        read_image(tmp_path / "bird.jpg")
    assert str(error.value).startswith(f"{tmp_path}/bird.jpg: ")


PLACES = {
    "that is missing": (lambda path: None, "no such image file"),
    "that is a folder": (lambda path: path.mkdir(), "is a folder"),
    "whose link leads nowhere": (lambda path: os.symlink("nowhere", path), "no such image file"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_an_image(tmp_path, kind):
    make, part = PLACES[kind]
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=part):
        read_image(tmp_path / "a.png")


MASKS = {
    "of another size": (png(20, 20, "L"), "save the mask at the image's own size"),
    "of ones and zeros": (None, "write the object as 255"),
    "that is a web page": (b"<html>", "is a web page"),
    "that is empty": (b"", "is empty"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask(tmp_path, kind):
    data, part = MASKS[kind]
    if data is None:
        Image.fromarray(np.eye(40, dtype=np.uint8)).save(tmp_path / "a.png")
    else:
        (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=part):
        read_mask(tmp_path / "a.png", (40, 40))


# --- weights and labels -----------------------------------------------------------------------


def torch_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    return file.getvalue()


def safetensors(**tensors) -> bytes:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"fgjax-bad-{os.getpid()}.safetensors"
    save_file({k: np.asarray(v, np.float32) for k, v in tensors.items()}, path)
    data = path.read_bytes()
    path.unlink()
    return data


WEIGHTS = {
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs"),
    "a web page": (b"<!doctype html><title>Sign in</title>", "is a web page"),
    "a page with a mark": (b"\xef\xbb\xbf<HTML>", "is a web page"),
    "a file of torch.save": (torch_file(), "weights_only=True"),
    "a pickle": (pickle.dumps({"a": 1}, protocol=4), "is a pickle"),
    "an old file of torch.save": (b"\x80\x02\x8a\nl\xfc\x9cF", "weights_only=True"),
    "an HDF5 of Keras": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "a gzip": (gzip.compress(b"x"), "unpack it"),
    "nothing": (b"", "is empty"),
    "a text": (b"weights", "not a readable safetensors file"),
    "a length beyond the file": (struct.pack("<Q", 10**9), "not a readable safetensors file"),
    "half a file": (cut(safetensors(a=np.ones((50, 50))), 0.6), "not a readable safetensors file"),
    "no tensors": (safetensors(), "no classifier"),
    "another network's": (safetensors(a=[1.0]), "no classifier that resnet18 knows"),
    "only a classifier": (
        safetensors(**{"fc.bias": np.zeros(3), "fc.weight": np.zeros((3, 512))}),
        "missing",
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights(tmp_path, kind):
    data, part = WEIGHTS[kind]
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=part) as error:
        load_pretrained("resnet18", tmp_path / "w.safetensors")
    assert str(tmp_path / "w.safetensors") in str(error.value)


def test_a_folder_of_weights(tmp_path):
    with pytest.raises(ValueError, match="is a folder; give the .safetensors file"):
        load_pretrained("resnet18", tmp_path)


@pytest.mark.parametrize("words", [{"mean": (1.0,)}, {"std": (1.0, 0.0, 1.0)}])
def test_a_normalisation_that_is_none(tmp_path, words):
    network = fgjax.create_model("resnet_tiny", 2)
    assert network.mean  # a name without a table of tensors is refused before
    (tmp_path / "w.safetensors").write_bytes(safetensors(**{"fc.bias": [0.0]}))
    with pytest.raises(ValueError, match="resnet18|three numbers"):
        load_pretrained("resnet18", tmp_path / "w.safetensors", **words)


HEAD = "class_name,model_index\n"
LABELS = {
    "nothing": ("l.txt", "", "is empty"),
    "spaces": ("l.txt", " \n \n", "is empty"),
    "a name too few": ("l.txt", "a\nb", "2 lines but the model has 3 outputs"),
    "a name too many": ("l.txt", "a\nb\nc\nd", "4 lines but the model has 3 outputs"),
    "no class of the set": ("l.txt", "x\ny\nz", "none of the 2 classes"),
    "a class at two outputs": ("l.txt", "wren\nWren\nrobin", "fits several lines"),
    "another encoding": ("l.txt", b"r\xf6tel\n", "is not UTF-8"),
    "a web page": ("l.txt", "<!DOCTYPE html>\na\nb", "is a web page"),
    "a Git LFS pointer": ("l.txt", "version https://git-lfs.github.com/spec/v1\n", "git lfs"),
    "a CSV without its head": ("l.csv", "wren,1\n", "starts with class_name,model_index"),
    "a CSV with semicolons": ("l.csv", "class_name;model_index\nwren;1\n", "starts with"),
    "an output beyond the last": ("l.csv", f"{HEAD}wren,3\n", "outputs are 0 to 2"),
    "an output below 0": ("l.csv", f"{HEAD}wren,-1\n", "out of range"),
    "an output that is no number": ("l.csv", f"{HEAD}wren,one\n", "a whole number or empty"),
    "an output of 5000 digits": ("l.csv", f"{HEAD}wren,{DIGITS}\n", r"5000 characters"),
    "an output with a point": ("l.csv", f"{HEAD}wren,1.0\n", "a whole number or empty"),
    "a class of another set": ("l.csv", f"{HEAD}sparrow,1\n", "has no class 'sparrow'"),
    "a class spelt otherwise": ("l.csv", f"{HEAD}wrenn,1\n", "did you mean 'wren'"),
    "a class twice": ("l.csv", f"{HEAD}wren,1\nwren,2\n", "already given in line 2"),
    "three fields": ("l.csv", f"{HEAD}wren,1,2\n", "expected class_name,model_index"),
    "no name": ("l.csv", f"{HEAD},1\n", "expected class_name,model_index"),
    "only its head": ("l.csv", HEAD, "none of the 2 classes"),
    "no class that the model knows": ("l.csv", f"{HEAD}wren,\nrobin,\n", "none of the 2 classes"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels(tmp_path, kind):
    name, text, part = LABELS[kind]
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=part) as error:
        read_labels(tmp_path / name, ("robin", "wren"), 3)
    assert str(tmp_path / name) in str(error.value) and len(str(error.value)) < 1000


# --- boxes and patches ------------------------------------------------------------------------

BOXES = {
    "nothing": ("", "is empty"),
    "no head": ("a.jpg,1,2,3,4\n", "no column"),
    "a column too few": ("name,x0,y0,x1\na.jpg,1,2,3\n", "no column y1"),
    "a field too few": ("name,x0,y0,x1,y1\na.jpg,1,2,3\n", "4 fields where"),
    "a word": ("name,x0,y0,x1,y1\na.jpg,1,2,3,four\n", "y1 must be a number"),
    "infinity": ("name,x0,y0,x1,y1\na.jpg,1,2,3,inf\n", "y1 must be a number"),
    "5000 digits": (f"name,x0,y0,x1,y1\na.jpg,1,2,3,{DIGITS}\n", "y1 must be a number"),
    "an empty box": ("name,x0,y0,x1,y1\na.jpg,1,2,1,4\n", "x0 < x1"),
    "a box twice": ("name,x0,y0,x1,y1\na.jpg,1,2,3,4\na.jpg,1,2,3,4\n", "a second box"),
    "other images": ("name,x0,y0,x1,y1\nz.jpg,1,2,3,4\n", "no box of an image of the data set"),
    "no name": ("name,x0,y0,x1,y1\n,1,2,3,4\n", "name is empty"),
    "only a head": ("name,x0,y0,x1,y1\n", "only its first line"),
}


@pytest.mark.parametrize("kind", BOXES)
def test_boxes_of_a_detector(tmp_path, kind):
    text, part = BOXES[kind]
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(DataError, match=part) as error:
        read_boxes(tmp_path / "b.csv", {"a.jpg"})
    assert str(tmp_path / "b.csv") in str(error.value)


RANKED = "image,rank,x0,y0,x1,y1\n"
PATCHES = {
    "nothing": ("", "no column"),
    "a rank of words": (f"{RANKED}a.jpg,one,1,2,3,4\n", "line 2"),
    "a rank of 5000 digits": (f"{RANKED}a.jpg,{DIGITS},1,2,3,4\n", "line 2"),
    "a rank twice": (f"{RANKED}a.jpg,1,1,2,3,4\na.jpg,1,1,2,3,4\n", "a second patch"),
    "an empty box": (f"{RANKED}a.jpg,1,1,2,1,4\n", "an empty box"),
    "nan": (f"{RANKED}a.jpg,1,nan,2,3,4\n", "not finite"),
    "other images": (f"{RANKED}z.jpg,1,1,2,3,4\n", "no patch of an image"),
    "a field too few": (f"{RANKED}a.jpg,1,1,2,3\n", "5 fields where"),
}


@pytest.mark.parametrize("kind", PATCHES)
def test_patches(tmp_path, kind):
    text, part = PATCHES[kind]
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=part) as error:
        read_patches(tmp_path / "p.csv", {"a.jpg"})
    assert str(tmp_path / "p.csv") in str(error.value)


# --- folders of runs, and the disk ------------------------------------------------------------


def test_a_run_folder_of_something_else(tmp_path, capsys):
    data = images(tmp_path / "data")
    words = ["config=fido_folder", f"data.path={data}", "model.weights=none.safetensors"]
    assert main([*words, f"run_dir={data}"]) == 2
    assert "not the folder of a run" in capsys.readouterr().err
    assert len(list(data.iterdir())) == 3


def test_a_run_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main([DEMO, f"run_dir={tmp_path}/file/run"]) == 2
    assert f"{tmp_path}/file/run" in capsys.readouterr().err


FULL = {
    "as Python tells it": OSError(28, "No space left on device", "somewhere"),
    "as other libraries do": ValueError("INTERNAL: x.bin: No space left on device [errno=28]"),
}


@pytest.mark.parametrize("kind", FULL)
def test_a_disk_that_is_full(tmp_path, capsys, monkeypatch, kind):
    def full(*args):
        raise FULL[kind]

    monkeypatch.setattr(os, "replace", full)
    assert main([DEMO, f"run_dir={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err and "Traceback" not in err


OURS = {
    # a file of a run that has maps, what it holds instead, what is said
    "config.yaml": [("{", "cannot be read"), ("- 1", "cannot be read"), ("3", "cannot be read")],
    "run.json": [
        ("{", "Delete it"),
        ("[]", "Delete it"),
        ("3", "Delete it"),
        ("null", "Delete it"),
        ('{"stages": []}', "Delete it"),
        ("[" * 100000, "Delete it"),
    ],
}


@pytest.mark.parametrize("name, text, part", [(n, *case) for n in OURS for case in OURS[n]])
def test_files_of_a_run(tmp_path, capsys, name, text, part):
    run = tmp_path / "run"
    (run / "maps.zarr").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    (run / "run.json").write_text("{}")
    (run / name).write_text(text)
    small = ("data.size=32", "data.train_images=8", "data.test_images=2", "stages=explain")
    before = (run / "config.yaml").read_text()
    assert main([DEMO, *small, f"run_dir={run}"]) == 2
    err = capsys.readouterr().err
    assert name in err and part in err and "Traceback" not in err and len(err) < 2000
    assert (run / "config.yaml").read_text() == before


def test_training_images_that_cannot_be_read(tmp_path, capsys):
    for name in ("robin", "wren"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "data" / name / f"{i}.jpg").write_text("no image")
    assert main(["config=fido_folder", f"data.path={tmp_path}/data", "data.size=32",
                 f"run_dir={tmp_path / 'run'}", "model.pretrained=null"]) == 2  # fmt: skip
    assert "too few training images that can be read" in capsys.readouterr().err
    assert "robin" in (tmp_path / "run" / "failures.csv").read_text()


# --- from Python ------------------------------------------------------------------------------


def linear(images):
    return images.mean((1, 2))


IMAGES = np.full((2, 8, 8, 3), 0.5, np.float32)
PYTHON = {
    "a setting as a keyword": (dict(steps=3), TypeError, r"config=fgjax\.FidoConfig\(steps=3\)"),
    "a setting of others": (dict(masks=3), TypeError, "takes no 'masks'"),
    "a setting misspelt": (dict(step=3), TypeError, "Did you mean steps"),
    "images of PyTorch": (dict(images=IMAGES.transpose(0, 3, 1, 2)), ValueError, "jnp.transpose"),
    "bytes": (dict(images=IMAGES * 500), ValueError, "Divide them by 255"),
    "normalised": (dict(images=IMAGES - 2), ValueError, "Normalisation belongs to the model"),
    "a class that is none": (dict(targets=np.array([0, 3])), ValueError, "0 to 2"),
}


@pytest.mark.parametrize("kind", PYTHON)
def test_from_python(kind, key):
    words, error, part = PYTHON[kind]
    given = dict(images=IMAGES, targets=np.array([0, 1], np.int32), key=key)
    given |= words
    images, targets = given.pop("images"), given.pop("targets")
    with pytest.raises(error, match=part):
        fgjax.fido(jax.tree_util.Partial(linear), images, targets, **given)


SHAPES = {
    # Under pytest their types are checked before: what they themselves say is asked here.
    "one image": (IMAGES[0], r"images\[None\]"),
    "no image": (IMAGES[:0], "n > 0"),
    "images of PyTorch": (IMAGES.transpose(0, 3, 1, 2), r"transpose\(images, \(0, 2, 3, 1\)\)"),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_of_images(kind):
    images, part = SHAPES[kind]
    with pytest.raises(ValueError, match=part):
        inspect.unwrap(check_images)(images)


def test_the_tables_are_long():
    ours = [case for cases in OURS.values() for case in cases]
    tables = [COMMAND, CONFIGS, FOLDERS, CUB, FILES, PLACES, MASKS, WEIGHTS, LABELS, BOXES, PATCHES,
              ours, PYTHON, SHAPES]  # fmt: skip
    assert sum(map(len, tables)) >= 200

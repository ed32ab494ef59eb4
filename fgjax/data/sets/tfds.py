"""Any image set of TensorFlow Datasets that lies prepared as ArrayRecord files.

Needs `pip install fgjax[tfds]`; TensorFlow itself only to prepare a set.
"""

import importlib.util
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from fgjax.data.fit import Fit
from fgjax.data.registry import DataSet
from fgjax.data.types import DataError, Example, Record, Split

HOME = (
    "wanted: the folder with prepared TensorFlow Datasets (without one: TFDS_DATA_DIR, "
    "else ~/tensorflow_datasets); the sets are listed at "
    "https://www.tensorflow.org/datasets/catalog/overview#image_classification"
)
_NAME = re.compile(r"(?P<set>\w+)(/(?P<config>[\w.\-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_DIRECT = {
    "caltech_birds2011": "cub",
    "stanford_dogs": "dogs",
    "cars196": "cars",
    "celeb_a": "celeba",
}
_FILE_NAMES = ("image/filename", "file_name", "filename")


class TfdsSource:
    """A set of TensorFlow Datasets, read without TensorFlow.

        <data_dir>/<name>[/<config>]/<version>/dataset_info.json, features.json
        <data_dir>/<name>[/<config>]/<version>/*.array_record-00000-of-00001

    A set that does not lie there is downloaded and prepared when TensorFlow is
    installed, else the error says at once how to prepare it: nothing is asked of the
    network. Of the features these are used:
    - `image`;
    - `label`, a ClassLabel with its names: without one there are no classes;
    - `bbox`, or the smallest box around all of `objects/bbox`: ymin xmin ymax xmax as
      shares of the image become pixels;
    - `segmentation_mask`: 128 and above is object. One that is not black but has no
      such pixel (numbered regions, as of Oxford-IIIT Pet) is no object mask and is
      left out.

    Record names are `train/<file name>` where the set gives every image of a split a
    file name of its own, else `train/000012`.

    Args:
      name: as TFDS writes it: "stanford_dogs", "stanford_dogs:0.2.0", "set/config".
        Without a version the newest that lies there is read.
      data_dir: the folder of prepared sets; None: TFDS_DATA_DIR, else
        ~/tensorflow_datasets.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.
      splits: which TFDS splits are "train" and which "test", such as
        {"train[:80%]": "train", "train[80%:]": "test"}. None: "test" (where there is
        none: "validation") is test, "train" and otherwise "validation" train.

    Raises:
      DataError: the extra is not installed; the set is not prepared and cannot be; it
        is prepared in another file format; it has no images, no split of that name,
        or none to take.
    """

    classes: tuple[str, ...]
    landmark_names: tuple[str, ...] = ()
    records: tuple[Record, ...]

    def __init__(
        self,
        name: str,
        data_dir: str | Path | None = None,
        size: int = 224,
        crop: float = 0.875,
        splits: Mapping[str, Split] | None = None,
    ):
        self.fit = Fit(size, crop)
        data_dir = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
        tfds = _import(name)
        folder = _find_prepared(name, data_dir.expanduser())
        if folder is None:
            folder = _prepare(name, data_dir.expanduser())
        builder = tfds.builder_from_directory(folder)
        features = dict(builder.info.features.items())
        if not isinstance(features.get("image"), tfds.features.Image):
            raise DataError(f"{folder}: the set has no feature image, only {', '.join(features)}")
        labelled = isinstance(features.get("label"), tfds.features.ClassLabel)
        self.classes = tuple(features["label"].names) if labelled else ()

        # Images stay encoded until `load` needs them; Pillow decodes.
        images = [key for key, f in features.items() if isinstance(f, tfds.features.Image)]
        decoders = {key: tfds.decode.SkipDecoding() for key in images}
        self._places: dict[str, tuple[Any, int]] = {}
        records = []
        for part, split in (splits or _default_splits(folder, builder.info.splits)).items():
            try:
                examples = builder.as_data_source(part, decoders=decoders)
            except ValueError as error:
                has = ", ".join(builder.info.splits)
                raise DataError(f"{folder}: no split {part!r}; it has {has}") from error
            labels, files = _read_index(examples, labelled)
            for i, (label, file) in enumerate(zip(labels, files, strict=True)):
                records.append(Record(f"{part}/{file}", label, split))
                self._places[records[-1].name] = examples, i
        self.records = tuple(records)

    def load(self, record: Record) -> Example:
        """Read, decodes and fits one image with its box and mask where it has them."""
        examples, i = self._places[record.name]
        example = examples[i]
        try:
            image = _decode(example["image"], "RGB")
            shape = image.shape[:2]
            mask = _object_mask(example.get("segmentation_mask"), shape)
        except Exception as error:  # decoders raise anything on damaged bytes
            message = f"{record.name}: cannot be decoded ({error}); prepare the set anew"
            raise DataError(message) from error
        box = _box(example, shape)
        return Example(
            image=self.fit.image(image),
            label=record.label,
            box=None if box is None else self.fit.box(box, shape),
            mask=None if mask is None else self.fit.mask(mask),
            shape=shape,
        )


def _import(name: str):
    # array_record and importlib_resources are needed, but tensorflow_datasets does not
    # ask for them: without them reading fails much later, and in riddles.
    needed = ("tensorflow_datasets", "array_record", "importlib_resources")
    missing = [module for module in needed if importlib.util.find_spec(module) is None]
    if missing:
        raise DataError(f"{name}: reading it needs {', '.join(missing)}: pip install 'fgjax[tfds]'")
    import tensorflow_datasets

    return tensorflow_datasets


def _find_prepared(name: str, data_dir: Path) -> Path | None:
    """Return the folder of the set's version; None when it is not prepared.

    Looks on the disk only: the builders of TFDS ask the network, and retry for minutes.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise DataError(f"{name!r} is no name of TensorFlow Datasets: set, set/config or set:1.0.0")
    base = data_dir / match["set"] / (match["config"] or "")
    versions = {
        tuple(map(int, info.parent.name.split("."))): info.parent
        for info in base.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    }
    if match["version"]:
        folder = versions.get(tuple(map(int, match["version"].split("."))))
    else:
        folder = versions[max(versions)] if versions else None
    if folder is None:
        configs = sorted({path.parent.parent.name for path in base.glob("*/*/dataset_info.json")})
        if configs and not match["config"]:
            raise DataError(f"{base}: say which config, such as {name}/{configs[0]}")
        return None
    if not any(folder.glob("*array_record*")):
        file_format = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat")
        raise DataError(
            f"{folder}: is prepared as {file_format}, which cannot be read at random; "
            f"move it away and prepare it as array_record. {_cure(name, data_dir)}"
        )
    return folder


def _prepare(name: str, data_dir: Path) -> Path:
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"{data_dir}: holds no prepared {name}, and preparing it needs TensorFlow, which is "
            f"not installed. {_cure(name, data_dir)}"
        )
    import tensorflow_datasets

    builder = tensorflow_datasets.builder(name, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def _cure(name: str, data_dir: Path) -> str:
    direct = _DIRECT.get(name.split(":")[0])
    return (
        "Where TensorFlow is installed (another machine will do; copy the folder): "
        f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', "
        f"data_dir='{data_dir}', file_format='array_record').download_and_prepare()\"; "
        + (
            f"or the source {direct!r} reads the authors' own files without TFDS; "
            if direct
            else ""
        )
        + HOME
    )


def _default_splits(folder: Path, present: Mapping[str, Any]) -> dict[str, Split]:
    tests = [part for part in ("test", "validation") if part in present][:1]
    trains = [part for part in ("train", "validation") if part in present and part not in tests]
    if not tests + trains:
        raise DataError(
            f"{folder}: no split train, validation or test, but {', '.join(present)}; say which "
            "is which with splits"
        )
    return {part: "test" if part in tests else "train" for part in trains + tests}


def _read_index(examples, labelled: bool) -> tuple[list[int | None], list[str]]:
    """Return the label and the name of each example; the images are passed over."""
    labels: list[int | None] = []
    files = []
    for i in range(len(examples)):
        example = examples[i]
        label = int(example["label"]) if labelled else -1
        labels.append(None if label < 0 else label)  # TFDS: -1 where a label is withheld
        files.append(next((example[key] for key in _FILE_NAMES if key in example), b""))
    if len(set(files)) < len(files) or b"" in files:
        return labels, [f"{i:06d}" for i in range(len(files))]
    return labels, [file.decode() if isinstance(file, bytes) else file for file in files]


def _decode(encoded: bytes, mode: str) -> UInt8[np.ndarray, "h w *c"]:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.array(image.convert(mode))


def _object_mask(encoded: bytes | None, shape: tuple[int, int]) -> Bool[np.ndarray, "h w"] | None:
    if encoded is None:
        return None
    values = _decode(encoded, "L")
    if values.shape != shape or 0 < values.max() < 128:
        return None
    return values >= 128


def _box(example: dict, shape: tuple[int, int]) -> Float[np.ndarray, "4"] | None:
    if "bbox" in example:
        boxes = np.asarray(example["bbox"], np.float64).reshape(1, 4)
    elif isinstance(example.get("objects"), dict) and len(example["objects"].get("bbox", ())):
        boxes = np.asarray(example["objects"]["bbox"], np.float64).reshape(-1, 4)
    else:
        return None
    (y0, x0), (y1, x1) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    height, width = shape
    return np.array([x0 * width, y0 * height, x1 * width, y1 * height])


TFDS = DataSet(
    "tfds",
    TfdsSource,
    HOME,
    options={"name": "data.name", "data_dir": "data.path"},
    wants={"data.name": "wanted: the set's name, such as caltech_birds2011"},
    order=140,
)

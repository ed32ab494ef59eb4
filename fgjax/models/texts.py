"""The embeddings of the classes' texts, which an image tower's features are compared with."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open


def read_texts(path: str | Path) -> tuple[Float[np.ndarray, "k e"], tuple[str, ...]]:
    """Return an embedding for each class, and the classes' names where the file has them.

    They are made once with the text tower, for example by open_clip:
    `model.encode_text(tokenizer([f"a photo of {name}." for name in names]))`.

    Args:
      path: an .npz or .safetensors file with `embeddings`, a row for each class, or an .npy file
        that is that array. Names are the .npz's `classes`, or the safetensors file's metadata
        `classes`, a list in JSON. Rows need not be normalised.

    Raises:
      ValueError: the file cannot be read, or holds something else; with what is wanted.
    """
    path = Path(path)
    wanted = "wanted: an .npz or .safetensors file with embeddings (k e) and classes, or an .npy"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {wanted}")
    try:
        embeddings, classes = _read(path)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        # NumPy takes any other file for a pickled one, and would have it opened as that.
        reason = "it holds no plain arrays" if "pickle" in str(error) else error
        raise ValueError(f"{path}: no embeddings can be read ({reason}); {wanted}") from None
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.floating):
        raise ValueError(
            f"{path}: embeddings are {embeddings.dtype} of shape {embeddings.shape}, not a row of "
            "numbers for each class"
        )
    embeddings = embeddings.astype(np.float32)
    if not np.isfinite(embeddings).all() or (np.linalg.norm(embeddings, axis=1) == 0).any():
        raise ValueError(f"{path}: an embedding is zero, NaN or infinite")
    names = tuple(map(str, classes))
    if names and len(names) != len(embeddings):
        raise ValueError(f"{path}: {len(names)} classes, {len(embeddings)} embeddings")
    return embeddings, names


def _read(path: Path) -> tuple[np.ndarray, list[str]]:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            return file.get_tensor("embeddings"), json.loads(metadata.get("classes", "[]"))
    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found, []
    with found:
        return found["embeddings"], list(found["classes"]) if "classes" in found else []

"""Files of weights: where they are, on the disk or on the Hugging Face hub, and what is in them.

Nothing is pickled.
"""

import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from fgjax.core.extras import extra
from fgjax.core.sniff import sniff_file

_CONVERT = (
    ". It is not opened, since reading it may run code. Where you trust it: python -c "
    "\"import torch, safetensors.torch as s; s.save_file(torch.load('FILE', weights_only=True), "
    "'FILE.safetensors')\""
)


def find_weights(source: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return a local safetensors file for `source`, and what the hub says of it.

    Args:
      source: a file (a `config.json` of timm's beside it counts), or a Hugging Face hub id
        `owner/name` whose `model.safetensors` (and `config.json`, where there is one) is fetched,
        or taken from the hub's cache.

    Raises:
      ValueError: there is no such file, or the hub cannot be reached or has no such model.
    """
    path = Path(source)
    if path.is_file():
        return path, _beside(path)
    if path.is_dir():
        raise ValueError(f"{source}: is a folder; give the .safetensors file in it")
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*/[\w.-]+", str(source)) or path.suffix == ".safetensors":
        raise ValueError(f"{source}: no such file")
    return _from_hub(str(source))


def _beside(path: Path) -> dict[str, Any]:
    """Return what a config.json of timm's beside a file says; nothing where there is none."""
    try:
        held = json.loads(path.with_name("config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) and "pretrained_cfg" in held else {}


def _from_hub(name: str) -> tuple[Path, dict[str, Any]]:
    with extra("hub", f"{name}: a model of the Hugging Face hub"):  # slow to import
        from huggingface_hub import (
            get_hf_file_metadata,
            hf_hub_download,
            hf_hub_url,
            try_to_load_from_cache,
        )
        from huggingface_hub.errors import HfHubHTTPError

    weights = try_to_load_from_cache(name, "model.safetensors")
    if not isinstance(weights, str):
        try:
            # Asked first because a download without a network is tried for half a minute.
            get_hf_file_metadata(hf_hub_url(name, "model.safetensors"), timeout=5)
            weights = hf_hub_download(name, "model.safetensors")
        except (HfHubHTTPError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{name}: not to be had from the hub: {first}") from None
        except Exception as error:  # whatever the HTTP library of this version raises
            raise ValueError(
                f"{name}: no such file, and the Hugging Face hub cannot be reached from here "
                f"({type(error).__name__}). Fetch its model.safetensors elsewhere and give the file"
            ) from None
    about = try_to_load_from_cache(name, "config.json")
    try:
        about = about if isinstance(about, str) else hf_hub_download(name, "config.json")
        return Path(weights), json.loads(Path(about).read_text("utf-8"))
    except Exception:  # a model without one, or no network any more: the weights are enough
        return Path(weights), {}


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return all tensors of a safetensors file, as float32, and its metadata.

    Raises:
      ValueError: no such file, or not a safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        if what := sniff_file(path):
            raise ValueError(f"{path}: {what}{_CONVERT if 'PyTorch' in what else ''}") from None
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}). "
            "Other formats are not opened: convert with safetensors.torch.save_file"
        ) from None
    return {
        name: tensor.astype(np.float32) if jnp.issubdtype(tensor.dtype, jnp.floating) else tensor
        for name, tensor in tensors.items()
    }, metadata

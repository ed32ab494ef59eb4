"""Our networks of real size against timm's: the largest difference of logits, and of gradients.

Random weights and statistics go through a safetensors file, at the network's own image size and at
another one. Prints a Markdown table; `--out FILE` keeps the numbers as they come, and the same
command goes on.

    pip install "fgjax[parity]"
    python benchmarks/network_parity.py [--gradients] [--out FILE] [NAME …]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from safetensors.numpy import save_file

import fgjax

CLASSES = 7
NAMES = """
    vit_tiny_patch16_224 vit_small_patch16_224 vit_base_patch16_224 vit_large_patch14_224
    vit_base_patch16_siglip_gap_224 vit_base_patch16_reg4_gap_256
    vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2 vit_base_patch14_dinov2
    vit_small_patch16_dinov3 vit_small_plus_patch16_dinov3 vit_base_patch16_dinov3
    vit_base_patch32_clip_224 vit_base_patch16_clip_224 vit_base_patch16_clip_quickgelu_224
    vit_large_patch14_clip_224
    convnext_tiny convnext_small convnext_base convnextv2_atto convnextv2_nano convnextv2_tiny
    swin_tiny_patch4_window7_224 swin_small_patch4_window7_224 swin_base_patch4_window7_224
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
    tf_efficientnet_b0 resnet50d resnext50_32x4d
""".split()


def import_timm():
    """Return timm, also where torchvision's compiled operators are missing."""
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:  # they are there
            pass
    import timm

    return timm


def random_network(timm, name: str, **options):
    """Return timm's network with random weights that hide nothing behind a 0 or 1."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES, **options).eval()
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if "gamma" in key:
                tensor.uniform_(0.3, 1)
            elif tensor.ndim == 1:
                tensor.copy_(float(key.endswith("weight")) + 0.1 * torch.randn_like(tensor))
            elif key.endswith(("head.weight", "fc.weight")):
                tensor.normal_(0, 0.1)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model


def compare(timm, name: str, gradients: bool) -> list[dict]:
    """Return the relative differences at both sizes."""
    dynamic = {"dynamic_img_size": True} if name.startswith("vit_") else {}
    theirs = random_network(timm, name, **dynamic)
    tensors = {key: value.numpy().copy() for key, value in theirs.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(tensors, path)
        ours = fgjax.load_pretrained(name, path, say=lambda _: None)
    rows = []
    for size in (ours.size, ours.size + 2 * getattr(ours.network, "patch", 32)):
        began = time.monotonic()
        if name.startswith("swin") and size != ours.size:
            theirs = timm.create_model(name, num_classes=CLASSES, img_size=size).eval()
            theirs.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
        x = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype(np.float32)
        images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_(gradients)
        with torch.set_grad_enabled(gradients):
            logits = theirs(images)
        expected = logits.detach().numpy()
        apply = jax.jit(lambda variables, x: ours.network.apply(variables, x))
        found = np.asarray(apply(ours.variables, x))
        row = {
            "network": name,
            "size": size,
            "logits": float(np.abs(found - expected).max() / np.abs(expected).max()),
        }
        if gradients:
            logits[:, 3].sum().backward()
            expected = images.grad.numpy().transpose(0, 2, 3, 1)
            total = lambda x, variables: ours.network.apply(variables, x)[:, 3].sum()
            found = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(x), ours.variables))
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            row["gradient"] = float(error)
        rows.append(row)
        cells = [name, str(size), *(f"{row[key]:.1e}" for key in list(row)[2:])]
        print(f"| {' | '.join(cells)} |  <!-- {time.monotonic() - began:.0f} s -->", flush=True)
    return rows


def main() -> None:
    """Compare the networks named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {' '.join(NAMES)}")
    parser.add_argument("--gradients", action="store_true", help="by the image, too")
    parser.add_argument("--out", type=Path, help="write the numbers there, as JSON")
    given = parser.parse_args()
    timm = import_timm()
    kinds = ["logits", "gradient"] if given.gradients else ["logits"]
    print(f"| network | size | {' | '.join(kinds)} |\n|{'---|' * (2 + len(kinds))}")
    about = {"jax": jax.__version__, "torch": torch.__version__, "timm": timm.__version__}
    rows = []
    if given.out and given.out.is_file():
        kept = json.loads(given.out.read_text(encoding="utf-8"))
        rows = kept["rows"] if kept["versions"] == about else []
    for name in given.names or NAMES:
        if any(row["network"] == name for row in rows):
            continue
        rows += compare(timm, name, given.gradients)
        if given.out:
            given.out.write_text(json.dumps({"versions": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

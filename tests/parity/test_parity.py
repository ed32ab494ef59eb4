"""Our networks against torchvision's and timm's: each tensor in its place, the same weights the
same logits and gradients.

Names and shapes are compared for every network, without computing. Values once for each kind of
network, its smallest, at the smallest image that it takes; weights are random and so are the batch
statistics, so that nothing hides behind a 0 or 1. Needs the extra `parity`; see the README on how
to install it.
"""

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

import fgjax
from fgjax.models import pretrained

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install "fgjax[parity]"')

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

CLASSES = 7
NETWORKS = [
    "resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "vgg19", "vgg16_bn", "vgg19_bn",
    "inception_v3", "mobilenet_v2",
]  # fmt: skip
OTHERWISE = {("timm", "mobilenet_v2"): "mobilenetv2_100"}


def make(library: str, name: str, **options):
    """A PyTorch network in evaluation mode."""
    if library == "timm":
        name = OTHERWISE.get((library, name), name)
        return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options).eval()
    if name == "inception_v3":
        options |= {"aux_logits": True, "init_weights": False}
    return getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **options).eval()


def random_model(library: str, name: str, **options):
    """With random weights and batch statistics."""
    with torch.device("meta"):
        model = make(library, name, **options)
    model = model.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                limit = (6 / module.weight[0].numel()) ** 0.5
                module.weight.uniform_(-limit, limit)
                if module.bias is not None:
                    module.bias.uniform_(-0.1, 0.1)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.7, 1.3)
                module.bias.normal_(0, 0.1)
    return model


def tensors_of(model) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in model.state_dict().items() if "num_batches" not in k}


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_every_tensor_has_its_place(library, monkeypatch):
    """Each is filled with its number in the library's order: ours have the shapes they should,
    and layers that are alike but for their numbers hold them in that order."""
    monkeypatch.setattr(pretrained, "find_weights", lambda source: (Path(source), {}))
    # Hundreds of MB that stand for one number each are not copied.
    monkeypatch.setattr(pretrained, "jnp", SimpleNamespace(asarray=lambda tensor: tensor))
    for name in NETWORKS:
        with torch.device("meta"):
            theirs = make(library, name).state_dict()
        numbered = {
            tensor: np.broadcast_to(np.float32(i), tuple(value.shape))
            for i, (tensor, value) in enumerate(theirs.items())
        }
        monkeypatch.setattr(pretrained, "read_safetensors", lambda path, n=numbered: (n, {}))
        found = fgjax.load_pretrained(name, "any.safetensors").variables
        expected = jax.eval_shape(lambda n=name: fgjax.create_model(n, CLASSES)).variables
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, expected)
        orders = {}
        for path, value in traverse_util.flatten_dict(found, sep="/").items():
            digits = tuple(map(int, re.findall(r"\d+", path)))
            orders.setdefault(re.sub(r"\d+", "#", path), {})[digits] = value.flat[0]
        numbers = [n for order in orders.values() for n in order.values()]
        assert len(set(numbers)) == len(numbers)
        for kind, order in orders.items():
            assert [order[d] for d in sorted(order)] == sorted(order.values()), (name, kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "name", "size"),
    [
        ("torchvision", "resnet18", 64),
        ("timm", "resnet50", 64),
        ("timm", "vgg16", 64),  # dense layers are convolutions in timm's, and flat in torchvision's
        ("torchvision", "vgg16_bn", 64),
        ("timm", "inception_v3", 75),
        ("torchvision", "mobilenet_v2", 64),
    ],
)
def test_logits_and_gradients_to_the_input_agree(library, name, size, monkeypatch):
    theirs = random_model(library, name)
    # The file itself is read in tests/models/test_pretrained.py, and below.
    monkeypatch.setattr(pretrained, "find_weights", lambda source: (Path(source), {}))
    monkeypatch.setattr(pretrained, "read_safetensors", lambda path: (tensors_of(theirs), {}))
    model = fgjax.load_pretrained(name, "any.safetensors")
    images = np.random.default_rng(0).uniform(size=(2, size, size, 3)).astype(np.float32)
    normal = np.asarray(model.normalise(jnp.asarray(images)))
    x = torch.from_numpy(normal.transpose(0, 3, 1, 2).copy()).requires_grad_()
    expected = theirs(x)
    expected[:, 3].sum().backward()
    expected, by_image = expected.detach().numpy(), x.grad.numpy().transpose(0, 2, 3, 1)

    @jax.jit
    def ours(variables, x):
        def total(x):
            logits = model.network.apply(variables, x)
            return logits[:, 3].sum(), logits

        return jax.grad(total, has_aux=True)(x)

    gradient, logits = ours(model.variables, normal)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    # A unit whose input is within rounding of 0 is open on one side and shut on the other,
    # which changes the gradient in its whole field: hence the norm, and not every pixel.
    error = np.linalg.norm(np.asarray(gradient) - by_image) / np.linalg.norm(by_image)
    print(f"logits up to {np.abs(expected).max():.2g}, gradients differ by {error:.1e}")
    assert error < 0.03


@pytest.mark.slow
def test_the_small_form_of_same_padding_is_timms(tmp_path):
    """The metadata's `padding: same` is TensorFlow's padding, as timm's pad_type='same'."""
    theirs = random_model("timm", "mobilenet_v2", pad_type="same")
    path = tmp_path / "same.safetensors"
    tensors = {k: v.numpy().copy() for k, v in theirs.state_dict().items()}
    metadata = {"padding": "same", "architecture": "mobilenetv2_100"}
    save_file(tensors, path, metadata=metadata)
    model = fgjax.load_pretrained(None, path)
    images = np.random.default_rng(0).uniform(size=(1, 64, 64, 3)).astype(np.float32)
    normal = np.asarray(model.normalise(jnp.asarray(images)))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(normal.transpose(0, 3, 1, 2).copy())).numpy()
    logits = jax.jit(lambda m, x: m(x))(model, images)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())

"""Our networks against torchvision's and timm's: the same weights give the same logits.

Weights are random and so are the batch statistics, so that nothing hides behind a 0 or 1.
Needs the extra `parity`; see the README on how to install it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import fgjax

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install "fgjax[parity]"')

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

SIZES = {"vgg": 224, "inc": 139, "res": 96, "mob": 96}
ARCHITECTURES = [
    ("resnet18", "torchvision", "resnet18"),
    ("resnet34", "torchvision", "resnet34"),
    ("resnet50", "torchvision", "resnet50"),
    ("resnet101", "torchvision", "resnet101"),
    ("vgg16", "torchvision", "vgg16"),
    ("vgg19", "torchvision", "vgg19"),
    ("vgg16_bn", "torchvision", "vgg16_bn"),
    ("vgg19_bn", "torchvision", "vgg19_bn"),
    ("inception_v3", "torchvision", "inception_v3"),
    ("mobilenet_v2", "torchvision", "mobilenet_v2"),
    ("resnet18", "timm", "resnet18"),
    ("resnet34", "timm", "resnet34"),
    ("resnet50", "timm", "resnet50"),
    ("resnet101", "timm", "resnet101"),
    ("vgg16", "timm", "vgg16"),
    ("vgg19", "timm", "vgg19"),
    ("vgg16_bn", "timm", "vgg16_bn"),
    ("vgg19_bn", "timm", "vgg19_bn"),
    ("inception_v3", "timm", "inception_v3"),
    ("mobilenet_v2", "timm", "mobilenetv2_100"),
]


def random_model(library: str, name: str, classes: int = 7):
    """A PyTorch network in evaluation mode with random weights and batch statistics."""
    torch.manual_seed(0)
    if library == "timm":
        model = timm.create_model(name, pretrained=False, num_classes=classes)
    else:
        extra = {"aux_logits": True, "init_weights": False} if name == "inception_v3" else {}
        model = getattr(torchvision.models, name)(weights=None, num_classes=classes, **extra)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.7, 1.3)
            module.bias.data.normal_(0, 0.1)
    return model.eval()


def both(tmp_path, ours: str, library: str, theirs: str):
    """The PyTorch network, and ours with its weights, through a safetensors file."""
    model = random_model(library, theirs)
    path = tmp_path / "weights.safetensors"
    tensors = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    save_file(tensors, path)
    return model, fgjax.load_pretrained(ours, path)


@pytest.mark.slow
@pytest.mark.parametrize(("ours", "library", "theirs"), ARCHITECTURES)
def test_logits_agree(tmp_path, ours, library, theirs):
    theirs_model, model = both(tmp_path, ours, library, theirs)
    size = SIZES[ours[:3]]
    images = np.random.default_rng(0).uniform(size=(2, size, size, 3)).astype(np.float32)
    normal = np.asarray(model.normalise(jnp.asarray(images)))
    with torch.no_grad():
        expected = theirs_model(torch.from_numpy(normal.transpose(0, 3, 1, 2).copy())).numpy()
    logits = np.asarray(jax.jit(lambda m, x: m(x))(model, images))
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "library", "theirs"),
    [
        ("resnet18", "torchvision", "resnet18"),
        ("resnet50", "timm", "resnet50"),
        ("vgg16_bn", "torchvision", "vgg16_bn"),
        ("inception_v3", "timm", "inception_v3"),
        ("mobilenet_v2", "torchvision", "mobilenet_v2"),
    ],
)
def test_gradients_to_the_input_agree(tmp_path, ours, library, theirs):
    theirs_model, model = both(tmp_path, ours, library, theirs)
    size = SIZES[ours[:3]]
    images = np.random.default_rng(1).uniform(size=(1, size, size, 3)).astype(np.float32)
    normal = np.asarray(model.normalise(jnp.asarray(images)))
    x = torch.from_numpy(normal.transpose(0, 3, 1, 2).copy()).requires_grad_()
    theirs_model(x)[:, 3].sum().backward()
    expected = x.grad.numpy().transpose(0, 2, 3, 1)
    network, variables = model.network, model.variables
    gradient = jax.jit(jax.grad(lambda x: network.apply(variables, x)[:, 3].sum()))(normal)
    # A unit whose input is within rounding of 0 is open on one side and shut on the other,
    # which changes the gradient in its whole field: hence the norm, and not every pixel.
    error = np.linalg.norm(np.asarray(gradient) - expected) / np.linalg.norm(expected)
    assert error < 0.03


@pytest.mark.slow
def test_the_small_form_of_same_padding_is_timms(tmp_path):
    """The metadata's `padding: same` is TensorFlow's padding, as timm's pad_type='same'."""
    torch.manual_seed(0)
    theirs = timm.create_model("mobilenetv2_100", pad_type="same", num_classes=5).eval()
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
    np.testing.assert_allclose(logits, expected, atol=1e-4)

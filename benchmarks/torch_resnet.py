"""A plain ResNet in PyTorch, and the same random weights as an fgjax classifier."""

import tempfile
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import fgjax
from fgjax.models.pretrained_trunk import load_trunk

try:
    import torch
    from torch import nn
except ImportError:
    torch = None

DEPTHS = {
    "resnet_tiny": (1, 1, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}
CLASSES = 200

# Parameter names are torchvision's.

if torch:

    class Block(nn.Module):
        """Two 3x3 convolutions or a 1x1-3x3-1x1 bottleneck, around a shortcut."""

        def __init__(self, inputs, features, stride, bottleneck):
            super().__init__()
            out = features * (4 if bottleneck else 1)
            kernels = (1, 3, 1) if bottleneck else (3, 3)
            self.depth = len(kernels)
            for i, kernel in enumerate(kernels):
                width = out if i == self.depth - 1 else features
                step = stride if i == (1 if bottleneck else 0) else 1
                conv = nn.Conv2d(inputs if i == 0 else features, width, kernel, step, kernel // 2,
                                 bias=False)  # fmt: skip
                setattr(self, f"conv{i + 1}", conv)
                setattr(self, f"bn{i + 1}", nn.BatchNorm2d(width))
            self.relu = nn.ReLU(inplace=True)  # a module, so that methods can exchange it
            self.downsample = None
            if stride != 1 or inputs != out:
                conv = nn.Conv2d(inputs, out, 1, stride, bias=False)
                self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))

        def forward(self, x):
            y = x
            for i in range(1, self.depth + 1):
                y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
                y = self.relu(y) if i < self.depth else y
            return self.relu(y + (x if self.downsample is None else self.downsample(x)))

    class TorchResNet(nn.Module):
        """ResNet on images in [0, 1], NCHW."""

        def __init__(self, name, num_classes=CLASSES):
            super().__init__()
            bottleneck, tiny = name == "resnet50", name == "resnet_tiny"
            width, stem = (16, 3) if tiny else (64, 7)
            self.conv1 = nn.Conv2d(3, width, stem, 2, stem // 2, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.relu = nn.ReLU(inplace=True)
            self.maxpool = nn.Identity() if tiny else nn.MaxPool2d(3, 2, 1)
            inputs = width
            for stage, depth in enumerate(DEPTHS[name]):
                blocks = []
                for i in range(depth):
                    stride = 2 if stage and i == 0 else 1
                    blocks.append(Block(inputs, width * 2**stage, stride, bottleneck))
                    inputs = width * 2**stage * (4 if bottleneck else 1)
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.fc = nn.Linear(inputs, num_classes)
            mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
            self.register_buffer("mean", mean[:, None, None], persistent=False)
            self.register_buffer("std", std[:, None, None], persistent=False)

        def trunk(self, x):
            """Return the map after the third stage, which region grouping groups."""
            x = self.maxpool(self.relu(self.bn1(self.conv1((x - self.mean) / self.std))))
            return self.layer3(self.layer2(self.layer1(x)))

        def features(self, x):
            """Return the last map."""
            return self.layer4(self.trunk(x))

        def head(self, features):
            """Return logits of the last map."""
            return self.fc(features.mean((2, 3)))

        def forward(self, x):
            return self.head(self.features(x))

    class Normalise(nn.Module):
        """Images in [0, 1] -> what a network takes."""

        def __init__(self, mean, std):
            super().__init__()
            for key, value in (("mean", mean), ("std", std)):
                self.register_buffer(key, torch.tensor(value)[:, None, None], persistent=False)

        def forward(self, x):
            return (x - self.mean) / self.std

    def torch_model(name, seed=0):
        """Random weights, with batch statistics and scales that differ from layer to layer:
        a mix-up between two layers would show."""
        torch.manual_seed(seed)
        model = TorchResNet(name)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.4, 0.8)
                nn.init.normal_(module.bias, 0, 0.1)
                nn.init.normal_(module.running_mean, 0, 0.1)
                nn.init.uniform_(module.running_var, 0.6, 1.4)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)


@contextmanager
def saved_weights(model):
    """Yield the path of a file that holds the network's weights."""
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, path)
        yield path


def load_timm(name, size):
    """Return the same random weights as timm's network, behind a normalisation, and as fgjax's."""
    from network_parity import import_timm

    torch.manual_seed(0)
    options = {"img_size": size} if name.startswith(("vit_", "swin_")) else {}
    network = import_timm().create_model(name, num_classes=CLASSES, **options)
    with saved_weights(network) as path:
        ours = fgjax.load_pretrained(name, path, size=size, say=lambda text: None)
    parts = OrderedDict(normalise=Normalise(ours.mean, ours.std), network=network)
    theirs = nn.Sequential(parts).requires_grad_(False).eval()
    return ours, theirs.to(memory_format=torch.channels_last)


def load_both(name, size):
    """Return the same random weights as an fgjax classifier and as a PyTorch model: our own for
    some ResNets, timm's for the other networks."""
    if name not in DEPTHS:
        return load_timm(name, size)
    theirs = torch_model(name)
    with saved_weights(theirs) as path:
        return fgjax.load_pretrained(name, path, size=size), theirs


def load_region_grouping(theirs, **options):
    """fgjax's region grouping network with the trunk of a PyTorch ResNet."""
    with saved_weights(theirs) as path:
        return load_trunk("region_grouping", path, CLASSES, say=lambda text: None, **options)

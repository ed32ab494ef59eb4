"""A training step of region grouping: parts, their attention, and the prior on their occurrence."""

import copy

import numpy as np
from flax import traverse_util
from torch_resnet import CLASSES, load_region_grouping, torch

import fgjax
from fgjax.models.registry import NETWORKS
from fgjax.training.objectives.part_objective import PartObjective
from fgjax.training.objectives.part_occurrence import prior_quantiles
from torch_methods.case import Case, Setup, to_torch
from torch_methods.training import make_case, our_training, torch_training

PARTS = 5

if torch:
    from torch import nn
    from torch.nn import functional as F

    class PointBlock(nn.Module):
        """Three 1x1 convolutions around a shortcut, on `n d k 1`."""

        def __init__(self, inputs, width):
            super().__init__()
            sizes = (inputs, width, width, 4 * width)
            for i in (1, 2, 3):
                setattr(self, f"conv{i}", nn.Conv2d(sizes[i - 1], sizes[i], 1, bias=False))
                setattr(self, f"norm{i}", nn.BatchNorm2d(sizes[i]))
            if inputs != 4 * width:
                self.shortcut = nn.Conv2d(inputs, 4 * width, 1, bias=False)
                self.shortcut_norm = nn.BatchNorm2d(4 * width)

        def forward(self, x):
            y = self.norm1(self.conv1(x)).relu()
            y = self.norm2(self.conv2(y)).relu()
            y = self.norm3(self.conv3(y))
            if hasattr(self, "shortcut"):
                x = self.shortcut_norm(self.shortcut(x))
            return (x + y).relu()

    class TorchRegionGrouping(nn.Module):
        """Images `n 3 h w` to logits `n c` and assignment `n k H W`."""

        def __init__(self, trunk, inputs, width, parts=PARTS, classes=CLASSES):
            super().__init__()
            self.network = trunk
            self.dictionary = nn.Parameter(torch.zeros(parts, inputs))
            self.smoothing = nn.Parameter(torch.zeros(parts))
            blocks = [PointBlock(inputs if i == 0 else 4 * width, width) for i in range(4)]
            self.post = nn.Sequential(*blocks)
            sizes = (inputs, 256, 32, 1)
            self.attention = nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(sizes[i], sizes[i + 1], 1, bias=False),
                    nn.BatchNorm2d(sizes[i + 1]),
                    nn.ReLU(),
                )
                for i in range(3)
            )
            self.norm = nn.BatchNorm1d(4 * width)
            self.classifier = nn.Linear(4 * width, classes)

        def group(self, x):
            """Compute Eqs. 1 and 3, in float32."""
            n, d, height, width = x.shape
            x = x.float().flatten(2).transpose(1, 2)
            sigma = self.smoothing.sigmoid()
            distance = torch.cdist(x, self.dictionary.expand(n, -1, -1)) / sigma
            q = (-distance.square() / 2).softmax(2)
            z = q.transpose(1, 2) @ x / q.sum(1)[:, :, None] - self.dictionary
            return q.transpose(1, 2).reshape(n, -1, height, width), F.normalize(z, dim=2)

        def forward(self, images):
            x = self.network.trunk(images)
            with torch.autocast(x.device.type, enabled=False):
                q, z = self.group(x)
            z = z.transpose(1, 2)[..., None]
            weights = z
            for layer in self.attention:
                weights = layer(weights)
            weights = weights[:, 0, :, 0].float().softmax(1)
            pooled = (self.post(z)[..., 0] * weights[:, None]).sum(2)
            return self.classifier(self.norm(pooled)), q

    def occurrence_loss(q, objective):
        """Compute Eq. 2."""
        n, k = q.shape[:2]
        offsets = torch.arange(-objective.radius, objective.radius + 1, device=q.device)
        line = torch.exp(-0.5 * (offsets / objective.std) ** 2)
        window = torch.outer(line, line) / line.sum() ** 2
        window = window.expand(k, 1, -1, -1)
        seen = F.conv2d(q, window, groups=k).amax((2, 3)).sort(0).values
        prior = to_torch(prior_quantiles(n, objective.alpha, objective.beta), q.device)
        return ((seen + 1e-5).log() - (prior + 1e-5).log()[:, None]).abs().mean()


def torch_region_grouping(trunk, name, variables):
    """Return the network in PyTorch, its new layers with the weights that `variables` hold."""
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    inputs = params["grouping/dictionary"].shape[1]
    model = TorchRegionGrouping(trunk, inputs, NETWORKS[name].trunk.width)
    state = {}
    for path, value in params.items():
        module, *rest = path.split("/")
        if module == "trunk":
            continue
        value = np.asarray(value)
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif rest == ["kernel"]:
            value = value.T
        words = [w for i, w in enumerate([module, *rest]) if not (w == "norm" and i > 0)]
        state[".".join(words)] = to_torch(value)
    renamed = {}
    for name, value in state.items():
        name = name.replace("grouping.", "").replace("kernel", "weight").replace("scale", "weight")
        for i in range(4):
            name = name.replace(f"post.block{i + 1}.", f"post.{i}.")
        for i in range(3):
            name = name.replace(f"part_attention.conv{i + 1}", f"attention.{i}.0")
            name = name.replace(f"part_attention.norm{i + 1}", f"attention.{i}.1")
        renamed[name] = value
    missing, surplus = model.load_state_dict(renamed, strict=False)
    fresh = ("network.", "running_", "num_batches")  # the trunk has its own; averages begin anew
    missing = [name for name in missing if not any(part in name for part in fresh)]
    if missing or surplus:
        raise ValueError(f"region grouping: no weights for {missing}, no place for {surplus}")
    return model


def make(setup: Setup) -> Case:
    """Return both sides begin with the same trunk and the same new layers."""
    name, theirs = setup.name, setup.theirs
    options = dict(size=setup.images.shape[1], backbone=name, num_parts=PARTS)
    if theirs is None:
        model = fgjax.create_model("region_grouping", CLASSES, **options)
    else:
        model = load_region_grouping(theirs, **options)
    objective, network = PartObjective(), None
    ours, flops = our_training(setup, model, method="regions", objective=objective)
    if theirs is not None:
        trunk = copy.deepcopy(theirs)
        del trunk.layer4, trunk.fc
        network = torch_region_grouping(trunk, name, model.variables)
        network = network.to(setup.device, memory_format=torch.channels_last)
        network.train().requires_grad_(True)

    def loss(outputs, labels):
        logits, q = outputs
        crossed = F.cross_entropy(logits.float(), labels)
        return crossed + objective.weight * occurrence_loss(q, objective)

    unit = f"one step, {PARTS} parts"
    return make_case(ours, flops, torch_training(setup, loss), network, unit)


MAKERS = {"region_grouping": make}

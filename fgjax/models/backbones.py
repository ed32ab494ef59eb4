"""The networks that stand alone, and that composed ones are built on."""

from functools import partial

from fgjax.models.networks.inception import InceptionV3
from fgjax.models.networks.mobilenet import MobileNetV2
from fgjax.models.networks.resnet import ResNet
from fgjax.models.networks.vgg import VGG

BACKBONES = {
    "resnet_tiny": partial(ResNet, depths=(1, 1, 1, 1), width=16, small_stem=True),
    "resnet18": ResNet,
    "resnet34": partial(ResNet, depths=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(ResNet, depths=(3, 4, 23, 3), bottleneck=True),
    "vgg16": VGG,
    "vgg19": partial(VGG, depths=(2, 2, 4, 4, 4)),
    "vgg16_bn": partial(VGG, norm=True),
    "vgg19_bn": partial(VGG, depths=(2, 2, 4, 4, 4), norm=True),
    "inception_v3": InceptionV3,
    "mobilenet_v2": MobileNetV2,
}
"""Architectures by name: functions of `num_classes`, `padding` and `dtype`."""

"""What torchvision and timm call a tensor, and what we call it: tables, not code per layer.

A table is a list of (pattern, replacement); the first pattern that matches a tensor's whole
name says where it goes, as `module/…/tensor`. An empty replacement leaves the tensor out.
"""

import re

from fgjax.models.networks.mobilenet import STAGES

Table = list[tuple[str, str]]


def rename(name: str, table: Table) -> str | None:
    """Return where the tensor `name` goes; "" when it is left out, None when no pattern knows
    it."""
    for pattern, replacement in table:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return None


def _resnet() -> Table:
    """torchvision's names, which are timm's too."""
    table = [
        (r"conv1\.(.*)", r"stem/\1"),
        (r"bn1\.(.*)", r"stem_norm/norm/\1"),
        (r"fc\.(.*)", r"classifier/\1"),
    ]
    for stage in range(4):
        layer, block = rf"layer{stage + 1}\.(\d+)", rf"blocks_{stage}_\1"
        table += [
            (rf"{layer}\.conv(\d)\.(.*)", rf"{block}/conv\2/\3"),
            (rf"{layer}\.bn(\d)\.(.*)", rf"{block}/norm\2/norm/\3"),
            (rf"{layer}\.downsample\.0\.(.*)", rf"{block}/shortcut/\2"),
            (rf"{layer}\.downsample\.1\.(.*)", rf"{block}/shortcut_norm/norm/\2"),
        ]
    return table


def _mobilenet_timm() -> Table:
    block, ours = r"blocks\.(\d+)\.(\d+)", r"blocks_\1_\2"
    return [
        (r"conv_stem\.(.*)", r"stem/\1"),
        (r"bn1\.(.*)", r"stem_norm/norm/\1"),
        # The first block does not expand, and so counts its layers otherwise.
        (r"blocks\.0\.0\.conv_dw\.(.*)", r"blocks_0_0/depthwise/\1"),
        (r"blocks\.0\.0\.bn1\.(.*)", r"blocks_0_0/depthwise_norm/norm/\1"),
        (r"blocks\.0\.0\.conv_pw\.(.*)", r"blocks_0_0/project/\1"),
        (r"blocks\.0\.0\.bn2\.(.*)", r"blocks_0_0/project_norm/norm/\1"),
        (rf"{block}\.conv_pw\.(.*)", rf"{ours}/expand/\3"),
        (rf"{block}\.bn1\.(.*)", rf"{ours}/expand_norm/norm/\3"),
        (rf"{block}\.conv_dw\.(.*)", rf"{ours}/depthwise/\3"),
        (rf"{block}\.bn2\.(.*)", rf"{ours}/depthwise_norm/norm/\3"),
        (rf"{block}\.conv_pwl\.(.*)", rf"{ours}/project/\3"),
        (rf"{block}\.bn3\.(.*)", rf"{ours}/project_norm/norm/\3"),
        (r"conv_head\.(.*)", r"last/\1"),
        (r"bn2\.(.*)", r"last_norm/norm/\1"),
        (r"classifier\.(\w+)", r"classifier/\1"),
    ]


def _mobilenet_torchvision() -> Table:
    blocks = [f"{s}_{i}" for s, (_, _, repeats, _) in enumerate(STAGES) for i in range(repeats)]
    table = [
        (r"features\.0\.0\.(.*)", r"stem/\1"),
        (r"features\.0\.1\.(.*)", r"stem_norm/norm/\1"),
        (r"features\.18\.0\.(.*)", r"last/\1"),
        (r"features\.18\.1\.(.*)", r"last_norm/norm/\1"),
        (r"classifier\.1\.(.*)", r"classifier/\1"),
    ]
    for number, block in enumerate(blocks, start=1):
        expands = block != "0_0"
        layers = ["expand"] if expands else []
        for place, layer in enumerate([*layers, "depthwise"]):
            theirs = rf"features\.{number}\.conv\.{place}"
            table += [
                (rf"{theirs}\.0\.(.*)", rf"blocks_{block}/{layer}/\1"),
                (rf"{theirs}\.1\.(.*)", rf"blocks_{block}/{layer}_norm/norm/\1"),
            ]
        place = 2 if expands else 1
        table += [
            (rf"features\.{number}\.conv\.{place}\.(.*)", rf"blocks_{block}/project/\1"),
            (
                rf"features\.{number}\.conv\.{place + 1}\.(.*)",
                rf"blocks_{block}/project_norm/norm/\1",
            ),
        ]
    return table


def _vgg(depths: tuple[int, ...], norm: bool) -> Table:
    """Return the features are numbered alike in both; the head is dense layers or 7x7 and 1x1
    convs."""
    table, number = [], 0
    for stage, depth in enumerate(depths):
        for i in range(depth):
            table.append((rf"features\.{number}\.(.*)", rf"convs_{stage}_{i}/\1"))
            if norm:
                table.append((rf"features\.{number + 1}\.(.*)", rf"norms_{stage}_{i}/norm/\1"))
            number += 3 if norm else 2
        number += 1
    return table + [
        (r"classifier\.0\.(.*)", r"dense1/\1"),
        (r"classifier\.3\.(.*)", r"dense2/\1"),
        (r"classifier\.6\.(.*)", r"classifier/\1"),
        (r"pre_logits\.fc1\.(.*)", r"dense1/\1"),
        (r"pre_logits\.fc2\.(.*)", r"dense2/\1"),
        (r"head\.fc\.(.*)", r"classifier/\1"),
    ]


def _inception() -> Table:
    """torchvision's names, which are timm's too; ours are the same but for the layers."""
    return [
        (r"AuxLogits\..*", ""),
        (r"(\w+)\.conv\.(.*)", r"\1/conv/\2"),
        (r"(\w+)\.bn\.(.*)", r"\1/norm/norm/\2"),
        (r"(\w+)\.(\w+)\.conv\.(.*)", r"\1/\2/conv/\3"),
        (r"(\w+)\.(\w+)\.bn\.(.*)", r"\1/\2/norm/norm/\3"),
        (r"fc\.(.*)", r"classifier/\1"),
    ]


_DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
TABLES: dict[str, Table] = {
    **{f"resnet{kind}": _resnet() for kind in ("_tiny", "18", "34", "50", "101")},
    **{name: _vgg(depths, False) for name, depths in _DEPTHS.items()},
    **{f"{name}_bn": _vgg(depths, True) for name, depths in _DEPTHS.items()},
    "inception_v3": _inception(),
    "mobilenet_v2": _mobilenet_timm() + _mobilenet_torchvision(),
}
"""Architecture -> the names of both libraries."""

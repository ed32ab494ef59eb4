"""Times one FIDO step beside the same step in eager PyTorch, on the CPU.

    python benchmarks/fido_step.py                                   # the two cases below
    python benchmarks/fido_step.py --model resnet18 --size 96 --batch 8 --rounds 7
    python benchmarks/fido_step.py --parts --out step.json           # and where the time goes

One step: sample masks for both objectives (Eq. 8), blend image and infill (Eq. 1), run the
network, the log-odds (Eq. 4), L1 and total variation, the gradient, AdamW. The PyTorch side
is written plainly below; its weights ask for no gradient and its memory is channels_last.

Before anything is timed the two sides are checked to do the same work: the same weights,
the same noise, and then the same logits, the same gradient and, after three steps, the same
masks. The rounds alternate, so that other load on the machine hits both alike; PyTorch's
threads wait for each other at every layer, so load still hurts it more. `--threads 1` puts
both sides on one core and is the fairer number on a machine that is not quiet.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgjax
from fgjax.attribution.fido import FidoConfig, FidoState, fido_step
from fgjax.attribution.infill import blur
from fgjax.functional import combine, partition

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    torch = None

CASES = (("resnet18", 96), ("resnet50", 224))
DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
CLASSES = 200
NO_TORCH = (
    "fido_step.py compares with PyTorch, which is not installed: "
    'pip install "fgjax[parity]" (torch 2.13, Python 3.11 or newer)'
)


# The PyTorch side. Parameter names are torchvision's.

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
            self.downsample = None
            if stride != 1 or inputs != out:
                conv = nn.Conv2d(inputs, out, 1, stride, bias=False)
                self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))

        def forward(self, x):
            y = x
            for i in range(1, self.depth + 1):
                y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
                y = F.relu(y, inplace=True) if i < self.depth else y
            return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)

    class TorchResNet(nn.Module):
        """ResNet on images in [0, 1], NCHW."""

        def __init__(self, name, num_classes=CLASSES):
            super().__init__()
            bottleneck = name == "resnet50"
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            inputs = 64
            for stage, depth in enumerate(DEPTHS[name]):
                blocks = []
                for i in range(depth):
                    stride = 2 if stage and i == 0 else 1
                    blocks.append(Block(inputs, 64 * 2**stage, stride, bottleneck))
                    inputs = 64 * 2**stage * (4 if bottleneck else 1)
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.fc = nn.Linear(inputs, num_classes)
            mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
            self.register_buffer("mean", mean[:, None, None], persistent=False)
            self.register_buffer("std", std[:, None, None], persistent=False)

        def forward(self, x):
            x = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)), inplace=True)
            x = F.max_pool2d(x, 3, 2, 1)
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(x.mean((2, 3)))

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

    def torch_loss(logits, model, image, infill, target, noise, step, config):
        """Eqs. 2 and 3 with TV, as fgjax has them. logits `2 h w`, image `3 h w`,
        noise `m 2 h w`. Gives the loss and p(c) under either mask."""
        height, width = image.shape[1:]
        masks = torch.sigmoid((logits + noise) / config.temperature)[:, :, None]
        phi = ((1 - masks) * image + masks * infill).flatten(0, 1)
        outputs = model(phi.contiguous(memory_format=torch.channels_last))
        chosen = outputs[:, target]
        others = outputs.masked_fill(F.one_hot(target, outputs.shape[1]).bool(), -torch.inf)
        scores = (chosen - torch.logsumexp(others, 1)).reshape(-1, 2).mean(0)
        with torch.no_grad():
            probability = outputs.softmax(1)[:, target].reshape(-1, 2).mean(0)

        sign = torch.tensor((-1.0, 1.0))
        importance = torch.sigmoid(sign[:, None, None] * logits)
        l1 = importance.sum((1, 2)) * (224**2 / (height * width))
        tv = importance.diff(dim=1).square().sum((1, 2))
        tv = tv + importance.diff(dim=2).square().sum((1, 2))
        ramp = min(1.0, step / config.warmup) if config.warmup else 1.0
        loss = (sign * scores + ramp * (config.l1 * l1 + config.tv * tv)).sum()
        return loss, probability

    def torch_optimizer(logits, config):
        rate, eps = config.learning_rate, config.adam_eps
        return torch.optim.AdamW([logits], rate, eps=eps, weight_decay=0)

    def torch_step(logits, optimizer, model, image, infill, target, noise, step, config):
        """One step; `logits` change in place. noise=None draws it."""
        if noise is None:
            shape = (config.batch_size, *logits.shape)
            noise = torch.empty(shape).uniform_(1e-7, 1 - 1e-7).logit()
        optimizer.zero_grad()
        args = (model, image, infill, target, noise, step, config)
        loss, probability = torch_loss(logits, *args)
        loss.backward()
        # Per reference pixel, as fgjax has it.
        logits.grad *= logits[0].numel() / 224**2
        optimizer.step()
        return probability


def load_both(name, size):
    """The same random weights as a PyTorch model and as an fgjax classifier."""
    from safetensors.torch import save_file

    theirs = torch_model(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, path)
        return fgjax.load_pretrained(name, path, size=size), theirs


def make_inputs(size, seed=0):
    """An image of soft blobs in [0, 1], its blurred infill, `1 h w 3`, and a target."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    image = rng.uniform(0.2, 0.8, (1, size, size, 3))
    for colour in rng.uniform(-0.5, 0.5, (8, 3)):
        centre, radius = rng.uniform(0.1, 0.9, 2), rng.uniform(0.05, 0.2)
        bump = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * radius**2))
        image += bump[None, :, :, None] * colour
    image = np.clip(image, 0, 1).astype(np.float32)
    return image, np.array(blur(jnp.asarray(image))), np.array([3], np.int32)


def fresh_state(logits, config):
    """A state for `fido_step`, of a copy of `logits` (it is donated)."""
    logits = jnp.array(logits, copy=True)
    if config.optimizer == "sgd":
        optimizer = optax.sgd(config.learning_rate)
    else:
        optimizer = optax.adam(config.learning_rate, eps=config.adam_eps)
    return FidoState(jnp.int32(0), logits, optimizer.init(logits))


def _channels_first(a):
    return torch.from_numpy(np.ascontiguousarray(a[0].transpose(2, 0, 1)))


def check_parity(name, size, batch, temperature=1.0):
    """Largest differences between both sides, relative to the largest value.

    Raises:
      AssertionError: logits, gradient or masks differ by more than 1e-3.
    """
    ours, theirs = load_both(name, size)
    image, infill, target = make_inputs(size)
    rng = np.random.default_rng(1)
    start = rng.normal(0, 1, (1, 2, size, size)).astype(np.float32)
    keys = jax.random.split(jax.random.key(2), 1)
    arrays, static = partition(ours)
    x, x_hat = _channels_first(image), _channels_first(infill)

    def noise(step, config):
        key = jax.random.fold_in(keys[0], step)
        return torch.from_numpy(np.array(jax.random.logistic(key, (batch, 2, size, size))))

    def difference(a, b):
        return float(np.abs(a - b).max() / np.abs(b).max())

    logits = np.asarray(jax.jit(lambda a, i: combine(a, static)(i))(arrays, image))
    with torch.no_grad():
        found = {"logits": difference(logits, theirs(x[None]).numpy())}

    # A step of plain descent with rate 1 moves the masks by the gradient itself.
    config = FidoConfig(
        batch_size=batch, temperature=temperature, warmup=0, optimizer="sgd", learning_rate=1.0
    )
    zero = jnp.asarray(start)
    state, trace = fido_step(
        fresh_state(zero, config), arrays, static, image, infill, target, keys, config
    )
    ours_gradient = start - np.asarray(state.logits)
    theta = torch.from_numpy(start[0].copy()).requires_grad_()
    args = (theirs, x, x_hat, torch.tensor(3), noise(0, config), 0, config)
    loss, probability = torch_loss(theta, *args)
    loss.backward()
    gradient = theta.grad.numpy()[None] * (size**2 / 224**2)
    # `start - new` loses the digits that `start` has more than the gradient: allow for it.
    found["gradient"] = difference(ours_gradient, gradient)
    found["probability"] = difference(np.asarray(trace)[0, :2], probability.numpy())

    config = FidoConfig(batch_size=batch, temperature=temperature)
    state = fresh_state(zero, config)
    theta = torch.from_numpy(start[0].copy()).requires_grad_()
    optimizer = torch_optimizer(theta, config)
    for step in range(3):
        state, _ = fido_step(state, arrays, static, image, infill, target, keys, config)
        args = (theirs, x, x_hat, torch.tensor(3), noise(step, config), step, config)
        torch_step(theta, optimizer, *args)
    found["masks_after_3_steps"] = difference(np.asarray(state.logits)[0], theta.detach().numpy())
    worst = max(found, key=found.get)
    assert found[worst] < 1e-3, f"{name}@{size}: {worst} differs by {found[worst]:.1e} of its range"
    return found


def _timed(function, repeats=1):
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def alternate(sides, rounds, seconds=1.0):
    """Seconds per call of each side, `{name: [round, ...]}`, the sides taking turns.

    Every side is called once before, uncounted. In a round each is called as often as
    fills about `seconds`, and who starts changes from round to round.
    """
    repeats = max(1, math.ceil(seconds / max(max(_timed(f) for f in sides.values()), 1e-9)))
    times = {name: [] for name in sides}
    for i in range(rounds):
        order = list(sides) if i % 2 == 0 else list(reversed(sides))
        for name in order:
            time.sleep(0.05)  # the other side's worker threads go to sleep
            times[name].append(_timed(sides[name], repeats))
    return times


def summarise(times):
    """Median and range of both sides, and PyTorch / ours: the median over rounds of the
    ratio within a round, with its range, and that of each side's fastest round (what is
    left when other load is not). Above 1 ours is faster."""
    ratios = [b / a for a, b in zip(times["fgjax"], times["torch"], strict=True)]
    out = {
        name: {"median_s": statistics.median(t), "min_s": min(t), "max_s": max(t), "rounds_s": t}
        for name, t in times.items()
    }
    out["ratio"] = {
        "median": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "fastest": min(times["torch"]) / min(times["fgjax"]),
    }
    return out


def time_step(name, size, batch, rounds):
    """Times both sides of one case; a dictionary of numbers."""
    ours, theirs = load_both(name, size)
    image, infill, target = make_inputs(size)
    config = FidoConfig(batch_size=batch)
    arrays, static = partition(ours)
    keys = jax.random.split(jax.random.key(2), 1)
    data = jax.device_put((image, infill, target, keys))
    state = fresh_state(jnp.zeros((1, 2, size, size)), config)

    jax.clear_caches()  # the check before may have compiled this very program
    start = time.perf_counter()
    program = fido_step.lower(state, arrays, static, *data, config).compile()
    compile_s = time.perf_counter() - start

    def ours_step():
        nonlocal state
        state, trace = program(state, arrays, *data)
        jax.block_until_ready((state, trace))

    x, x_hat = _channels_first(image), _channels_first(infill)
    theta = torch.zeros(2, size, size, requires_grad=True)
    optimizer = torch_optimizer(theta, config)
    steps = iter(range(10**9))
    chosen = torch.tensor(int(target[0]))

    def theirs_step():
        args = (theirs, x, x_hat, chosen, None, next(steps), config)
        torch_step(theta, optimizer, *args)

    ours_step(), theirs_step()
    result = summarise(alternate({"fgjax": ours_step, "torch": theirs_step}, rounds))
    return {"compile_s": compile_s, **result}


def time_parts(name, size, batch, rounds):
    """The network alone on all masked images: forward, and with the gradient of its input."""
    ours, theirs = load_both(name, size)
    images = np.random.default_rng(0).uniform(size=(2 * batch, size, size, 3)).astype(np.float32)
    arrays, static = partition(ours)
    data = jax.device_put(images)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2))  # a view: channels_last already

    forward = jax.jit(lambda a, i: combine(a, static)(i))
    gradient = jax.jit(jax.grad(lambda i, a: combine(a, static)(i)[:, 0].sum()))

    def torch_forward():
        with torch.no_grad():
            theirs(x)

    def torch_gradient():
        leaf = x.detach().requires_grad_()
        theirs(leaf)[:, 0].sum().backward()

    parts = {
        "forward": (lambda: forward(arrays, data).block_until_ready(), torch_forward),
        "with input gradient": (lambda: gradient(data, arrays).block_until_ready(), torch_gradient),
    }
    out = {}
    for part, (mine, other) in parts.items():
        mine(), other()
        out[part] = summarise(alternate({"fgjax": mine, "torch": other}, rounds))
    return out


def machine():
    """What the numbers were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].split(":")[1].strip() if lines else cpu
    versions = {"python": platform.python_version(), "jax": jax.__version__}
    names = [Path(a).name for a in sys.argv[1:]]  # no folders of this machine
    if torch:
        versions["torch"] = torch.__version__
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "versions": {**versions, "numpy": np.__version__},
        "command": " ".join([f"python benchmarks/{Path(sys.argv[0]).name}", *names]),
    }


def markdown(report):
    """The report as Markdown tables."""
    about = report["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    lines = [
        f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads on either side; "
        f"{versions}. Load before {report['load_before']}, after {report['load_after']}.",
        "",
        "| step | fgjax, s | PyTorch, s | PyTorch / fgjax (range) | fastest rounds | compile, s |",
        "|---|---|---|---|---|---|",
    ]

    def cells(result):
        both = [
            f"{result[s]['median_s']:.3f} ({result[s]['min_s']:.3f}–{result[s]['max_s']:.3f})"
            for s in ("fgjax", "torch")
        ]
        ratio = result["ratio"]
        median = f"**{ratio['median']:.2f}×** ({ratio['min']:.2f}–{ratio['max']:.2f})"
        return [*both, median, f"{ratio['fastest']:.2f}×"]

    for case in report["cases"]:
        name = f"{case['model']} {case['size']}², {case['batch']}+{case['batch']} masks"
        row = [name, *cells(case["step"]), f"{case['step']['compile_s']:.1f}"]
        lines.append("| " + " | ".join(row) + " |")
        for part, result in case.get("parts", {}).items():
            lines.append("| " + " | ".join([f"… network, {part}", *cells(result), ""]) + " |")
    lines += ["", "Both sides agree, relative to the largest value:"]
    for case in report["cases"]:
        found = ", ".join(f"{k.replace('_', ' ')} {v:.0e}" for k, v in case["parity"].items())
        lines.append(f"- {case['model']} {case['size']}²: {found}")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(DEPTHS), help="default: " + str(CASES))
    parser.add_argument("--size", type=int, help="side of the image in pixels")
    parser.add_argument("--batch", type=int, default=8, help="masks per objective")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of both sides; default: every core")
    parser.add_argument("--parts", action="store_true", help="time the network alone, too")
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    args = parser.parse_args(argv)
    if torch is None:
        print(NO_TORCH, file=sys.stderr)
        return 2
    jax.config.update("jax_platforms", "cpu")
    # XLA makes as many threads as the process may use cores.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: args.threads or len(cores)])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)

    sizes = dict(CASES)
    cases = [(args.model, args.size or sizes.get(args.model, 224))] if args.model else CASES
    if args.size and not args.model:
        cases = [(name, args.size) for name, _ in CASES]
    report = {"machine": machine(), "load_before": [round(x, 2) for x in os.getloadavg()]}
    report["cases"] = []
    for name, size in cases:
        case = {"model": name, "size": size, "batch": args.batch}
        case["parity"] = check_parity(name, size, min(args.batch, 4))
        case["step"] = time_step(name, size, args.batch, args.rounds)
        if args.parts:
            case["parts"] = time_parts(name, size, args.batch, args.rounds)
        case["load"] = [round(x, 2) for x in os.getloadavg()]
        report["cases"].append(case)
    report["load_after"] = [round(x, 2) for x in os.getloadavg()]
    print(markdown(report))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

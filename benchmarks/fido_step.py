"""Times one FIDO step beside the same step in eager PyTorch, on the CPU.

    python benchmarks/fido_step.py                                   # the two cases below
    python benchmarks/fido_step.py --model resnet18 --size 96 --batch 8 --rounds 7
    python benchmarks/fido_step.py --parts --out step.json           # and where the time goes
    python benchmarks/fido_step.py --python OTHER/bin/python         # with the jax of that Python

One step: sample masks for both objectives (Eq. 8), blend image and infill (Eq. 1), run the
network, the log-odds (Eq. 4), L1 and total variation, the gradient, AdamW. The PyTorch side
is in `torch_methods/fido.py`, its memory channels_last; it is timed with weights that ask for no
gradient, and with weights that do, as the released code runs. Ours has its batch normalisation
folded, as the command has it.

Before anything is timed the two sides are checked to do the same work: the same weights,
the same noise, and then the same logits, the same gradient and, after three steps, the same
masks. The rounds alternate, so that other load on the machine hits both alike; PyTorch's
threads wait for each other at every layer, so load still hurts it more. `--threads 1` puts
both sides on one core and is the fairer number on a machine that is not quiet.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import NO_TORCH, alternate, machine, make_inputs, summarise
from torch_methods.case import to_torch
from torch_methods.fido import torch_loss, torch_optimizer, torch_step
from torch_resnet import DEPTHS, load_both, saved_weights, torch

import fgjax
from fgjax.attribution.fido.loop import Task, optimise
from fgjax.attribution.fido.method import fido_preset, fido_start, fido_step
from fgjax.core.functional import combine, partition
from fgjax.models.folding import fold_batch_norm

CASES = (("resnet18", 96), ("resnet50", 224))


def fresh_state(logits, config):
    """Return a state for `fido_step`, of a copy of `logits` (it is donated)."""
    return fido_start(jnp.array(logits, copy=True), config)


def _channels_first(a):
    return to_torch(a.transpose(0, 3, 1, 2))


def check_parity(name, size, batch, temperature=1.0):
    """Return largest differences between both sides, relative to the largest value.

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
        return to_torch(jax.random.logistic(key, (1, batch, 2, size, size)))

    def difference(a, b):
        return float(np.abs(a - b).max() / np.abs(b).max())

    logits = np.asarray(jax.jit(lambda a, i: combine(a, static)(i))(arrays, image))
    with torch.no_grad():
        found = {"logits": difference(logits, theirs(x).numpy())}

    # A step of plain descent with rate 1 moves the masks by the gradient itself.
    config = fido_preset(
        "soft",
        batch_size=batch,
        temperature=temperature,
        warmup=0,
        optimizer="sgd",
        learning_rate=1.0,
    )
    zero = jnp.asarray(start)
    state, trace = fido_step(
        fresh_state(zero, config), arrays, static, image, infill, target, keys, config
    )
    ours_gradient = start - np.asarray(state.logits)
    theta = to_torch(start).requires_grad_()
    args = (theirs, x, x_hat, torch.tensor([3]), noise(0, config), 0, config)
    loss, probability = torch_loss(theta, *args)
    loss.backward()
    gradient = theta.grad.numpy() * (size**2 / 224**2)
    # `start - new` loses the digits that `start` has more than the gradient: allow for it.
    found["gradient"] = difference(ours_gradient, gradient)
    found["probability"] = difference(np.asarray(trace)[0, 0, :2], probability.numpy())

    config = fido_preset("soft", batch_size=batch, temperature=temperature)
    state = fresh_state(zero, config)
    theta = to_torch(start).requires_grad_()
    optimizer = torch_optimizer(theta, config)
    for step in range(3):
        state, _ = fido_step(state, arrays, static, image, infill, target, keys, config)
        args = (theirs, x, x_hat, torch.tensor([3]), noise(step, config), step, config)
        torch_step(theta, optimizer, *args)
    found["masks_after_3_steps"] = difference(np.asarray(state.logits), theta.detach().numpy())
    worst = max(found, key=found.get)
    assert found[worst] < 1e-3, f"{name}@{size}: {worst} differs by {found[worst]:.1e} of its range"
    return found


def our_step(ours, size, batch):
    """Return one step of ours as a function, and how long it took to compile."""
    image, infill, target = make_inputs(size)
    config = fido_preset("soft", batch_size=batch)
    arrays, static = partition(fold_batch_norm(ours))
    keys = jax.random.split(jax.random.key(2), 1)
    data = jax.device_put((image, infill, target, keys))
    state = fresh_state(jnp.zeros((1, 2, size, size)), config)

    jax.clear_caches()  # the check before may have compiled this very program
    start = time.perf_counter()
    program = fido_step.lower(state, arrays, static, *data, config).compile()
    compile_s = time.perf_counter() - start

    def step():
        nonlocal state
        state, trace = program(state, arrays, *data)
        jax.block_until_ready((state, trace))

    return step, compile_s


class Elsewhere:
    """Our step in a process of another Python, with the jax that is installed there."""

    def __init__(self, python, name, size, batch, weights):
        words = [
            python,
            __file__,
            "--worker",
            weights,
            "--model",
            name,
            "--size",
            size,
            "--batch",
            batch,
        ]
        words = [str(word) for word in words]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        self.about = json.loads(self._answer())

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the process of --python ended: is fgjax installed there?")
        return line

    def step(self):
        self._process.stdin.write("step\n")
        self._answer()

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=60)


def work(args):
    """Return what `Elsewhere` talks to: says what it is, then a line after each step."""
    model = fgjax.load_pretrained(args.model, args.worker, size=args.size)
    image, _, _ = make_inputs(args.size)
    logits = np.asarray(model(jnp.asarray(image))).tolist()
    step, compile_s = our_step(model, args.size, args.batch)
    about = {"versions": machine()["versions"], "compile_s": compile_s, "logits": logits}
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        step()
        print("done", flush=True)


def time_step(name, size, batch, rounds, python=None):
    """Time both sides of one case: beside PyTorch without, and with, weight gradients. With
    `python` ours runs in a process of that Python; its versions are returned, too."""
    ours, theirs = load_both(name, size)
    image, infill, target = make_inputs(size)
    config, versions = fido_preset("soft", batch_size=batch), None
    if python:
        with saved_weights(theirs) as path:
            other = Elsewhere(python, name, size, batch, path)
        with torch.no_grad():
            logits = theirs(_channels_first(image)).numpy()
        np.testing.assert_allclose(other.about["logits"], logits, rtol=1e-3, atol=1e-3)
        ours_step, compile_s = other.step, other.about["compile_s"]
        versions = other.about["versions"]
    else:
        ours_step, compile_s = our_step(ours, size, batch)

    x, x_hat = _channels_first(image), _channels_first(infill)
    theta = torch.zeros(1, 2, size, size, requires_grad=True)
    optimizer = torch_optimizer(theta, config)
    steps = iter(range(10**9))
    chosen = torch.tensor([int(target[0])])
    training = copy.deepcopy(theirs).requires_grad_()

    def theirs_step(model):
        args = (model, x, x_hat, chosen, None, next(steps), config)
        torch_step(theta, optimizer, *args)

    sides = {
        "fgjax": ours_step,
        "torch": lambda: theirs_step(theirs),
        "torch, weights": lambda: theirs_step(training),
    }
    for step in sides.values():
        step()
    times = alternate(sides, rounds)
    if python:
        other.close()
    weighty = {"fgjax": times["fgjax"], "torch": times["torch, weights"]}
    result = summarise({name: times[name] for name in ("fgjax", "torch")})
    return {"compile_s": compile_s, **result}, summarise(weighty), versions


def time_parts(name, size, batch, rounds):
    """Return the network alone on all masked images: forward, and with the gradient of its
    input."""
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


def time_dispatch(name, size, batch, rounds, steps=10):
    """Return seconds of one of our steps when each is a program of its own, and when `steps` are
    one."""
    ours, _ = load_both(name, size)
    image, infill, target = make_inputs(size)
    arrays, static = partition(fold_batch_norm(ours))
    data = jax.device_put((image, infill, target, jax.random.split(jax.random.key(2), 1)))
    task = Task(arrays, static, *data)
    config = fido_preset("soft", batch_size=batch, steps=steps, images_per_step=1)

    def run(per):
        logits, _, _ = optimise(task, replace(config, steps_per_dispatch=per), 1)
        logits.block_until_ready()

    sides = {"single": lambda: run(1), "together": lambda: run(steps)}
    for side in sides.values():
        side()
    times = alternate(sides, rounds)
    return {"steps": steps} | {side: statistics.median(t) / steps for side, t in times.items()}


def markdown(report):
    """Return the report as Markdown tables."""
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
        weighty = cells(case["step_with_weights"])
        lines.append("| " + " | ".join(["… PyTorch with weight gradients", *weighty, ""]) + " |")
        if found := case.get("dispatch"):
            seconds = f"{found['single']:.3f} s a step, {found['together']:.3f} s"
            lines.append(f"| … ours, {found['steps']} steps as one program | {seconds} | | | | |")
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
    parser.add_argument(
        "--parts", action="store_true", help="time the network alone, and 10 steps as one, too"
    )
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    parser.add_argument(
        "--python", help="ours runs in this Python: beside a jax that needs a newer one"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        work(args)
        return 0
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
        case["step"], case["step_with_weights"], versions = time_step(
            name, size, args.batch, args.rounds, args.python
        )
        if versions:
            report["machine"]["versions"] |= versions
        if args.parts:
            case["parts"] = time_parts(name, size, args.batch, args.rounds)
            if case["step"]["fgjax"]["median_s"] < 1:  # starting a program takes far less
                case["dispatch"] = time_dispatch(name, size, args.batch, 3)
        case["load"] = [round(x, 2) for x in os.getloadavg()]
        report["cases"].append(case)
    report["load_after"] = [round(x, 2) for x in os.getloadavg()]
    print(markdown(report))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

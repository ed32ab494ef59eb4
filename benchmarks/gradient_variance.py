"""How noisy, and how exact, the gradient of a mask is under either sampler of FIDO.

    python benchmarks/gradient_variance.py                 # a few minutes on two quiet cores
    python benchmarks/gradient_variance.py --quick         # seconds
    python benchmarks/gradient_variance.py --weights FILE --image FILE --size 96

The paper holds that the chain of exponentials and logarithms in Eq. 5 makes the gradient
noisy, and that Eq. 8 calms it. Measured here, with the *same* noise for both samplers:

  variance   of the gradient with respect to ϑ, a mean over B masks: per pixel over
             independent draws, then the mean over pixels;
  bias       of its mean from the exact expected gradient (where that is known);
  rounding   of single float32 gradients against float64 ones of the same noise, and how
             many are not finite or zero where the exact one is neither.

Two objectives. *Toy*: a two-class linear classifier, whose log-odds (Eq. 4) are linear in
the mask, so that pixel n has the exact expected gradient w_n E[z(1 - z)]/t, an integral in
one dimension. *Network*: the log-odds of a convolutional network, image blended with its
blur. L1 and total variation do not see the noise and are left out; SDR is SSR with the
other sign, so one of them is enough.

Two more ways to write the gradient are measured as warnings: Eq. 5 without keeping θ off 0
and 1, and z(1 - z)/t written as z² exp(-x)/t, which is 0·inf in float32.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import fgjax
from fgjax.attribution.common.infill import blur

TEMPERATURES = (0.05, 0.1, 0.5, 1.0)
BATCHES = (1, 4, 8, 16, 32)
LEVELS = (0.0, 5.0, -5.0, 10.0, -10.0, 15.0, -15.0, 20.0, -20.0)
PIXELS = 8  # of the toy objective at every level of ϑ
RELEASED = "z² exp(-x)/t"
SHOWN = (0.1, 1.0)  # temperatures in the printed table of rounding
TINY = float(np.finfo(np.float32).tiny)


def original(key, logits, temperature, samples, **options):
    """Compute Eq. 5 with θ = σ(ϑ): the gradient passes through both."""
    return fgjax.concrete_dropout(key, jax.nn.sigmoid(logits), temperature, samples, **options)


SAMPLERS = {"original": original, "simplified": fgjax.simplified_concrete_dropout}


# Gradients of many masks at once


def mask_gradients(sampler, key, logits, temperature, masks, upstream, *, antithetic=False):
    """Return one gradient with respect to ϑ per mask, by automatic differentiation.

    Every mask gets its own copy of ϑ, so no sum mixes their gradients. `upstream` maps
    masks `m *s` to the gradient of the objective with respect to them. Antithetic pairs
    share a copy: then the result is the mean gradient of each pair.

    Returns:
      The gradients `m *s` (`m/2 *s` when antithetic) and the upstream ones `m *s`.
    """
    samples, options = (2, {"antithetic": True}) if antithetic else (1, {})
    copies = jnp.broadcast_to(logits, (masks // samples, *logits.shape))
    # Operation by operation: compiling every temperature would take longer than running.
    z, pull = jax.vjp(lambda c: sampler(key, c, temperature, samples, **options), copies)
    u = upstream(z.reshape(masks, *logits.shape))
    return np.asarray(pull(u.reshape(z.shape))[0]) / samples, np.asarray(u)


def draw_noise(key, masks, shape):
    """Return the noise log(η / (1 - η)) that the float32 samplers draw in `mask_gradients`."""
    return np.asarray(jax.random.logistic(key, (1, masks, *shape), jnp.float32))[0]


def exact_slope(noise, logits, temperature):
    """dz/dϑ = z(1 - z)/t in float64, without cancellation."""
    x = (np.asarray(logits, np.float64) + np.asarray(noise, np.float64)) / temperature
    decay = np.exp(-np.abs(x))
    return decay / (1 + decay) ** 2 / temperature


def unclipped_slope(noise, logits, temperature):
    """dz/dϑ in float32 through Eq. 5 as written: θ may round to 0 or 1."""

    def mask(v):
        theta = jax.nn.sigmoid(v)
        return jax.nn.sigmoid((jnp.log(theta / (1 - theta)) + noise) / temperature)

    logits = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), noise.shape)
    z, pull = jax.vjp(mask, logits)
    return np.asarray(pull(jnp.ones_like(z))[0])


def released_slope(noise, logits, temperature):
    """dz/dϑ in float32 written as z² exp(-x)/t."""
    x = (np.asarray(logits, np.float32) + noise) / np.float32(temperature)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        decay = np.exp(-x)
        return (1 / (1 + decay)) ** 2 * decay / np.float32(temperature)


def expected_slope(logit, temperature):
    """E[z(1 - z)]/t over the noise: d E[z] / dϑ of the relaxed mask at ϑ = `logit`.

    With v = (ϑ + η̂)/t it is ∫ σ'(v) p(tv - ϑ) dv for the logistic density p: smooth and
    falling exponentially, where the trapezoid rule is exact to rounding. As t falls to 0
    it becomes θ(1 - θ), the gradient of a binary mask's rate.
    """
    v = np.linspace(-120, 120, 48001)

    def density(x):
        decay = np.exp(-np.abs(x))
        return decay / (1 + decay) ** 2

    return float(np.sum(density(v) * density(temperature * v - logit)) * (v[1] - v[0]))


# Numbers from gradients


def batch_variance(gradients, batch):
    """Per-pixel variance of means over `batch` masks, averaged over pixels.

    Args:
      gradients: `m *s`, one per mask; m // batch independent draws come of them.
    """
    draws = len(gradients) // batch
    means = np.asarray(gradients, np.float64)[: draws * batch]
    means = means.reshape(draws, batch, -1).mean(1)
    return float(means.var(0, ddof=1).mean())


def rounding(gradients, exact):
    """Return how float32 gradients differ from exact ones of the same noise.

    Returns:
      not_finite: share that is NaN or infinite.
      lost: share that is exactly 0 though the exact one fits float32.
      rms: root mean square error / root mean square of the exact ones.
      max_relative: largest relative error where the exact one is at least 1e-6 of the
        largest: smaller ones do not move a mask.
      max_relative_all: the same wherever the exact one fits float32 (1 = lost).
    Errors are over the finite ones.
    """
    gradients, exact = np.asarray(gradients, np.float64), np.asarray(exact, np.float64)
    finite = np.isfinite(gradients)
    fits = np.abs(exact) >= TINY
    error = np.abs(gradients - exact)

    def largest(where):
        where = where & finite
        return float((error[where] / np.abs(exact[where])).max()) if where.any() else 0.0

    square = np.mean(error[finite] ** 2) / np.mean(exact[finite] ** 2) if finite.any() else np.nan
    return {
        "not_finite": float(1 - finite.mean()),
        "lost": float(np.mean((gradients == 0) & fits)),
        "rms": float(np.sqrt(square)),
        "max_relative": largest(np.abs(exact) >= 1e-6 * np.abs(exact).max()),
        "max_relative_all": largest(fits),
    }


# The two studies


def toy(masks, temperatures=TEMPERATURES, key=None):
    """Return the linear objective: variances by t and B; bias and rounding by t and ϑ.

    Pixels at one level of ϑ differ in their weight w ~ N(0, 1). Gradients are divided by
    w where levels are compared, so that the exact one is `expected_slope`.
    """
    key = jax.random.key(0) if key is None else key
    weights = np.random.default_rng(0).normal(size=(len(LEVELS), PIXELS))
    logits = np.repeat(np.array(LEVELS)[:, None], PIXELS, axis=1)
    variances, levels = [], []
    for temperature in temperatures:
        gradients, pairs = {}, {}
        for dtype in ("float32", "float64"):
            with jax.enable_x64(dtype == "float64"):
                theta, w = jnp.asarray(logits, dtype), jnp.asarray(weights, dtype)
                for name, sampler in SAMPLERS.items():
                    args = (theta, temperature, masks, lambda z, w=w: jnp.broadcast_to(w, z.shape))
                    gradients[name, dtype], _ = mask_gradients(sampler, key, *args)
                    pairs[name, dtype], _ = mask_gradients(sampler, key, *args, antithetic=True)
        for batch in BATCHES:
            row = {"t": temperature, "B": batch, "draws": masks // batch}
            for (name, dtype), gradient in gradients.items():
                row[f"{name} {dtype}"] = batch_variance(gradient, batch)
            for dtype in ("float32", "float64"):
                row[f"ratio {dtype}"] = row[f"original {dtype}"] / row[f"simplified {dtype}"]
            variances.append(row)

        noise = draw_noise(key, masks, logits.shape)
        slopes = {name: gradients[name, "float32"] / weights for name in SAMPLERS}
        slopes["original, unclipped"] = unclipped_slope(noise, logits, temperature)
        slopes[RELEASED] = released_slope(noise, logits, temperature)
        exact = exact_slope(noise, logits, temperature)
        for i, level in enumerate(LEVELS):
            theta = 1 / (1 + np.exp(-level))
            expected = expected_slope(level, temperature)
            for name, slope in slopes.items():
                with np.errstate(invalid="ignore"):
                    mean, spread = slope[:, i].mean(), slope[:, i].std()
                row = {
                    "t": temperature,
                    "logit": level,
                    "sampler": name,
                    "exact": expected,
                    "binary": theta * (1 - theta),
                    "mean": _number(mean),
                    "standard_error": _number(spread / np.sqrt(slope[:, i].size)),
                    **rounding(slope[:, i], exact[:, i]),
                }
                if name in SAMPLERS:
                    single = batch_variance(gradients[name, "float32"][:, i], 2)
                    pair = batch_variance(pairs[name, "float32"][:, i], 1)
                    row["antithetic"] = pair / single if single else None
                levels.append({k: _number(v) if k == "rms" else v for k, v in row.items()})
    return {"masks": masks, "variance": variances, "levels": levels}


def _number(value):
    """Return a float for JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None


def log_odds_gradient(model, image, infill, target, chunk=16):
    """Return a function: masks `m h w` -> gradient of the SSR objective with respect to them."""

    @jax.jit
    def gradient(model, z):
        def loss(z):
            phi = (1 - z[..., None]) * image + z[..., None] * infill
            return -fgjax.log_odds(model(phi), jnp.full((len(z),), target)).sum()

        return jax.grad(loss)(z)

    def upstream(z):
        parts = [gradient(model, z[i : i + chunk]) for i in range(0, len(z), chunk)]
        return jnp.concatenate(parts)

    return upstream


def network(model, image, masks, temperatures=TEMPERATURES, key=None):
    """Return the log-odds of a network: variance, antithetic pairs and rounding by t and ϑ.

    ϑ is 0 everywhere (where FIDO starts), or what ten steps of FIDO find (within ±15).
    Rounding is told against the exact slope times the network's gradient at the masks of
    Eq. 8; the error of Eq. 5 contains what its slightly other masks do to that gradient.
    """
    key = jax.random.key(1) if key is None else key
    target = jnp.argmax(model(image), axis=1).astype(jnp.int32)
    upstream = log_odds_gradient(model, image, blur(image), target[0])
    config = fgjax.fido_preset("soft", steps=10)
    found = fgjax.fido(model, image, target, key=jax.random.key(2), config=config)
    kept = np.asarray(found.maps["ssr"][0], np.float64).clip(1e-9, 1 - 1e-9)
    starts = {"0": np.zeros_like(kept), "10 steps": np.log((1 - kept) / kept).clip(-15, 15)}
    rows = []
    for start, logits in starts.items():
        theta = jnp.asarray(logits, jnp.float32)
        for temperature in temperatures:
            args = (key, theta, temperature, masks, upstream)
            gradients = {}
            for name, sampler in SAMPLERS.items():
                gradients[name], from_network = mask_gradients(sampler, *args)
            simplified = gradients["simplified"]
            # The exact slope with the same noise, times the same gradient from the network.
            noise = draw_noise(key, masks, theta.shape)
            exact = from_network.astype(np.float64) * exact_slope(noise, theta, temperature)
            pairs, _ = mask_gradients(SAMPLERS["simplified"], *args, antithetic=True)
            mean_square = float(np.square(simplified.mean(0, dtype=np.float64)).mean())
            single = batch_variance(simplified, 1)
            signal = mean_square - single / masks
            row = {
                "start": start,
                "t": temperature,
                # Variance at B = 8 / squared mean; the square of a mean of m draws is too
                # large by variance / m. None: too noisy to tell.
                "noise_to_signal": single / 8 / signal if signal > 0 else None,
                "antithetic": batch_variance(pairs, 1) / batch_variance(simplified, 2),
            }
            for name, gradient in gradients.items():
                row[name] = {
                    "variance": {
                        str(b): batch_variance(gradient, b) for b in BATCHES if masks // b >= 4
                    },
                    **rounding(gradient, exact),
                }
            rows.append(row)
    return {"masks": masks, "pixels": int(kept.size), "rows": rows}


# Inputs and outputs


def read_image(path, size):
    """`1 size size 3` in [0, 1]; without a path an image of soft blobs."""
    if path:
        from PIL import Image

        with Image.open(path) as file:
            side = min(file.size)
            left, top = (file.width - side) // 2, (file.height - side) // 2
            box = (left, top, left + side, top + side)
            pixels = np.asarray(file.convert("RGB").resize((size, size), box=box))
        return jnp.asarray(pixels, jnp.float32)[None] / 255
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    image = rng.uniform(0.2, 0.8, (size, size, 3))
    for colour in rng.uniform(-0.5, 0.5, (8, 3)):
        centre, radius = rng.uniform(0.1, 0.9, 2), rng.uniform(0.05, 0.2)
        bump = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * radius**2))
        image += bump[..., None] * colour
    return jnp.asarray(np.clip(image, 0, 1), jnp.float32)[None]


def table(header, rows):
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _percent(share):
    if share == 0:
        return "0"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def markdown(report):
    """Return the report as Markdown tables."""
    about = report["machine"]
    out = [
        f"{about['cpu']}, {about['cores']} cores, jax {about['jax']}; {about['seconds']:.0f} s; "
        f"load {about['load']}.",
        "",
        "**Toy: variance of the gradient**, mean over ϑ in {0, ±5, …, ±20}, B masks each; "
        f"{report['toy']['masks']} masks.",
        "",
    ]
    rows = []
    for t in dict.fromkeys(row["t"] for row in report["toy"]["variance"]):
        some = [row for row in report["toy"]["variance"] if row["t"] == t]
        cells = [f"{row['simplified float32']:.3g}" for row in some]
        for dtype in ("float32", "float64"):
            ratios = [row[f"ratio {dtype}"] for row in some]
            cells.append(f"{max(ratios, key=lambda r: abs(r - 1)):.7f}")
        rows.append([f"{t:g}", *cells])
    header = ["t", *(f"B={b}" for b in BATCHES), "Eq. 5 / Eq. 8, float32", "float64"]
    out += [table(header, rows), "", "(Eq. 8 in float32; the ratio farthest from 1 of all B.)", ""]
    out += [
        "**Toy: one gradient in float32** against float64 with the same noise. Error: root mean "
        "square, relative. Lost: exactly 0 where the exact one fits float32. All t: in the JSON.",
        "",
    ]

    def error(row):
        return f"not finite: {_percent(row['not_finite'])}" if row["not_finite"] else row["rms"]

    rows, forms = [], {}
    for row in report["toy"]["levels"]:
        forms.setdefault((row["t"], row["logit"]), {})[row["sampler"]] = row
    for (t, logit), form in forms.items():
        if t not in SHOWN:
            continue
        one = form["simplified"]
        errors = [error(form[name]) for name in (*SAMPLERS, "original, unclipped", RELEASED)]
        ratio = one["antithetic"]
        rows.append([f"{t:g}", f"{logit:+g}", f"{one['exact']:.3g}",
                     f"{one['mean']:.3g} ± {one['standard_error']:.1g}",
                     *(e if isinstance(e, str) else f"{e:.0e}" for e in errors),
                     f"{_percent(form['original']['lost'])} / {_percent(one['lost'])}",
                     "" if ratio is None else f"{ratio:.2f}"])  # fmt: skip
    header = ["t", "ϑ", "exact mean", "measured, Eq. 8", "error: Eq. 5", "Eq. 8",
              "Eq. 5 unclipped", RELEASED, "lost: Eq. 5 / Eq. 8",
              "antithetic / independent variance"]  # fmt: skip
    out += [table(header, rows)]

    for study in report["networks"]:
        rows = []
        for row in study["rows"]:
            a, b = row["original"], row["simplified"]
            ratios = [f"{a['variance'][n] / b['variance'][n]:.5f}" for n in ("1", "8")]
            noise = row["noise_to_signal"]
            noise = "" if noise is None else f"{noise:.3g}"
            rows.append([row["start"], f"{row['t']:g}", f"{b['variance']['1']:.3g}",
                         f"{b['variance']['8']:.3g}", *ratios, noise,
                         f"{row['antithetic']:.2f}",
                         f"{_percent(a['lost'])} / {_percent(b['lost'])}",
                         f"{a['rms']:.1e} / {b['rms']:.1e}",
                         f"{a['max_relative']:.1e} / {b['max_relative']:.1e}"])  # fmt: skip
        header = ["ϑ", "t", "Eq. 8, B=1", "B=8", "Eq. 5 / Eq. 8, B=1", "B=8", "noise / signal, B=8",
                  "antithetic / independent", "lost, Eq. 5 / Eq. 8", "rms error",
                  "largest relative error"]  # fmt: skip
        title = f"**Network: {study['name']}, {study['size']}²**, {study['masks']} masks."
        out += ["", title, "", table(header, rows)]
    return "\n".join(out)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few masks, a tiny network")
    parser.add_argument("--weights", type=Path, help="a safetensors file: this network, too")
    parser.add_argument("--image", type=Path, help="an image for it")
    parser.add_argument("--size", type=int, default=96, help="side of the network's image")
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    args = parser.parse_args(argv)
    start = time.perf_counter()

    masks = 512 if args.quick else 8192
    report = {"toy": toy(masks), "networks": []}
    name, size, masks = ("resnet_tiny", 32, 32) if args.quick else ("resnet18", args.size, 208)
    studies = [(f"{name}, random weights", fgjax.create_model(name, 100), None, size)]
    if args.weights:
        model = fgjax.load_pretrained(None, args.weights, size=args.size)
        studies.append((args.weights.stem, model, args.image, args.size))
    for title, model, path, size in studies:
        study = network(model, read_image(path, size), masks)
        report["networks"].append({"name": title, "size": size, **study})

    shown = [Path(a).name if Path(a).exists() else a for a in argv or sys.argv[1:]]
    report["machine"] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
        "seconds": time.perf_counter() - start,
        "load": [round(x, 2) for x in os.getloadavg()],
        "command": " ".join(["python benchmarks/gradient_variance.py", *shown]),
    }
    print(markdown(report))
    if args.out:
        args.out.write_text(json.dumps(_short(report), indent=1, allow_nan=False) + "\n")
    return 0


def _short(value):
    """Numbers to seven digits: more would be noise in a stored result."""
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short(v) for v in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _cpu_name():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())

"""Eight CPU devices, in one process of their own for all tests that ask for them.

A process has its devices for life, and the other tests are for one. Every step is to be waited
for: collectives in flight on forced CPU devices can deadlock.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import traceback
from functools import cache

BEFORE = """
import jax, jax.numpy as jnp, numpy as np
from fgjax.devices.mesh import make_mesh, replicate, shard
assert jax.device_count() == 8
mesh = make_mesh("auto")
"""


@cache
def _process():
    log = tempfile.TemporaryFile("w+")
    process = subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    atexit.register(process.kill)
    return process, log


def on_eight_devices(*code: str) -> dict:
    """Run the pieces of `code` on 8 CPU devices; return what they leave in `result`."""
    process, log = _process()
    program = "\n".join(textwrap.dedent(piece) for piece in (BEFORE, *code))
    try:
        print(json.dumps(program), file=process.stdin, flush=True)
        answer = json.loads(process.stdout.readline())
    except (OSError, ValueError):
        _process.cache_clear()
        process.kill()
        log.seek(0)
        raise AssertionError(f"the process ended: {log.read()[-3000:]}") from None
    assert "error" not in answer, answer["error"]
    return answer["result"]


def _serve():
    """Answer one line of JSON, a program, with another: its result or its error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        names = {}
        try:
            exec(json.loads(line), names)
            answer = {"result": names["result"]}
        except Exception:
            answer = {"error": traceback.format_exc()[-3000:]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve()

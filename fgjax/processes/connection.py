"""Connected processes: one JAX program over the devices of all of them, by `jax.distributed`.

A program goes on only together. Where one process ends in error, the others are told by the
connection, within `HEARTBEAT` seconds, and end too; all are started again with the same commands.
"""

import inspect
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fgjax.core.progress import say
from fgjax.options.schema import ConfigError, DistributedConfig
from fgjax.processes.shares import Share, find_share

HEARTBEAT = 100
"""Seconds after which a process that says nothing counts as dead; less with a lower timeout."""
WHOLE_RUN = 30 * 24 * 3600
"""Seconds that a process which has done its share waits for the first to end the run."""
LOST = (
    "another process of this run has ended. Start all of them again with the same commands: the "
    "run goes on from its last checkpoint and the maps that are done"
)


def join(given: DistributedConfig, environment: Mapping[str, str] = os.environ) -> Share:
    """Return which process this is; with a coordinator, once it is connected to the others.

    With a coordinator it must be called before any device is touched.

    Raises:
      ConfigError: no launcher says who this is, or the processes cannot be connected.
    """
    if given.coordinator is None:
        return find_share(given, environment)
    if given.coordinator == "auto":
        return _connect(given, {}, "the coordinator that JAX finds")
    who = find_share(given, environment)
    named = dict(
        coordinator_address=given.coordinator, num_processes=who.processes, process_id=who.own
    )
    share = _connect(given, named, f"{given.coordinator} as process {who.own} of {who.processes}")
    if share != replace(who, connected=True):
        raise ConfigError(
            f"distributed.processes={who.processes}: process 0 counts {share.processes}; every "
            "process must be given the same number"
        )
    return share


def _connect(given: DistributedConfig, named: dict, told: str) -> Share:
    import jax

    from fgjax.devices.collectives import meet

    # XLA ends a process that it cannot connect with a dump of its own: we must be first.
    watch = threading.Timer(given.timeout, _give_up, [given])
    watch.daemon = True
    say(f"distributed: connecting to {told}")
    watch.start()
    # It would keep the signal by which `kill` and schedulers end a process.
    if hasattr(jax.config, "jax_enable_preemption_service"):  # older ones have it not
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **named,
            initialization_timeout=given.timeout + 60,
            heartbeat_timeout_seconds=min(HEARTBEAT, max(10, given.timeout)),
            **_shutdown(),
        )
        share = Share(jax.process_count(), jax.process_index(), connected=True)
        if jax.device_count() == share.processes * jax.local_device_count():
            meet()
    except (RuntimeError, ValueError) as error:
        raise ConfigError(_why(given, str(error))) from None
    finally:
        watch.cancel()
    if jax.device_count() != share.processes * jax.local_device_count():
        raise ConfigError(
            f"distributed.coordinator={given.coordinator}: process {share.own} has "
            f"{jax.local_device_count()} of {jax.device_count()} devices; all {share.processes} "
            "processes must have equally many"
        )
    say(f"distributed: process {share.own} of {share.processes}, {jax.device_count()} devices")
    return share


def _shutdown() -> dict[str, Any]:
    """Return how long who is done waits for the others, where jax can be told (0.7 cannot)."""
    import jax

    name = "shutdown_timeout_seconds"
    known = name in inspect.signature(jax.distributed.initialize).parameters
    return {name: WHOLE_RUN} if known else {}


def _why(given: DistributedConfig, reason: str) -> str:
    if given.coordinator == "auto" and " be defined" in reason:
        return (
            "distributed.coordinator=auto: JAX finds no TPU pod, Slurm or Open MPI that started "
            "this process; give distributed.coordinator=HOST:PORT distributed.processes=N "
            "distributed.process_id=K"
        )
    first = (reason.splitlines() or ["no reason given"])[0]
    return f"distributed.coordinator={given.coordinator}: the processes are not connected ({first})"


def _give_up(given: DistributedConfig) -> None:
    print(
        f"fgjax: distributed.coordinator={given.coordinator}: not all processes were connected "
        f"within {given.timeout} s (distributed.timeout). The address must be that of the machine "
        "of process 0, with a port that is free there and that the others can reach; all of "
        "distributed.processes must be started, each with its own distributed.process_id",
        file=sys.stderr,
    )
    _end_now(2)


def check_alike(told: Mapping[str, Any], share: Share) -> None:
    """Raise ConfigError, in every process, when they were not told the same."""
    from fgjax.devices.collectives import same_everywhere

    if not same_everywhere(json.dumps(told, sort_keys=True, default=str)):
        raise ConfigError(
            f"distributed.coordinator: process {share.own} and another one were given other "
            "options, or see other images or weights; all need the same but for "
            "distributed.process_id"
        )


def print_end(error: Exception) -> None:
    """Say why a connected process cannot go on."""
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
        first = (str(error).splitlines() or [""])[0]
        print(f"fgjax: {LOST} ({first})", file=sys.stderr)
    else:  # of this process's own
        traceback.print_exception(error)


def connected() -> bool:
    """Return whether this process is connected to others."""
    if "jax" not in sys.modules:
        return False
    import jax

    return jax.distributed.is_initialized()


def leave(code: int) -> int:
    """End a connection, when there is one: in success all processes wait for each other here; in
    error (a code above 1) this process ends at once, which ends the others.

    Returns:
      the exit code.
    """
    if not connected():
        return code
    import jax

    if code > 1:
        # Process 0 takes the others with it: they may be about to say the same.
        time.sleep(1 if jax.process_index() == 0 else 0)
        _end_now(code)
    try:
        jax.distributed.shutdown()
    except RuntimeError:
        print(f"fgjax: {LOST}", file=sys.stderr)
        _end_now(3)
    return code


def _end_now(code: int) -> None:
    # The usual way out would wait for the other processes.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)

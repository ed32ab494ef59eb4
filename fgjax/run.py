"""What the command does: fgjax config=NAME key=value …"""

import errno
import logging
import sys
import warnings

import fgjax
from fgjax.attribution import METHODS
from fgjax.core.ctrl_c import INTERRUPTED, end_soon_after_ctrl_c
from fgjax.data.types import DataError
from fgjax.options.help import print_help
from fgjax.options.resolve import resolve
from fgjax.options.schema import ConfigError
from fgjax.processes.connection import check_alike, connected, join, leave, print_end
from fgjax.processes.shares import ALONE
from fgjax.sweeps.grid import find_grid

FULL, MAKE_ROOM = "No space left on device", "Make room, and the same command goes on from here"


def main(words: list[str] | None = None) -> int:
    """Run a config.

    Args:
      words: of the command line; None: those of this process.

    Returns:
      0; 1 when images failed; 2 for a wrong option or unusable data; 3 when a process that this
      one is connected to has ended; 130 when interrupted.
    """
    return leave(_main(sys.argv[1:] if words is None else words))


def _main(words: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without our arrows shows a "?"
            stream.reconfigure(errors="replace")
    try:
        if not words or {"-h", "--help", "help"} & set(words):
            chosen = [w.partition("=")[2] for w in words if w.startswith("explain.method=")]
            about = [w for w in words if w not in ("-h", "--help", "help") and "=" not in w]
            methods = [method for method in chosen if method in METHODS]
            if methods and not about:
                about = ["explain."]
            print_help(about[0] if about else "", *methods)
            return 0
        if words == ["--version"]:
            print(f"fgjax {fgjax.__version__}")
            return 0
        return run(words)
    except (ConfigError, DataError) as error:
        print(f"fgjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        cure = f". {MAKE_ROOM}" if error.errno == errno.ENOSPC else ""
        print(f"fgjax: {where}{error.strerror or error}{cure}", file=sys.stderr)
        return 2
    except Exception as error:
        if not connected():
            if FULL in str(error):  # as other libraries tell it
                print(f"fgjax: {FULL}. {MAKE_ROOM}", file=sys.stderr)
                return 2
            raise
        print_end(error)
        return 3


def run(words: list[str]) -> int:
    """Resolve a config and walk through its stages, or, of one with a `grid`, its trials.

    See `main` for errors and results.
    """
    if grid := find_grid(words):
        from fgjax.sweeps.sweep import sweep

        return sweep(*grid, words)
    name, config, plain = resolve(words)
    # The stages load Orbax and tensorstore: wrong options are told before that.
    from fgjax.devices.allocation import keep_freed_memory
    from fgjax.devices.cache import use_cache
    from fgjax.devices.compiler import newer_jax_is_faster, use_onednn
    from fgjax.devices.found import devices_line, unused_accelerator
    from fgjax.runs.folder import settled
    from fgjax.runs.lock import let_go
    from fgjax.stages.chain import walk, wanted
    from fgjax.stages.dry_run import dry_run
    from fgjax.stages.job import Job

    _quiet()
    if config.devices.keep_memory:
        keep_freed_memory()
    use_cache()
    use_onednn(config.devices.onednn)
    job = Job(name, config, plain, ALONE if config.dry_run else join(config.distributed))
    stages = wanted(job)
    if job.share.leads:
        print(f"devices: {devices_line()}", flush=True)
        if warning := unused_accelerator():
            print(warning, file=sys.stderr, flush=True)
    if config.dry_run:
        dry_run(job)
        return 0
    if job.share.connected:
        both = {
            "stages": config.stages, "parallel": config.parallel, "data.limit": config.data.limit,
            "data.test_share": config.data.test_share,
        }  # fmt: skip
        check_alike(settled(plain) | both | job.fingerprints, job.share)
    if job.share.leads and (advice := newer_jax_is_faster()):
        print(advice, flush=True)
    try:
        return walk(job, stages)
    finally:
        let_go()


def _quiet() -> None:
    """Keep other libraries' chatter off the console; it is of no use to a user."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax writes tracebacks there
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"orbax\.")


if __name__ == "__main__":
    end_soon_after_ctrl_c()
    sys.exit(main())

"""Compiled programs on disk, so that a second start need not compile again."""

import os
import stat

import jax

from fgjax.core.files import user_cache


def use_cache() -> None:
    """Keep compiled programs in the user's own cache folder, unless JAX was told another.

    The folder must belong to the user and to nobody else: what lies in it is run.
    """
    base = user_cache()
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or not hasattr(os, "getuid") or base is None:
        return
    try:
        folder = base / "jax"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = folder.stat()
    except OSError:  # no such place
        return
    if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

"""Packages that not everybody needs: an error that says how to get the one that is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtraError(ImportError, ValueError):
    """A package of an extra is not installed. The message names the extra."""


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Turn a failed import within the block into an error that names the extra.

    with extra("hub", "weights from the Hugging Face hub"):
        import huggingface_hub

    Args:
      name: of the extra in pyproject.toml.
      purpose: what needs it, as the sentence "`purpose` need(s) …" begins.

    Raises:
      MissingExtraError: the import failed because a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{purpose}: needs the package {(error.name or '?').split('.')[0]}, which is not "
            f'installed: pip install "fgjax[{name}]"'
        ) from None

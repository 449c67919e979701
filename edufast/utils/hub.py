"""Downloads of weights: from the cache of this machine, from a server that answers, or one line."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten
from urllib.parse import urlsplit

from edufast.utils.errors import UserError, one_line

_SECONDS = 10.0  # for a server to answer


@contextmanager
def from_hub(what: str) -> Iterator[None]:
    """Within the block something is read from the Hugging Face hub: from its cache on this machine
    where the hub does not answer. Its library would try again for a minute, and print pages.

    Args:
        what: in messages, a plural.

    Raises:
        UserError: the hub does not answer and nothing was downloaded before, or anything else
            fails, as files that are damaged.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if constants.HF_HUB_OFFLINE and is_missing(error):
            raise _unreachable(what, constants.ENDPOINT) from error
        # Some list every model that there is.
        reason = shorten(one_line(error), 400, placeholder=" …")
        raise UserError(f"{what} cannot be loaded: {reason}") from error
    finally:
        constants.HF_HUB_OFFLINE = before


def is_missing(error: BaseException) -> bool:
    """Whether an error says that a file of the hub is not on this machine."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    earlier = error.__cause__ or error.__context__
    found = isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled))
    return found or (earlier is not None and is_missing(earlier))


@contextmanager
def from_server(what: str, url: str) -> Iterator[None]:
    """Within the block ``url`` is downloaded; see :func:`from_hub`."""
    if not _answers(url):
        raise _unreachable(what, url)
    try:
        yield
    except Exception as error:
        raise UserError(f"{what} cannot be loaded: {one_line(error)}") from error


def _answers(url: str) -> bool:
    """Whether there is a server, whatever it says."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _unreachable(what: str, url: str) -> UserError:
    return UserError(
        f"{what} are not on this machine, and {urlsplit(url).hostname} does not answer; expected a "
        "network, or the path of a file of weights"
    )

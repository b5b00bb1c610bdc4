# SPDX-License-Identifier: Apache-2.0
"""A quick check that timm's hub can deliver weights, without a download.

A client of the hub retries for most of a minute before it gives up. A training without a network would
fail that late.
"""

import os
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

TIMEOUT_S = 1.5
_FILES = ("model.safetensors", "pytorch_model.bin")
_DENIED = (403, 407)
"""Answers of a proxy that does not let the request through."""


def is_cached(repository: str, url: str) -> bool:
    """Return whether an earlier download of weights is on this machine.

    Args:
        repository: repository of the Hugging Face hub, empty for none.
        url: address of the file outside of the hub, empty for none.
    """
    from huggingface_hub import try_to_load_from_cache
    from torch.hub import get_dir

    if repository and any(isinstance(try_to_load_from_cache(repository, name), str) for name in _FILES):
        return True
    return bool(url) and (Path(get_dir()) / "checkpoints" / Path(urlparse(url).path).name).exists()


def is_reachable(repository: str, url: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Return whether the host of weights answers within ``timeout_s`` seconds; see ``is_cached``."""
    from huggingface_hub import constants

    if not repository and not url:
        return False
    if repository and (constants.HF_HUB_OFFLINE or _is_set("HF_HUB_OFFLINE")):
        return False
    address = f"{constants.ENDPOINT}/{repository}/resolve/main/{_FILES[0]}" if repository else url
    answered: list[bool] = []
    # In a thread, because the lookup of a name has no timeout.
    probe = threading.Thread(target=lambda: answered.append(_answers(address, timeout_s)), daemon=True)
    probe.start()
    probe.join(timeout_s)
    return any(answered)


def _answers(address: str, timeout_s: float) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=timeout_s):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500 and error.code not in _DENIED
    except Exception:  # a proxy may answer in any way
        return False


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")

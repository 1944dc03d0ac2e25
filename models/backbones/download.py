"""Download of published weights, which ends within seconds where there is no network.

timm's and PyTorch's downloaders retry for a minute before they fail. Here a file of the cache is
used if there is one; otherwise the server must answer once before they are asked (A304).
"""

from __future__ import annotations

import dataclasses
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import torch

from models.backbones.lazy_timm import load_timm

_SECONDS: Final = 3.0
_REMEDY = (
    "Download the file where there is a network and name it by --model.init_args.init_from FILE "
    "(docs/weights.md) or by the argument weights of the backbone, or set pretrained: false"
)


class DownloadError(ValueError):
    """Error for published weights that are neither in the cache nor can be downloaded.

    Attributes:
        file: the file or the model.
        reason: one line.
    """

    def __init__(self, file: str, reason: str) -> None:
        self.file, self.reason = file, reason.partition("\n")[0][:200]
        super().__init__(
            f"pretrained: true: the weights of {file} are not in the cache ({self.reason}). "
            f"{_REMEDY}"
        )


def download_state_dict(url: str) -> Mapping[str, Any]:
    """Return a state dict that ``torch.hub`` has in its cache or downloads.

    Raises:
        ValueError: it is not in the cache and cannot be downloaded.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    if not file.is_file():
        _check_reachable(url, file.name)
    try:
        state: Mapping[str, Any] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise DownloadError(file.name, str(error)) from None
    return state


def create_timm(name: str, *, pretrained: bool, hub: str | None = None, **options: Any) -> Any:
    """Create a timm model, with its published weights if asked for.

    Args:
        name: timm model name.
        pretrained: load the weights from the cache or download them.
        hub: ``OWNER/NAME`` of a page of Hugging Face whose weights take the place of timm's.
        options: further arguments of ``timm.create_model``.

    Raises:
        ValueError: there are no published weights, or they are not in the cache and cannot be
            downloaded.
    """
    timm = load_timm()
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    published = timm.get_pretrained_cfg(name)
    if hub is not None and published is not None:
        overlay = {"hf_hub_id": hub, "hf_hub_filename": None, "url": "", "custom_load": False}
        published = dataclasses.replace(published, **overlay)
        options["pretrained_cfg_overlay"] = overlay
    if published is None or not published.has_weights:
        raise ValueError(f"pretrained: true: timm publishes no weights for {name}; set it to false")
    file = _cached(published)
    if file is not None:
        options["pretrained_cfg_overlay"] = options.get("pretrained_cfg_overlay", {}) | {
            "file": file
        }
    elif published.hf_hub_id:
        from huggingface_hub import constants

        _check_reachable(constants.ENDPOINT, name)
    elif not _in_torch_cache(published.url):
        _check_reachable(published.url, name)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # each downloader has errors of its own
        raise DownloadError(name, f"{type(error).__name__}: {error}") from error


def _cached(published: Any) -> str | None:
    """Return the file of Hugging Face's cache, None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    if not published.hf_hub_id:
        return None
    repository, _, revision = published.hf_hub_id.partition("@")
    for name in (published.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
        found = name and try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(found, str):
            return found
    return None


def _in_torch_cache(url: str) -> bool:
    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name).is_file()


def _check_reachable(url: str, name: str) -> None:
    """Raise a ValueError unless the server of a URL answers anything within three seconds.

    The request runs in a thread, since looking up a name cannot be given a limit of time.
    """
    answer: list[str] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=_SECONDS).close()
        except urllib.error.HTTPError:
            answer.append("")
        except (OSError, ValueError) as error:
            answer.append(str(error) or type(error).__name__)
        else:
            answer.append("")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    fault = answer[0] if answer else f"no answer within {_SECONDS:g} s"
    if fault:
        raise DownloadError(name, f"{urlsplit(url).netloc} cannot be reached: {fault}")

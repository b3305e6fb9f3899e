"""Networks as ONNX: normalisation inside, probabilities out, and all that a checkpoint says of itself as metadata."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from src.atomic import whole_file
from src.bands import as_dtype
from src.errors import UserError
from src.models.architectures import accepted_sizes
from src.models.network import Network
from src.spec import NetworkSpec

DIVISOR = 255.0
"""What Deepness divides every number by before the network sees it; the graph multiplies by it first."""
SPEC = "specdeepmap"
"""Key of the metadata that holds the network's spec."""
INPUT, OUTPUT = "input", "probabilities"
_NODATA_ERROR = 1e-6
"""Share of a nodata value by which float32 may miss it after a division by 255 and back."""
_LOWEST = 1e-30
"""Smallest probability whose logarithm is taken."""


class Exported(nn.Module):
    """What is exported: file numbers / 255, B × C × H × W float32 → probabilities B × n × H × W.

    A pixel is no measurement if a used band is not finite or equals the training chips' nodata value.
    """

    def __init__(self, network: Network, spec: NetworkSpec) -> None:
        super().__init__()
        self.network = network
        self.nodata = _nodata(spec)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return probabilities."""
        image = image * DIVISOR
        missing = torch.isnan(image) | torch.isinf(image)
        if self.nodata is not None:
            missing = missing | ((image - self.nodata).abs() <= _NODATA_ERROR * abs(self.nodata))
        valid = ~(missing & self.network.used).any(1, keepdim=True)
        probabilities: torch.Tensor = self.network(image, valid).softmax(1)
        return probabilities


def _nodata(spec: NetworkSpec) -> float | None:
    """Return the nodata value that a graph looks for, as float32 has it; None for what is no number there anyway."""
    nodata = None if spec.nodata_is_data else as_dtype(spec.nodata, "float32")
    return None if nodata is None or np.isinf(nodata) else float(nodata)


def takes_other_sizes(network: Network, spec: NetworkSpec) -> bool:
    """Tell whether a network takes more than the size of its training chips."""
    width, height = spec.chip_size
    return bool(accepted_sizes(network.architecture, len(spec.bands), [(2 * width, 2 * height)]))


def write_onnx(path: Path, network: Network, spec: NetworkSpec, metadata: dict[str, Any], *, free: bool) -> None:
    """Write a network as ONNX, whole or not at all; the batch's size is free.

    Args:
        path: The file.
        network: The network, on the CPU in eval mode.
        spec: What it is.
        metadata: Written into the file as JSON, key by key, beside the spec.
        free: Whether height and width are free; else they are those of the training chips.

    Raises:
        UserError: The network has operations that ONNX lacks.
    """
    exported = Exported(network, spec).eval()
    width, height = spec.chip_size
    example = torch.zeros(2, len(spec.bands), height, width)
    try:
        program = _traced(exported, example, free)
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(
            f"{spec.title} has operations that ONNX lacks ({_first_line(error)}); expected a "
            "network that can be exported. Train another architecture or encoder to have one."
        ) from error
    model = program.model_proto
    if free:
        _square(model)
    for key, value in (metadata | {SPEC: spec.to_dict()}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, ensure_ascii=False)
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        del node.metadata_props[:]  # where in whose folders the exporter has met it
    onnx.checker.check_model(model)
    with whole_file(path) as partial:
        onnx.save(model, partial)


def _traced(exported: Exported, example: torch.Tensor, free: bool) -> Any:
    """Run PyTorch's exporter without what it prints."""
    auto = torch.export.Dim.AUTO
    sizes = {0: torch.export.Dim("batch")} | ({2: auto, 3: auto} if free else {})
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        _quiet("torch.onnx", "onnxscript", "onnx_ir"),
    ):
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            exported,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"image": sizes},
            external_data=False,
            verbose=False,
        )


def _square(model: onnx.ModelProto) -> None:
    """Call height and width of input and output by one name: Deepness wants to read that they are equal.

    A name is no promise that anybody holds the model to: other shapes still run.
    """
    for value in (*model.graph.input, *model.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        for number in (2, 3):
            dimensions[number].dim_param = "size"


def probabilities_of(path: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Run an exported network with ONNX Runtime on file numbers B × C × H × W, as another program would."""
    session = open_session(path)
    result: npt.NDArray[np.float32] = session.run([OUTPUT], {INPUT: images / np.float32(DIVISOR)})[0]
    return result


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a file with ONNX Runtime; raises UserError for one that it cannot read."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a dozen kinds
        raise UserError(f"{path} cannot be read as ONNX; expected a file that export.py wrote.") from error


def load_onnx(path: Path) -> tuple[Network, NetworkSpec]:
    """Open an exported network so that eval and predict take it for any other.

    Raises:
        UserError: The file cannot be read, or is not one that export.py wrote.
    """
    session = open_session(path)
    text = session.get_modelmeta().custom_metadata_map.get(SPEC)
    if text is None:
        raise UserError(f"{path} does not describe its network; expected a file that export.py wrote.")
    try:
        row = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} describes its network in no JSON; expected a file that export.py wrote.") from error
    spec = NetworkSpec.from_dict(row, str(path))
    architecture = OnnxArchitecture(session, spec)
    width, height = spec.chip_size
    try:
        shape = architecture(torch.zeros(1, len(spec.bands), height, width)).shape
    except Exception as error:  # ONNX Runtime has a dozen kinds
        raise UserError(
            f"{path} does not take the chips that it describes ({_first_line(error)}); expected a file that export.py "
            "wrote. Export the network again."
        ) from error
    if shape != (1, len(spec.classes), height, width):
        raise UserError(
            f"{path} describes {len(spec.classes)} classes, but answers a chip of {width} × {height} px with "
            f"numbers of the shape {tuple(shape)}; expected a file that export.py wrote. Export the network again."
        )
    return Network(architecture, spec.normalization, full_precision=True).eval(), spec


class OnnxArchitecture(nn.Module):
    """An exported network in an architecture's place: normalised B × C × H × W → logarithms of probabilities.

    The normalisation in the file is undone before, since whoever calls has done it. Pixels without a measurement
    are 0 here; undone they are the bands' means, which the file's own normalisation makes 0 again. Whoever calls knows
    which those are: the training chips' nodata value, which may be a measurement in a raster that declares another one,
    is moved out of the file's reach.
    """

    def __init__(self, session: onnxruntime.InferenceSession, spec: NetworkSpec) -> None:
        super().__init__()
        shape = (1, len(spec.bands), 1, 1)
        self._session = session
        self._scale = np.float32(spec.normalization.scale / DIVISOR)
        self._mean = np.asarray(spec.normalization.mean, np.float32).reshape(shape)
        self._std = np.asarray(spec.normalization.std, np.float32).reshape(shape)
        self._nodata = _nodata(spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxArchitecture:
        return self

    def forward(self, normalized: torch.Tensor) -> torch.Tensor:
        """Return logits B × n × H × W on the input's device."""
        if normalized.is_meta:
            raise RuntimeError("an ONNX file takes no meta tensors")
        numbers = (normalized.float().cpu().numpy() * self._std + self._mean) * self._scale
        if self._nodata is not None:
            nodata = np.float32(self._nodata / DIVISOR)
            near = np.abs(numbers - nodata) <= 3 * _NODATA_ERROR * abs(nodata)
            numbers[near] = nodata * np.float32(1 + 4 * _NODATA_ERROR) if nodata else np.float32(_LOWEST)
        probabilities = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(numbers)})[0]
        return torch.from_numpy(probabilities).clamp_min(_LOWEST).log().to(normalized.device)


@contextlib.contextmanager
def _quiet(*names: str) -> Any:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return str(error.__cause__ or error).strip().splitlines()[0][:160]

# SPDX-License-Identifier: Apache-2.0
"""Messages of the Open Inference Protocol.

A model has one input, ``image``: BYTES of shape [N], each an encoded image. It answers with one value per
image for each requested output.
"""

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as config_pb
from tritonclient.grpc import service_pb2 as pb

from blemish_core.imaging.geometry import MAX_PIXELS
from blemish_core.imaging.image_input import ImageInput
from blemish_core.models.bundle import Manifest
from blemish_core.models.store import Model
from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.names import PRODUCTION, ModelRef, validate_id
from blemish_server.converters.maps import shrunk_map
from blemish_server.converters.regions import regions_to_proto
from blemish_server.converters.values import check_count
from blemish_server.scoring.batcher import Priority
from blemish_server.scoring.inspection import Inspection, NamingPolicy
from blemish_server.scoring.model_cache import Usage

INPUT = "image"
ANOMALY_MAP = "anomaly_map"
REGIONS = "regions"
"""Output that has to be asked for before the image is scored."""
MAX_IMAGES = 64
_MAX_DIMENSIONS = 8
"""Most dimensions of a shape. One is needed, and some clients send further ones of length 1."""


@dataclass(frozen=True)
class _Output:
    """An output of a model, and its type as the protocol and NumPy spell it."""

    datatype: str
    dtype: str
    value: Callable[[Inspection], object]
    shape: Callable[[Manifest], list[int]] = lambda manifest: []
    """Shape of the value of one image; -1 where the manifest does not contain it."""
    default: bool = True
    """True if it is sent when the request names no outputs."""


def regions_to_json(inspection: Inspection) -> bytes:
    """Return the regions of an image as JSON in UTF-8, a list of ``DefectRegion`` of the contract."""
    mm_per_px = inspection.calibration.regions.mm_per_px
    messages = regions_to_proto(inspection.regions or (), mm_per_px)
    return json.dumps(
        [MessageToDict(message, preserving_proto_field_name=True) for message in messages]
    ).encode()


def _map_shape(manifest: Manifest) -> list[int]:
    # The inputs of a model with a scale follow the size of the frame.
    return [-1, -1] if manifest.settings.get("scale") else [manifest.input_size, manifest.input_size]


def _defect_class(inspection: Inspection) -> bytes:
    """Return the class of a defect in UTF-8; empty if it is unknown or the image is normal."""
    return inspection.defect_class.name.encode() if inspection.defect_class is not None else b""


def _defect_class_share(inspection: Inspection) -> float:
    return inspection.defect_class.share if inspection.defect_class is not None else 0.0


_NAMING_OUTPUTS = ("defect_class", "defect_class_share")
_OUTPUTS = {
    "score": _Output("FP32", "<f4", lambda inspection: inspection.score),
    "p_value": _Output("FP64", "<f8", lambda inspection: inspection.p_value),
    "anomalous": _Output("BOOL", "?", lambda inspection: inspection.is_anomalous),
    "threshold": _Output("FP32", "<f4", lambda inspection: inspection.threshold),
    ANOMALY_MAP: _Output(
        "FP32", "<f4", lambda inspection: inspection.prediction.anomaly_map, _map_shape, default=False
    ),
    "embedding": _Output(
        "FP32",
        "<f4",
        lambda inspection: inspection.prediction.embedding,
        lambda manifest: [-1],
        default=False,
    ),
    REGIONS: _Output("BYTES", "O", regions_to_json, default=False),
    "defect_class": _Output("BYTES", "O", _defect_class, default=False),
    "defect_class_share": _Output("FP64", "<f8", _defect_class_share, default=False),
}


def parse_model(name: str, version: str) -> ModelRef:
    """Return the reference to a version by its number, to ``production``, or to the current version.

    Raises:
        InvalidRequest: if the name or the version is not valid.
    """
    validate_id(name, "model_name")
    if version in ("", PRODUCTION):
        return ModelRef(name, None, version or None)
    return ModelRef.parse(f"models/{name}/versions/{version}", "model_version")


def parse_images(request: Any) -> list[ImageInput]:
    """Return the images of a request, sent as raw input or as tensor contents.

    Raises:
        InvalidRequest: if the input is not a list of images.
    """
    if [tensor.name for tensor in request.inputs] != [INPUT]:
        raise InvalidRequest(
            f"a request needs one input named {INPUT!r}; see ModelMetadata", field="inputs"
        )
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise InvalidRequest(
            f"the datatype of {INPUT} is {tensor.datatype}; send encoded images as BYTES",
            field="inputs.datatype",
        )
    check_count(tensor.shape, _MAX_DIMENSIONS, "inputs.shape")
    if request.raw_input_contents:
        elements = _unpack(request.raw_input_contents[0])
    else:
        elements = iter(tensor.contents.bytes_contents)
    images = list(islice(elements, MAX_IMAGES + 1))
    if math.prod(tensor.shape) != len(images) or not 1 <= len(images) <= MAX_IMAGES:
        raise InvalidRequest(
            f"the shape {list(tensor.shape)} does not fit {_number(images)} images; send 1 to {MAX_IMAGES} "
            "images, and their number as the shape",
            field="inputs.shape",
        )
    return [ImageInput(image) for image in images]


def _number(images: Sequence[bytes]) -> str:
    return str(len(images)) if len(images) <= MAX_IMAGES else f"more than {MAX_IMAGES}"


def _unpack(packed: bytes) -> Iterator[bytes]:
    """Yield the elements of a BYTES tensor, each with its length as 4 bytes, little endian."""
    start = 0
    while start < len(packed):
        end = start + 4
        if end <= len(packed):
            (length,) = struct.unpack_from("<I", packed, start)
            start, end = end, end + length
        if end > len(packed):
            raise InvalidRequest(
                "raw_input_contents ends within an element; send the length as 4 bytes, little endian, "
                "before each element",
                field="raw_input_contents",
            )
        yield packed[start:end]
        start = end


def parse_outputs(request: Any) -> list[str]:
    """Return the names of the requested outputs.

    Raises:
        InvalidRequest: if there is no such output, or one is repeated often.
    """
    check_count(request.outputs, len(_OUTPUTS), "outputs")
    names = [output.name for output in request.outputs]
    for name in names:
        if name not in _OUTPUTS:
            raise InvalidRequest(
                f"there is no output {name[:40]!r}; use {', '.join(_OUTPUTS)}", field="outputs"
            )
    return names or [name for name, output in _OUTPUTS.items() if output.default]


def naming_for(outputs: Sequence[str], *, waits: bool) -> NamingPolicy:
    """Return the handling of the class of defects, in a call that ``waits`` for labels or does not."""
    if not set(outputs) & set(_NAMING_OUTPUTS):
        return NamingPolicy.NONE
    return NamingPolicy.WAIT if waits else NamingPolicy.AT_ONCE


def parse_request_priority(request: Any) -> Priority | None:
    """Return Triton's ``priority`` parameter, in which 1 is the highest. None means unspecified.

    Raises:
        InvalidRequest: if the priority is unknown.
    """
    parameters = request.parameters
    number = 0
    if "priority" in parameters:  # because reading a missing key would add it
        number = parameters["priority"].uint64_param or parameters["priority"].int64_param
    if not 0 <= number <= len(Priority):
        raise InvalidRequest(
            f"priority is {number}; use 1 (line stop), 2 (audit) or 3 (backfill)",
            field="parameters.priority",
        )
    return Priority(number - 1) if number else None


def parse_timeout(request: Any) -> float:
    """Return Triton's ``timeout`` parameter in seconds, infinite if unspecified."""
    parameters = request.parameters
    timeout_us = parameters["timeout"].int64_param if "timeout" in parameters else 0
    return timeout_us / 1e6 if timeout_us else math.inf


def inspections_to_proto(
    request: Any,
    inspections: Sequence[Inspection],
    names: Sequence[str],
    *,
    max_map_pixels: int = MAX_PIXELS,
) -> Any:
    """Return the response to a request: one tensor per output, its first dimension the images.

    Maps that have more than ``max_map_pixels`` together are shrunk.

    Raises:
        InvalidRequest: if an output has another shape for each image, as maps of frames of several sizes.
    """
    manifest = inspections[0].manifest
    response = pb.ModelInferResponse(
        model_name=manifest.model, model_version=str(manifest.version), id=request.id
    )
    for name in names:
        output = _OUTPUTS[name]
        each = [np.asarray(output.value(inspection), output.dtype) for inspection in inspections]
        if name == ANOMALY_MAP:
            each = [shrunk_map(value, max(1, max_map_pixels // len(each))) for value in each]
        if len({value.shape for value in each}) > 1:
            raise InvalidRequest(
                f"the images have outputs {name} of different sizes, which one tensor cannot hold; send "
                "images of one size in a request",
                field="inputs",
            )
        values: NDArray[Any] = np.stack(each)
        response.outputs.add(name=name, datatype=output.datatype, shape=values.shape)
        if output.datatype == "BYTES":
            response.raw_output_contents.append(_pack(values.tolist()))
        else:
            response.raw_output_contents.append(values.tobytes())
    return response


def _pack(elements: Sequence[bytes]) -> bytes:
    """Return a BYTES tensor, each element with its length as 4 bytes, little endian."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def metadata_to_proto(manifest: Manifest, model: Model) -> Any:
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=manifest.model,
        versions=[str(each.version) for each in reversed(model.versions)],
        platform=f"blemish_{manifest.detector}",
        inputs=[tensor(name=INPUT, datatype="BYTES", shape=[-1])],
        outputs=[
            tensor(name=name, datatype=output.datatype, shape=[-1, *output.shape(manifest)])
            for name, output in _OUTPUTS.items()
        ],
    )


def config_to_proto(manifest: Manifest) -> Any:
    types = {"BYTES": config_pb.TYPE_STRING} | {
        name: config_pb.DataType.Value(f"TYPE_{name}") for name in ("FP32", "FP64", "BOOL")
    }
    return pb.ModelConfigResponse(
        config=config_pb.ModelConfig(
            name=manifest.model,
            platform=f"blemish_{manifest.detector}",
            max_batch_size=MAX_IMAGES,
            # To Triton the images of a request are a batch, which dims leave out.
            input=[config_pb.ModelInput(name=INPUT, data_type=types["BYTES"], dims=[1])],
            output=[
                config_pb.ModelOutput(
                    name=name, data_type=types[output.datatype], dims=output.shape(manifest) or [1]
                )
                for name, output in _OUTPUTS.items()
            ],
        )
    )


def usage_to_proto(ref: ModelRef, usage: Usage) -> Any:
    def duration(seconds: float) -> Any:
        return pb.StatisticDuration(count=usage.images, ns=int(seconds * 1e9))

    return pb.ModelStatistics(
        name=ref.model,
        version=str(ref.version),
        last_inference=int(usage.last_used * 1000),
        inference_count=usage.images,
        execution_count=usage.images,
        inference_stats=pb.InferStatistics(
            success=duration(usage.queue_s + usage.decode_s + usage.inference_s),
            queue=duration(usage.queue_s),
            compute_input=duration(usage.decode_s),
            compute_infer=duration(usage.inference_s),
        ),
    )

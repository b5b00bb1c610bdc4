# SPDX-License-Identifier: Apache-2.0
"""Messages of the Open Inference Protocol.

A model has one input, ``image``: BYTES of shape [N], each an encoded image, or UINT8 pixels of shape
[N, H, W, C] or [H, W, C]. It answers with one value per image for each requested output. Tensors are in the
message, or in shared memory that the client has registered.
"""

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as config_pb
from tritonclient.grpc import service_pb2 as pb

from blemish_core.imaging.geometry import MAX_PIXELS
from blemish_core.imaging.image_input import ImageInput, RawLayout
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
from blemish_server.transport.shared_memory import SharedPart, SharedRegion

INPUT = "image"
ANOMALY_MAP = "anomaly_map"
REGIONS = "regions"
"""Output that has to be asked for before the image is scored."""
MAX_IMAGES = 64
_CHANNELS = {1: "Mono8", 3: "RGB8"}
"""Pixel format of UINT8 tensors, by their number of channels."""
_SHARED_REGION = "shared_memory_region"
_SHARED_SIZE = "shared_memory_byte_size"
_SHARED_OFFSET = "shared_memory_offset"
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


ReadShared = Callable[[SharedPart], bytes]
"""Returns the bytes of a tensor in shared memory."""


WriteShared = Callable[[SharedPart, bytes], None]
"""Writes the bytes of a tensor to shared memory."""


def uses_shared_memory(request: Any) -> bool:
    """Return whether a tensor of a request is in shared memory."""
    tensors = (*request.inputs, *request.outputs)
    return any(_SHARED_REGION in tensor.parameters for tensor in tensors)


def parse_shared_part(tensor: Any, field: str) -> SharedPart | None:
    """Return the part of shared memory that holds a tensor; None if the message holds it.

    Raises:
        InvalidRequest: if its size is missing.
    """
    parameters = tensor.parameters
    if _SHARED_REGION not in parameters:  # because reading a missing key would add it
        return None
    if _SHARED_SIZE not in parameters:
        raise InvalidRequest(
            f"{_SHARED_REGION} needs the parameter {_SHARED_SIZE}; add it", field=f"{field}.parameters"
        )
    offset = parameters[_SHARED_OFFSET].int64_param if _SHARED_OFFSET in parameters else 0
    return SharedPart(parameters[_SHARED_REGION].string_param, offset, parameters[_SHARED_SIZE].int64_param)


def parse_images(request: Any, read_shared: ReadShared | None = None) -> list[ImageInput]:
    """Return the images of a request, sent as raw input, as tensor contents or in shared memory.

    Raises:
        InvalidRequest: if the input is not a list of images.
    """
    if [tensor.name for tensor in request.inputs] != [INPUT]:
        raise InvalidRequest(
            f"a request needs one input named {INPUT!r}; see ModelMetadata", field="inputs"
        )
    tensor = request.inputs[0]
    if tensor.datatype not in ("BYTES", "UINT8"):
        raise InvalidRequest(
            f"the datatype of {INPUT} is {tensor.datatype[:40]}; send encoded images as BYTES, "
            "or pixels as UINT8",
            field="inputs.datatype",
        )
    check_count(tensor.shape, _MAX_DIMENSIONS, "inputs.shape")
    raw = request.raw_input_contents[0] if request.raw_input_contents else None
    if (part := parse_shared_part(tensor, "inputs")) is not None:
        if read_shared is None:
            raise InvalidRequest("shared memory is not available here; send the tensor", field="inputs")
        raw = read_shared(part)
    return _parse_pixels(tensor, raw) if tensor.datatype == "UINT8" else _parse_encoded(tensor, raw)


def _parse_encoded(tensor: Any, raw: bytes | None) -> list[ImageInput]:
    elements = _unpack(raw) if raw is not None else iter(tensor.contents.bytes_contents)
    images = list(islice(elements, MAX_IMAGES + 1))
    if math.prod(tensor.shape) != len(images) or not 1 <= len(images) <= MAX_IMAGES:
        raise InvalidRequest(
            f"the shape {list(tensor.shape)} does not fit {_number(images)} images; send 1 to {MAX_IMAGES} "
            "images, and their number as the shape",
            field="inputs.shape",
        )
    return [ImageInput(image) for image in images]


def _parse_pixels(tensor: Any, raw: bytes | None) -> list[ImageInput]:
    """Return the images of a UINT8 tensor of shape (N, H, W, C) or (H, W, C)."""
    shape = list(tensor.shape)
    number, height, width, channels = (
        shape if len(shape) == 4 else [1, *shape] if len(shape) == 3 else [0] * 4
    )
    if not 1 <= number <= MAX_IMAGES or min(height, width) < 1 or channels not in _CHANNELS:
        raise InvalidRequest(
            f"the shape {shape} is not one of images; send [N, H, W, C] or [H, W, C] with C 1 or 3, and at "
            f"most {MAX_IMAGES} images",
            field="inputs.shape",
        )
    if raw is None:
        try:
            raw = bytes(tensor.contents.uint_contents)
        except ValueError as error:
            raise InvalidRequest(
                "uint_contents has a value above 255; send UINT8", field="inputs.contents"
            ) from error
    size = height * width * channels
    if len(raw) != number * size:
        raise InvalidRequest(
            f"the shape {shape} needs {number * size} bytes, and the tensor has {len(raw)}; "
            "send all pixels",
            field="inputs.shape",
        )
    layout = RawLayout(_CHANNELS[channels], width, height)
    return [ImageInput(raw[start : start + size], layout) for start in range(0, len(raw), size)]


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
    write_shared: WriteShared | None = None,
) -> Any:
    """Return the response to a request: one tensor per output, its first dimension the images.

    Maps that have more than ``max_map_pixels`` together are shrunk. Outputs that the client expects in
    shared memory are written there.

    Raises:
        InvalidRequest: if an output has another shape for each image, as maps of frames of several sizes.
    """
    manifest = inspections[0].manifest
    response = pb.ModelInferResponse(
        model_name=manifest.model, model_version=str(manifest.version), id=request.id
    )
    parts = {output.name: parse_shared_part(output, "outputs") for output in request.outputs}
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
        added = response.outputs.add(name=name, datatype=output.datatype, shape=values.shape)
        data = _pack(values.tolist()) if output.datatype == "BYTES" else values.tobytes()
        if (part := parts.get(name)) is not None and write_shared is not None:
            write_shared(part, data)
            added.parameters[_SHARED_REGION].string_param = part.region
            added.parameters[_SHARED_OFFSET].int64_param = part.offset
            added.parameters[_SHARED_SIZE].int64_param = len(data)
            data = b""  # clients count the contents by output, as Triton sends them
        response.raw_output_contents.append(data)
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


def regions_status_to_proto(regions: Mapping[str, SharedRegion]) -> Any:
    status = pb.SystemSharedMemoryStatusResponse.RegionStatus
    return pb.SystemSharedMemoryStatusResponse(
        regions={
            name: status(name=name, key=region.key, offset=region.offset, byte_size=region.byte_size)
            for name, region in regions.items()
        }
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

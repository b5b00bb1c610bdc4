# SPDX-License-Identifier: Apache-2.0
"""PatchCore for MLServer, as a careful user would write it: the same network, and a search by brute force.

The peer's environment imports this file; it has no blemish. The folder of the model has model.xml and
bank.npz, and parameters.json with the size of the input.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

_BLUR_DEVIATION = 4


class PatchCorePeer(MLModel):  # type: ignore[misc]
    """A memory bank and the network whose features it holds."""

    async def load(self) -> bool:
        folder = Path(os.environ["PEER_FOLDER"])
        threads = int(os.environ["PEER_THREADS"])
        cv2.setNumThreads(threads)
        self._given = json.loads((folder / "parameters.json").read_text())
        arrays = np.load(folder / "bank.npz")
        self._entries, self._supports = arrays["entries"], arrays["supports"]
        self._expected = arrays["expected"]
        self._squares = np.square(self._entries).sum(1)
        self._network = openvino.Core().compile_model(
            folder / "model.xml",
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._request = self._network.create_infer_request()
        self._one_at_a_time = asyncio.Lock()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (image,) = payload.inputs[0].data
        async with self._one_at_a_time:
            score, pixels = await asyncio.to_thread(self._score, image)
        outputs = [
            ResponseOutput(name="score", shape=[1], datatype="FP32", data=[score]),
            ResponseOutput(name="maximum", shape=[1], datatype="FP32", data=[float(pixels.max())]),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)

    def _score(self, encoded: bytes) -> tuple[float, Any]:
        """Return the score of an image file, and its anomaly map."""
        frame = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert frame is not None
        side = self._given["input_size"]
        scaled = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        images = (scaled - self._given["mean"]) / self._given["std"]
        planes = np.ascontiguousarray(images.transpose(2, 0, 1)[None], np.float32)
        (features,) = self._request.infer({0: planes}).values()
        _, depth, rows, columns = features.shape
        patches = np.ascontiguousarray(features.reshape(depth, -1).T)
        squares = (-2 * patches) @ self._entries.T
        squares += self._squares
        nearest = squares.argmin(1)
        distances = np.linalg.norm(patches - self._entries[nearest], axis=1) / self._expected
        farthest = int(distances.argmax())
        around = self._entries[self._supports[nearest[farthest]]]
        to_support = np.linalg.norm(around - patches[farthest], axis=1)
        weights = np.exp(to_support - to_support.max())
        score = distances[farthest] * (1 - weights[0] / weights.sum())
        pixels = cv2.resize(distances.reshape(rows, columns), (side, side), interpolation=cv2.INTER_NEAREST)
        return float(score), cv2.GaussianBlur(pixels, (0, 0), _BLUR_DEVIATION)

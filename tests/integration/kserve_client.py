# SPDX-License-Identifier: Apache-2.0
"""KServe's client against the server, in a separate environment, because it needs an older protobuf.

python kserve_client.py ADDRESS MODEL IMAGE    # prints what it got as JSON
"""

import asyncio
import json
import sys
from pathlib import Path

from kserve import InferenceGRPCClient, InferInput, InferRequest


async def main(address: str, model: str, image: bytes) -> dict[str, object]:
    async with InferenceGRPCClient(url=address) as client:
        seen: dict[str, object] = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(model),
            "other_ready": await client.is_model_ready("no-such-model"),
        }
        for raw in (False, True):
            given = InferInput("image", [2], "BYTES")
            if raw:
                import numpy as np

                given.set_data_from_numpy(np.array([image, image], dtype=np.object_), binary_data=True)
            else:
                given.data = [image, image]
            answer = await client.infer(InferRequest(model, [given]))
            seen["raw" if raw else "contents"] = {
                output.name: output.as_numpy().tolist() for output in answer.outputs
            } | {"version": answer.model_version}
        return seen


if __name__ == "__main__":
    address, model, image = sys.argv[1:]
    print(json.dumps(asyncio.run(main(address, model, Path(image).read_bytes()))))

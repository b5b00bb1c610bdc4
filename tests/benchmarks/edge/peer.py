# SPDX-License-Identifier: Apache-2.0
"""The peer server: MLServer, with the network and the memory bank of a version of blemish."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tests.benchmarks.edge.environments import Environment
from tests.support.ports import free_port
from tritonclient import grpc as triton

from blemish_core.detectors.patchcore.settings import stored
from blemish_core.models.bundle import WEIGHTS, read_manifest
from blemish_core.serving.detector import TensorFile

REQUIREMENTS = Path(__file__).with_name("mlserver-constraints.txt")
MODEL = "peer"
_START_TIMEOUT_S = 120.0


def write_model(version: Path, folder: Path) -> None:
    """Write the network and the bank of a version of PatchCore to a folder for the peer.

    Raises:
        SystemExit: if the version has no index of neighbours, which the score of the peer needs.
    """
    manifest = read_manifest(version)
    settings, tensors = stored(manifest.settings), TensorFile(version / WEIGHTS)
    card = manifest.runtimes["openvino"]
    network = version / str(card.file)
    folder.mkdir()
    for suffix in (".xml", ".bin"):
        (folder / f"model{suffix}").write_bytes(network.with_suffix(suffix).read_bytes())
    supports, expected = tensors.get("supports"), tensors.get("usual_distances")
    if supports is None:
        raise SystemExit("the model has no neighbours of its entries; choose another commit with --before")
    np.savez(
        folder / "bank.npz",
        entries=tensors["memory_bank"],
        supports=supports,
        expected=np.ones(1, np.float32) if expected is None else expected,
    )
    mean, std = settings.channels()
    given = {"input_size": manifest.input_size, "mean": mean, "std": std}
    (folder / "parameters.json").write_text(json.dumps(given))
    implementation = "mlserver_model.PatchCorePeer"
    (folder / "model-settings.json").write_text(
        json.dumps({"name": MODEL, "implementation": implementation})
    )


@contextmanager
def running(environment: Environment, folder: Path, workers: int) -> Iterator[str]:
    """Run MLServer with some processes that share the cores; yield its address for gRPC."""
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    # A worker of its own serves the model even if there is one only, so that parsing overlaps with it.
    given = {"parallel_workers": workers, "debug": False, "host": "127.0.0.1", **ports}
    (folder / "settings.json").write_text(json.dumps(given))
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    variables = {
        "PEER_FOLDER": str(folder),
        "PEER_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "PYTHONPATH": str(Path(__file__).parent),
    }
    log = folder / "log"
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [str(environment.folder / "bin/mlserver"), "start", str(folder)],
            env=os.environ | variables,
            cwd=folder,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"127.0.0.1:{ports['grpc_port']}"
        began = time.monotonic()
        with triton.InferenceServerClient(address) as client:
            while not _is_ready(client):
                if server.poll() is not None or time.monotonic() - began > _START_TIMEOUT_S:
                    raise SystemExit(f"the peer server did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def _is_ready(client: triton.InferenceServerClient) -> bool:
    try:
        return bool(client.is_model_ready(MODEL))
    except triton.InferenceServerException:
        return False

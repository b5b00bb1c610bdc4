# SPDX-License-Identifier: Apache-2.0
"""Find the most similar past images: ``python search.py MODEL IMAGE``."""

import os
import sys
from pathlib import Path

from blemish_client import Client

model, image = sys.argv[1:]
with Client(os.environ.get("BLEMISH_SERVER", "localhost:50051")) as client:
    # A Path is an image; a string would be the name of an indexed item.
    results = client.search(Path(image), model, limit=5)
    if results.query is not None:
        print(f"{image}: score {results.query.score:.3f}")
    for hit in results:
        print(f"{hit.similarity:.3f} {hit.class_name or '-'} {hit.path or hit.camera} {hit.item}")

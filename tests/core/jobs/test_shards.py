# SPDX-License-Identifier: Apache-2.0

import hashlib

from blemish_core.datasets import DatasetImage
from blemish_core.jobs.shards import Shard, shards_for


def test_shards_partition_the_images_by_content() -> None:
    hashes = [hashlib.sha256(str(number % 500).encode()).hexdigest() for number in range(999)]
    images = [
        DatasetImage("d", "tile", f"test/good/{number}.png", "test", "good", sha256, 64, 64)
        for number, sha256 in enumerate(hashes)
    ]
    count = shards_for(500)
    assert count == 2
    shards = [
        [image for image in images if Shard(number, count).contains(image)] for number in range(count)
    ]
    assert sum(map(len, shards)) == len(images)
    contents = [{image.sha256 for image in shard} for shard in shards]
    assert not contents[0] & contents[1]
    assert all(contents)

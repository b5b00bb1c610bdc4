# SPDX-License-Identifier: Apache-2.0
"""Messages of the server in the words of the command line: options in place of fields of the contract."""

import re

OPTIONS = {
    "acknowledge_extreme": "--yes",
    "coreset_ratio": "--coreset-ratio",
    "default_class": "--class",
    "expected_revision": "--expected-revision",
    "group_by": "--group-by",
    "input_size": "--input-size",
    "kept_frames": "--kept-frames",
    "label_class": "--class",
    "max_duration": "--max-minutes",
    "max_entries": "--max-entries",
    "max_latency": "--max-latency-ms",
    "max_memory_bytes": "--max-memory-gib",
    "max_regions": "--max-regions",
    "max_run_time": "--max-run-minutes",
    "max_steps": "--max-steps",
    "mm_per_px": "--mm-per-px",
    "order_by": "the order",
    "page_token": "--page-token",
    "pixel_threshold": "--pixel-threshold",
    "smallest_area": "--smallest-area",
    "smallest_defect": "--smallest-defect",
    # Commands have options for it under different names.
    "target_false_reject_rate": "the target false-reject rate",
    "unlabelled_class": "--unlabelled-as",
    "white_level": "--white-level",
}
"""Words for the fields of the contract that messages name."""

# Filters and groups have a field of this name, which stays in messages about them.
_NAMES = [r"label_class(?= is set| has \d)" if name == "label_class" else name for name in OPTIONS]
_FIELD = re.compile(
    # A part of a path, a name or a quotation is not a field.
    r"(?<![\w/'\"-])(?:(?:config|efficientad|limits|patchcore|regions)\.)?"
    rf"({'|'.join(_NAMES)})(?![\w/'\"-]|\.\w)"
)


def in_options(text: str) -> str:
    """Return a text with options in place of fields: ``set a larger --max-memory-gib``."""
    return _FIELD.sub(lambda found: OPTIONS[found[1]], text)

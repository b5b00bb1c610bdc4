# SPDX-License-Identifier: Apache-2.0
"""The command line has words for every field of the contract that a message of the server names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from blemish_client.cli.wording import OPTIONS

ROOT = Path(__file__).parents[2]
FOLDERS = ("core/blemish_core", "server/blemish_server", "workers/blemish_workers")
FIELD = re.compile(r"(?<![\w/.])[a-z]+(?:_[a-z0-9]+)+(?!\w)")

NEVER_SENT = {
    # The command line sets no value that such a message could be about.
    "after_line",
    "blemish_workers",
    "byte_size",
    "expected_label",
    "expected_label_class",
    "group_size",
    "max_frames",
    "max_pixels",
    "max_side",
    "original_path",
    "page_size",
    "raw_input_contents",
    "read_limit",
    "read_offset",
    "request_id",
    "size_bytes",
    "state_interval",
    "uint_contents",
    # Options of REDIS_URL, and names of backbones.
    "ssl_ca_certs",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
    "vit_small_patch14_dinov2",
    "wide_resnet50_2",
}


def sentences(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of a module that contain a space, without docstrings."""
    described = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.value)
        for owner in ast.walk(tree)
        if isinstance(owner, described)
        for node in owner.body
        if isinstance(node, ast.Expr)
    }
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings and " " in node.value:  # type: ignore[attr-defined]
            yield node.value  # type: ignore[attr-defined]


def test_fields_in_messages_have_words_on_the_command_line() -> None:
    unnamed = {
        (field, str(path.relative_to(ROOT)))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for text in sentences(ast.parse(path.read_text()))
        for field in FIELD.findall(text)
        if field not in OPTIONS and field not in NEVER_SENT
    }
    assert not unnamed, "add each to blemish_client/cli/wording.py, or say here why no user meets it"

# SPDX-License-Identifier: Apache-2.0
"""The guide for other languages uses names of the contract, as each language spells them."""

import re
from pathlib import Path

import pytest

from blemish.v1 import image_pb2, inspection_pb2

PAGE = (Path(__file__).parents[2] / "docs/guides/other-languages.md").read_text()
MESSAGES = (
    inspection_pb2.ScoreRequest,
    inspection_pb2.ScoreResponse,
    inspection_pb2.Inspection,
    inspection_pb2.Outputs,
    image_pb2.Image,
)
FIELDS = {field.name for message in MESSAGES for field in message.DESCRIPTOR.fields}
VERDICTS = set(image_pb2.Verdict.keys())


def program(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def test_program_in_cpp_uses_fields_of_the_contract() -> None:
    code = program("cpp")
    set_fields = set(re.findall(r"request\.(?:set_|mutable_)(\w+)\(|->set_(\w+)\(", code))
    names = {name for pair in set_fields for name in pair if name}
    names |= set(re.findall(r"inspection\(\)\.(\w+)\(", code)) | {"inspection"}
    assert names >= {"model", "image", "encoded", "outputs", "regions", "verdict", "score"}
    assert names <= FIELDS
    assert set(re.findall(r"VERDICT_\w+", code)) <= VERDICTS


@pytest.mark.parametrize(
    ("language", "pattern"),
    [
        ("csharp", r"(?<!var )\b([A-Z]\w+) = (?!null)|found\.([A-Z]\w+)|response\.([A-Z]\w+)"),
        ("go", r"\b(Model|Image|Content|Outputs|Encoded|Regions): |\.Get([A-Z]\w+)\(\)"),
    ],
)
def test_program_uses_fields_of_the_contract(language: str, pattern: str) -> None:
    names = {name for groups in re.findall(pattern, program(language)) for name in groups if name}
    assert names >= {"Model", "Image", "Encoded", "Outputs", "Regions", "Inspection", "Verdict", "Score"}
    oneofs = {camel(oneof.name) for message in MESSAGES for oneof in message.DESCRIPTOR.oneofs}
    assert names <= {camel(field) for field in FIELDS} | oneofs


def test_programs_call_methods_of_the_contract() -> None:
    service = inspection_pb2.DESCRIPTOR.services_by_name["InspectionService"]
    for language, call in (("cpp", "stub->Score("), ("csharp", "client.ScoreAsync("), ("go", ").Score(")):
        assert call in program(language)
        assert "InspectionService" in program(language)
    assert "Score" in service.methods_by_name

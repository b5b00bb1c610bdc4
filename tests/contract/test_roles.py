# SPDX-License-Identifier: Apache-2.0
"""The role of each RPC, repeated here so that a change of the contract is deliberate."""

from importlib import import_module
from pathlib import Path

import blemish.v1
from blemish.v1 import access_pb2
from blemish_server.audit.changes import CHANGES
from blemish_server.auth.access import Role
from blemish_server.auth.authenticator import required_roles

CAMERA = {"Score", "ScoreStream", "GetServerInfo"}
SERVICE = {
    *("Search", "ListItems", "GetItem", "LabelItem", "GetItemImage"),
    *("GetDataset", "ListDatasets", "ListImages", "GetImage"),
    *("GetJob", "ListJobs", "WatchJob", "ListWorkers", "WatchInspections"),
    *("GetModel", "ListModels", "GetReport", "PreviewCalibration", "ListSuspects", "CompareModels"),
    "ListScores",
}
OPERATOR = {
    *("CreateDataset", "UpdateDataset", "UploadImages", "ImportDataset"),
    *("DeleteImages", "MoveImages", "DeleteDataset", "AddItems"),
    *("CreateJob", "CancelJob", "EstimateTraining"),
    *("PromoteModel", "PinModel", "ShadowModel", "UpdateCalibration", "DeleteModel"),
    *("ExportModel", "ImportModel"),
    "ListAuditEntries",
}
NOT_AUDITED = {"ListAuditEntries", "EstimateTraining"}
"""RPCs of the role operator that only read."""
OPEN_INFERENCE = "/inference.GRPCInferenceService/"


def test_every_rpc_documents_its_role() -> None:
    named = {}
    for stub in Path(blemish.v1.__path__[0]).glob("*_pb2.py"):
        for service in import_module(f"blemish.v1.{stub.stem}").DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                assert method.GetOptions().HasExtension(access_pb2.role), method.full_name
                named[f"/{service.full_name}/{method.name}"] = Role(
                    method.GetOptions().Extensions[access_pb2.role]
                )
    ours = {path: role for path, role in required_roles().items() if not path.startswith(OPEN_INFERENCE)}
    assert ours == named
    by_name = {path.rpartition("/")[2]: role for path, role in ours.items()}
    for role, names in ((Role.CAMERA, CAMERA), (Role.SERVICE, SERVICE), (Role.OPERATOR, OPERATOR)):
        assert {name for name, least in by_name.items() if least is role} == names


def test_camera_role_may_score_by_open_inference_protocol() -> None:
    reach = {
        path.removeprefix(OPEN_INFERENCE): role
        for path, role in required_roles().items()
        if path.startswith(OPEN_INFERENCE)
    }
    assert reach["ModelInfer"] is reach["ModelStreamInfer"] is reach["ServerReady"] is Role.CAMERA
    assert reach["RepositoryModelUnload"] is reach["TraceSetting"] is Role.OPERATOR
    assert Role.SERVICE not in reach.values()


def test_every_rpc_that_changes_something_is_audited() -> None:
    audited = {method.rpartition("/")[2] for method in CHANGES}
    assert audited == (OPERATOR - NOT_AUDITED) | {"LabelItem"}
    assert CHANGES.keys() <= required_roles().keys()

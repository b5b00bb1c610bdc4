# SPDX-License-Identifier: Apache-2.0
"""Reflection, as grpcurl uses it: read the contract from the server, then call it."""

from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICES = {
    f"blemish.v1.{name}Service"
    for name in ("Inspection", "Search", "Dataset", "Job", "Model", "Server", "Audit")
}


def test_contract_can_be_read_and_called_by_reflection(stack_address: str, tile_model: str) -> None:
    with grpc.insecure_channel(stack_address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) > SERVICES
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("blemish.v1.ModelService").FindMethodByName("GetModel")
        request = ParseDict({"name": "models/tile@production"}, GetMessageClass(method.input_type)())
        call: Any = channel.unary_unary(
            "/blemish.v1.ModelService/GetModel",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        assert MessageToDict(call(request, timeout=10))["version"]["name"] == tile_model


def test_every_service_reports_its_health(stack_address: str) -> None:
    with grpc.insecure_channel(stack_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES):
            status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status
            assert status == health_pb2.HealthCheckResponse.SERVING, service

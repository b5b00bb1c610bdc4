# SPDX-License-Identifier: Apache-2.0
"""The part of grpcurl that an example uses: ``grpcurl -plaintext -d @ ADDRESS SERVICE/METHOD``."""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToJson, Parse
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main() -> None:
    """Read a request as JSON from stdin, call the method by reflection, and print the answer as JSON."""
    plaintext, data_option, data, address, path = sys.argv[1:]
    assert (plaintext, data_option, data) == ("-plaintext", "-d", "@")
    service, _, name = path.rpartition("/")
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName(service).FindMethodByName(name)
        request = Parse(sys.stdin.read(), GetMessageClass(method.input_type)())
        call: grpc.UnaryUnaryMultiCallable[Message, Message] = channel.unary_unary(
            f"/{path}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        print(MessageToJson(call(request, timeout=30)))


if __name__ == "__main__":
    main()

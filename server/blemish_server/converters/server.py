# SPDX-License-Identifier: Apache-2.0
"""Messages of ServerService."""

from blemish.v1 import access_pb2
from blemish_server.auth.access import Role
from blemish_server.converters.enums import EnumMapping

ROLES: EnumMapping[Role, access_pb2.Role.ValueType] = EnumMapping(
    {
        Role.CAMERA: access_pb2.ROLE_CAMERA,
        Role.SERVICE: access_pb2.ROLE_SERVICE,
        Role.OPERATOR: access_pb2.ROLE_OPERATOR,
    }
)

# SPDX-License-Identifier: Apache-2.0
"""Messages of ServerService."""

from blemish.v1 import access_pb2
from blemish.v1 import server_pb2 as pb
from blemish_server.auth.access import Role
from blemish_server.converters.enums import EnumMapping
from blemish_server.converters.inspection import POLICIES
from blemish_server.converters.values import verdict_to_proto
from blemish_server.disk_monitor import DiskMonitor
from blemish_server.metrics.activity import ActiveCamera, OpenStream
from blemish_server.scoring.inspection_event import InspectionEvent

ROLES: EnumMapping[Role, access_pb2.Role.ValueType] = EnumMapping(
    {
        Role.CAMERA: access_pb2.ROLE_CAMERA,
        Role.SERVICE: access_pb2.ROLE_SERVICE,
        Role.OPERATOR: access_pb2.ROLE_OPERATOR,
    }
)


def disk_to_proto(disk: DiskMonitor) -> pb.Disk | None:
    """Return the state of the disk; None if it could not be read."""
    if disk.space is None:
        return None
    return pb.Disk(
        free_bytes=disk.space.free_bytes,
        total_bytes=disk.space.total_bytes,
        min_free_bytes=disk.min_free_bytes,
        shortage=disk.shortage,
    )


def stream_to_proto(stream: OpenStream) -> pb.OpenStream:
    """Return an open stream with its counts."""
    message = pb.OpenStream(
        model=str(stream.model),
        policy=POLICIES.to_proto(stream.queue.policy),
        caller=stream.caller,
        cameras=list(stream.cameras),
        frames=stream.queue.frames,
        dropped_frames=stream.queue.dropped,
        refused_frames=stream.refused + stream.queue.rejected,
        frames_per_second=stream.meter.per_second,
        last=None if stream.last is None else _last_to_proto(stream.last),
    )
    message.start_time.FromDatetime(stream.start)
    return message


def camera_to_proto(camera: ActiveCamera) -> pb.CameraActivity:
    """Return the activity of a camera."""
    return pb.CameraActivity(
        camera=camera.name,
        images_per_second=camera.meter.per_second,
        last=None if camera.last is None else _last_to_proto(camera.last),
    )


def _last_to_proto(last: InspectionEvent) -> pb.LastInspection:
    message = pb.LastInspection(
        model_version=str(last.version), verdict=verdict_to_proto(last.is_anomalous), score=last.score
    )
    message.time.FromDatetime(last.time)
    return message

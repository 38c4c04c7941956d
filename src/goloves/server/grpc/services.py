"""The services that a node has."""

from goloves.server.grpc.health import Health
from goloves.server.grpc.ids import Ids
from goloves.server.grpc.limits import GrpcLimits
from goloves.server.grpc.methods import Service
from goloves.server.grpc.reflection import Reflection
from goloves.service import IdService


def node_services(service: IdService, limits: GrpcLimits) -> tuple[list[Service], Health]:
    """Give ids, health and reflection; say `stop` to the health when the node begins to stop."""
    ids = Ids(service, limits)
    own = [ids.segment_service(), ids.snowflake_service()]
    health = Health([served.name for served in own], service.readiness)
    mounted = [*own, health.service()]
    return [*mounted, *Reflection(served.name for served in mounted).services()], health

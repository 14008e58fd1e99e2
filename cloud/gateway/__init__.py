"""The gateway: vehicles' links (GB/T 32960.3) on one side, services on the other."""

from cloud.gateway.link import GatewayLink
from cloud.gateway.router import LocalRouter
from cloud.gateway.tcp import GatewayServer

__all__ = ["GatewayLink", "GatewayServer", "LocalRouter"]

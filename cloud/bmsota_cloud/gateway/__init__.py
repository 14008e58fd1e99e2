"""The gateway: vehicles' links (GB/T 32960.3) on one side, services on the other."""

from bmsota_cloud.gateway.link import GatewayLink
from bmsota_cloud.gateway.options import platform_options
from bmsota_cloud.gateway.router import LocalRouter
from bmsota_cloud.gateway.tcp import GatewayServer
from bmsota_cloud.gateway.writer import ReportWriter

__all__ = ["GatewayLink", "GatewayServer", "LocalRouter", "ReportWriter", "platform_options"]

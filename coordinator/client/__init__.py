"""MAIFS from Python.

    from coordinator.client import Client

    with Client() as client:
        report = client.analyze("photo.jpg")
    print(report.verdict, report.summary)

docs/client.md tells the rest.
"""

from coordinator.client.async_client import AsyncClient, Options
from coordinator.client.report import Outcome, Report, Verdict
from coordinator.client.stream import Event, Failed, Reported, Sent, ToolEnded, VerdictKnown
from coordinator.client.sync_client import Client
from serving.channel_security import ChannelSecurity
from serving.errors import MaifsError, Reason

__all__ = [
    "AsyncClient",
    "ChannelSecurity",
    "Client",
    "Event",
    "Failed",
    "MaifsError",
    "Options",
    "Outcome",
    "Reason",
    "Report",
    "Reported",
    "Sent",
    "ToolEnded",
    "Verdict",
    "VerdictKnown",
]

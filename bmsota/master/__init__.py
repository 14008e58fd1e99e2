"""A master BMS that anyone can build: sans-IO, from power-on to power-off one object.

`Master` composes what the library has for it: the cloud link, the updater, the flashing engine, the boot store. What it adds
is what makes a master of them: measurements of the slaves become reports, the updater's actions become operations on the bus,
the platform hears who the nodes are and what was flashed locally, and platform and workshop do not upgrade at the same time.
`SlaveMessages` is the slaves' end of the internal bus. How to build one: docs/master.md.
"""

from bmsota import _needs_trust  # noqa: F401 - first: it names the extra
from bmsota.master._alarms import LFP_ALARM_LIMITS, AlarmLimits, AlarmWatch, alarms_of_moment
from bmsota.master._cloud import CloudReporter
from bmsota.master._events import (
    CommandUnsupported,
    IdentityAcknowledged,
    IdentityReported,
    InstructionReceived,
    LocalUpgradeDetected,
    LocalUpgradesAcknowledged,
    LocalUpgradesDropped,
    LocalUpgradesReported,
    MasterEvent,
    ReportAcknowledged,
    ReportRefused,
    SelfTestEnded,
    SendData,
    SlaveChanged,
    UpgradeModeChanged,
)
from bmsota.master._interlock import Interlock
from bmsota.master._internal_bus import MeasurementTable, PackLayout, SensorMessages, SlaveMessages
from bmsota.master._master import Master, MasterConfiguration, UnitKeys
from bmsota.master._readings import MasterReadings, MotorReadings, PackValues
from bmsota.master._reporting import report_bodies
from bmsota.master._self_test import SelfTest
from bmsota.master._slave_faults import SlaveFault, SlaveFaultChanged, SlaveFaults
from bmsota.master._slave_rescue import RestoreSlave, SlaveRescue
from bmsota.master._slaves import SlaveOperations, SlaveRequest
from bmsota.master._surveillance import LookedAt, MeasuredSlaves, Surveillance

__all__ = [
    "LFP_ALARM_LIMITS",
    "AlarmLimits",
    "AlarmWatch",
    "CloudReporter",
    "CommandUnsupported",
    "IdentityAcknowledged",
    "IdentityReported",
    "InstructionReceived",
    "Interlock",
    "LocalUpgradeDetected",
    "LocalUpgradesAcknowledged",
    "LocalUpgradesDropped",
    "LocalUpgradesReported",
    "LookedAt",
    "Master",
    "MasterConfiguration",
    "MasterEvent",
    "MasterReadings",
    "MeasuredSlaves",
    "MeasurementTable",
    "MotorReadings",
    "PackLayout",
    "PackValues",
    "ReportAcknowledged",
    "ReportRefused",
    "RestoreSlave",
    "SelfTest",
    "SelfTestEnded",
    "SendData",
    "SensorMessages",
    "SlaveChanged",
    "SlaveFault",
    "SlaveFaultChanged",
    "SlaveFaults",
    "SlaveMessages",
    "SlaveOperations",
    "SlaveRequest",
    "SlaveRescue",
    "Surveillance",
    "UnitKeys",
    "UpgradeModeChanged",
    "alarms_of_moment",
    "report_bodies",
]

"""An ECU made of scapy: ISO-TP by its soft socket, UDS by its layers, on an slcan adapter. A program of its own.

    python scapy_ecu.py /dev/pts/7 7E1 7E9

Prints "ready", then one line for each finished download (bytes, SHA-256) and each reset. Scapy is under the GPL: this file is
never imported, only run.
"""

from __future__ import annotations

import hashlib
import sys

from scapy.config import conf

conf.contribs["CANSocket"] = {"use-python-can": True}
conf.contribs["ISOTP"] = {"use-can-isotp-kernel-module": False}

from scapy.contrib.automotive.ecu import EcuAnsweringMachine  # noqa: E402
from scapy.contrib.automotive.uds import (  # noqa: E402
    UDS,
    UDS_DSC,
    UDS_DSCPR,
    UDS_ER,
    UDS_ERPR,
    UDS_NR,
    UDS_RC,
    UDS_RCPR,
    UDS_RD,
    UDS_RDBI,
    UDS_RDBIPR,
    UDS_RDPR,
    UDS_RTEPR,
    UDS_SA,
    UDS_SAPR,
    UDS_TD,
    UDS_TDPR,
    UDS_TP,
    UDS_TPPR,
)
from scapy.contrib.cansocket_python_can import PythonCANSocket  # noqa: E402
from scapy.contrib.isotp import ISOTPSoftSocket  # noqa: E402
from scapy.packet import Raw  # noqa: E402
from scapy.plist import PacketList  # noqa: E402

SEED = b"\x11\x22\x33\x44"
BLOCK_LENGTH = 0x202
UDS_EXIT = 0x37


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201


class Ecu(EcuAnsweringMachine):
    """One that can be flashed: session, security access, erase, download, checks, reset."""

    def begin(self) -> None:
        self.unlocked = False
        self.data: bytes | None = None
        self.size = 0
        self.counter = 0
        self.version = b"1.0.0"

    def make_reply(self, request):
        return PacketList(self.answers(request))

    def print_reply(self, request, reply):
        """Nothing: standard output is for the test."""

    def refuse(self, request, code):
        return [UDS() / UDS_NR(requestServiceId=request.service, negativeResponseCode=code)]

    def answers(self, request):
        if UDS_TP in request:
            return [] if request[UDS_TP].subFunction & 0x80 else [UDS() / UDS_TPPR()]
        if UDS_DSC in request:
            self.unlocked = False
            kind = request[UDS_DSC].diagnosticSessionType
            return [UDS() / UDS_DSCPR(diagnosticSessionType=kind, sessionParameterRecord=b"\x00\x32\x01\xf4")]
        if UDS_RDBI in request:
            if request[UDS_RDBI].identifiers != [0xF189]:
                return self.refuse(request, 0x31)
            return [UDS() / UDS_RDBIPR(dataIdentifier=0xF189) / Raw(self.version)]
        if UDS_SA in request:
            if request[UDS_SA].securityAccessType == 1:
                return [UDS() / UDS_SAPR(securityAccessType=1, securitySeed=SEED)]
            self.unlocked = request[UDS_SA].securityKey == bytes(byte ^ 0xA5 for byte in SEED)
            return [UDS() / UDS_SAPR(securityAccessType=2)] if self.unlocked else self.refuse(request, 0x35)
        if UDS_ER in request:
            say("reset")
            self.version = b"2.1.0"
            return [UDS() / UDS_ERPR(resetType=request[UDS_ER].resetType)]
        if not self.unlocked:
            return self.refuse(request, 0x33)
        if UDS_RC in request:
            routine = request[UDS_RC]
            return [UDS() / UDS_RCPR(routineControlType=1, routineIdentifier=routine.routineIdentifier)]
        if UDS_RD in request:
            self.data, self.counter = b"", 0
            self.size = request[UDS_RD].memorySize4
            return [UDS() / UDS_RDPR(memorySizeLen=2, maxNumberOfBlockLength=BLOCK_LENGTH.to_bytes(2, "big"))]
        if UDS_TD in request:
            return self.take(request)
        if request.service == UDS_EXIT:  # Without parameters scapy makes no layer of it.
            if self.data is None or len(self.data) != self.size:
                return self.refuse(request, 0x24)
            say(len(self.data), hashlib.sha256(self.data).hexdigest())
            self.data = None
            return [UDS() / UDS_RTEPR()]
        return self.refuse(request, 0x11)

    def take(self, request):
        block = request[UDS_TD]
        if self.data is None:
            return self.refuse(request, 0x24)
        if block.blockSequenceCounter != self.counter:
            if block.blockSequenceCounter != (self.counter + 1) % 256:
                return self.refuse(request, 0x73)
            self.counter = block.blockSequenceCounter
            self.data += bytes(block.transferRequestParameterRecord)
        return [UDS() / UDS_TDPR(blockSequenceCounter=self.counter)]


def main() -> None:
    path, request_id, response_id = sys.argv[1], int(sys.argv[2], 16), int(sys.argv[3], 16)
    can_socket = PythonCANSocket(bustype="slcan", channel=path, sleep_after_open=0)
    socket = ISOTPSoftSocket(can_socket, tx_id=response_id, rx_id=request_id, basecls=UDS, padding=True)
    ecu = Ecu(main_socket=socket, basecls=UDS)
    ecu.begin()
    say("ready")
    ecu()


if __name__ == "__main__":
    main()

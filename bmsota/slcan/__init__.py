"""slcan, the line protocol of serial CAN adapters: both ends, without I/O.

    host = SlcanHost()                                  # the host program
    port.write(frame_line(CanFrame(0x123, b"ab")).encode() + CR)
    host.receive_data(port.read(4096), now_ns)
    head, data, time_ns = host.frames.popleft()         # head.frame(data) is a CanFrame
    host.answers.popleft()                              # Answer.DONE, Answer.REFUSED or a text

    adapter = SlcanAdapter(transmit=bus.send)           # the adapter's firmware
    adapter.receive_data(line, now_ns)                  # b"S6", CR, b"O", CR, ...
    adapter.receive_frame(frame, now_ns)
    adapter.data_to_send()

LAWICEL's protocol with the CAN FD commands of the CANable 2 firmware; `_protocol` lists the lines. `bmsota.adapters.slcan` is the
host's end as a back end of python-can, `bmsota_sim.links.slcan_pty` the adapter's end behind a pseudo terminal.
"""

from __future__ import annotations

from bmsota.slcan._device import AdapterOptions, SlcanAdapter
from bmsota.slcan._host import ReceivedFrame, SlcanHost
from bmsota.slcan._protocol import (
    BEL,
    BITRATES,
    CR,
    DATA_BITRATES,
    Answer,
    FrameHead,
    StatusFlag,
    frame_line,
    parse_head,
    remote_line,
)

__all__ = [
    "BEL",
    "BITRATES",
    "CR",
    "DATA_BITRATES",
    "AdapterOptions",
    "Answer",
    "FrameHead",
    "ReceivedFrame",
    "SlcanAdapter",
    "SlcanHost",
    "StatusFlag",
    "frame_line",
    "parse_head",
    "remote_line",
]

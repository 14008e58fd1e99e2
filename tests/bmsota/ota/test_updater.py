"""The updater alone: conversations of inputs and the actions they must lead to.

A line `> input` gives the updater something; the lines `< action` below it are everything it asks for in return, no more
and no less. A download answers itself from a small device API unless the line says otherwise.
"""

from __future__ import annotations

import copy
import hashlib
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from bmsota_sim.devices.flash import FlashModel, PowerCut
from described import describe
from updater_rig import (
    HAPPY,
    SECOND,
    UNTIL_COMMITTED,
    UNTIL_CONFIRMED,
    UNTIL_DOWNLOAD,
    UNTIL_FLASHED,
    UNTIL_ORDER,
    UNTIL_STAGED,
    UNTIL_SWITCHED,
    UNTIL_TESTED,
    Device,
    play,
)

from bmsota.boot import SlotState
from bmsota.errors import LocalProtocolError
from bmsota.image import ImageDependency, ImageRole, ImageVersion
from bmsota.node import NodeResult
from bmsota.ota import (
    EXCHANGE_TRIES_MAX,
    EXCHANGE_WAIT_NS,
    EXCHANGE_WAIT_NS_MAX,
    STAGE_OF,
    TRANSITIONS,
    Stage,
    TellState,
    Updater,
    UpdaterState,
    device_api,
    sign_manifest,
    sign_order,
)

REPORTED = HAPPY.partition("    > ack")[0]
ASKED = """
    > instructed
    < tell authenticating 0
    < POST challenge
    > answer
    < POST session
    > answer
    < POST reports
"""

AGAIN_REPORTED = "\n    < report 1 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]"
AGAIN_UNTIL_ORDER = UNTIL_ORDER.replace("    > instructed\n", "")

SCRIPTS = {
    "happy path": HAPPY,
    "the power may be cycled at rest": HAPPY
    + """
        > power
        > state IDLE
        > login
        > instructed
        < tell authenticating 0
        < POST challenge
    """,
    "not while driving, charging, empty or off": """
        > driving
        > instructed
        < tell waiting for safe state 0: driving
        > charging
        < tell waiting for safe state 0: charging
        > charging
        > empty
        < tell waiting for safe state 0: state of charge below 10 %
        > off
        < tell waiting for safe state 0: ignition off
        > parked
        < tell authenticating 0
        < POST challenge
    """,
    "a repeated instruction is answered with the newest state and changes nothing": UNTIL_ORDER
    + """
        > instructed
        < tell authenticating 0
        > login
        < tell authenticating 0
        > answer
        < GET manifests
    """,
    "a waiting unit follows the platform to its new address": """
        > driving
        > instructed
        < tell waiting for safe state 0: driving
        > instructed http://b.example
        < tell waiting for safe state 0: driving
        > parked
        < tell authenticating 0
        < POST challenge at http://b.example
    """,
    "N14 a forged order is fetched as often as a wrong block, then refused, and nothing is owed": UNTIL_ORDER
    + """
        > answer forged
        < tell authenticating 0: {forged}
        > wait 5.1
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer forged
        < tell authenticating 0: {forged}
        > wait 10.1
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer forged
        < tell rejected 0: {forged}
        < POST order/refusal
        > answer
        > state IDLE
        > login
        > instructed
        < tell authenticating 0
        < POST challenge
    """,
    "an order for another vehicle is refused": UNTIL_ORDER
    + """
        > answer other-vehicle
        < tell rejected 0: wrong-vehicle: expected an order for LBMSOTA0000000001, got one for LBMSOTA0000000002
        < POST order/refusal
        > answer
        > state IDLE
    """,
    "an expired order is refused": UNTIL_ORDER
    + """
        > answer expired
        < tell rejected 0: freeze: expected order to be valid at 1790000000, got expiry 1789999999
        < POST order/refusal
        > answer 404
        > state IDLE
    """,
    "N14 a forged manifest is fetched as often as a wrong block, then refused with a report": UNTIL_ORDER
    + """
        > answer
        < GET manifests
        > answer forged-manifest
        < tell authenticating 0: {forged-manifest}
        > wait 5.1
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer
        < GET manifests
        > answer forged-manifest
        < tell authenticating 0: {forged-manifest}
        > wait 10.1
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer
        < GET manifests
        > answer forged-manifest
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 rejected [0=2.0.0 1=2.0.0 2=2.0.0]: {forged-manifest}
        > login
        < report 1 rejected [0=2.0.0 1=2.0.0 2=2.0.0]: {forged-manifest}
        > power
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 2 rejected [0=2.0.0 1=2.0.0 2=2.0.0]: {forged-manifest}
        > ack
        > state IDLE
    """,
    "an image that is not the signed one is refused with a report": UNTIL_DOWNLOAD
    + """
        > answer flip 5000
        < tell downloading 28
        < remark block 1 arrived wrong and is fetched again
        < tell downloading 35
        < abort
        < GET images/master bytes=4096-8191
        > answer flip 904
        < remark download goes on at byte 4096
        < remark block 1 arrived wrong and is fetched again
        < abort
        < GET images/master
        > answer flip 5000
        < remark block 1 arrived wrong and is fetched again
        < abort
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 failed [0=2.0.0 1=2.0.0 2=2.0.0]: {corrupted}
    """,
    "one wrong byte costs one block": UNTIL_DOWNLOAD
    + """
        > answer flip 5000
        < tell downloading 28
        < remark block 1 arrived wrong and is fetched again
        < tell downloading 35
        < abort
        < GET images/master bytes=4096-8191
        > answer
        < remark download goes on at byte 4096
        < tell downloading 63
        < abort
        < GET images/slave
    """,
    "no order: 204": UNTIL_ORDER
    + """
        > answer 204
        > state IDLE
    """,
    "the order is withdrawn before the download: 409": UNTIL_ORDER
    + """
        > answer
        < GET manifests
        > answer
        < POST orders/o-17/confirm
        > answer 409
        < tell cancelled 0: the platform has cancelled the order
        > state IDLE
        > power
        > state IDLE
    """,
    "the order is withdrawn while the unit was off": UNTIL_DOWNLOAD
    + """
        > power
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer 204
        < tell cancelled 0: the platform has no order for this unit
        > power
        > state IDLE
    """,
    "the manifest is not there": UNTIL_ORDER
    + """
        > answer
        < GET manifests
        > answer 404
        < tell authenticating 0: manifest: the platform does not have it
        > wait 5.1
        < tell authenticating 0
        < POST challenge
    """,
    "the platform refuses the confirmation for good": UNTIL_ORDER
    + """
        > answer
        < GET manifests
        > answer
        < POST orders/o-17/confirm
    """
    + "".join(
        f"""
        > answer 422
        < tell authenticating 0: confirm: expected 200, got 422 no: said no
        > wait {wait_s}
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer
        < POST orders/o-17/confirm
        """
        for wait_s in (5.1, 10.1, 20.1, 40.1, 80.1, 160.1, 300.1)
    )
    + """
        > answer 422
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 failed [0=2.0.0 1=2.0.0 2=2.0.0]: confirm: expected 200, got 422 no: said no
    """,
    "a broken exchange is tried again from the challenge, later and later": UNTIL_ORDER
    + """
        > broken no mobile network
        < tell authenticating 0: no mobile network
        > early
        > parked
        > wait 4.9
        > wait 0.2
        < tell authenticating 0
        < POST challenge
        > broken no mobile network
        < tell authenticating 0: no mobile network
        > wait 9.9
        > wait 0.2
        < tell authenticating 0
        < POST challenge
        > answer 503
        < tell authenticating 0: challenge: expected 200, got 503 no: said no
        > wait 20
        < tell authenticating 0
        < POST challenge
        > answer nonsense
        < tell authenticating 0: {nonsense}
    """,
    "an endless answer is cut off": UNTIL_ORDER
    + """
        > answer endless
        < abort
        < tell authenticating 0: expected at most 65536 bytes of answer, got more
    """,
    "every exchange before the download may fail": UNTIL_ORDER
    + """
        > answer
        < GET manifests
        > broken cut
        < tell authenticating 0: cut
        > wait 5.1
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer 401
        < tell authenticating 0: session: expected 200, got 401 no: said no
        > wait 10.1
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer
        < GET manifests
        > answer
        < POST orders/o-17/confirm
        > broken cut
        < tell authenticating 0: cut
        > wait 20.1
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer
        < POST orders/o-17/confirm
        > answer
        < tell downloading 0
        < GET images/master
    """,
    "the session runs out in mid-download": UNTIL_DOWNLOAD
    + """
        > answer cut 5000
        < tell downloading 28
        < remark download broke off: connection lost
        > wait 1.1
        < GET images/master bytes=5000-{master-last}
        > answer 401
        < abort
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer
        < POST orders/o-17/confirm
        > answer
        < tell downloading 28
        < GET images/master bytes=4096-{master-last}
        > answer
        < remark download goes on at byte 4096
        < tell downloading 56
        < tell downloading 63
        < abort
        < GET images/slave
    """,
    "the power is cut in mid-download": UNTIL_DOWNLOAD
    + """
        > answer cut 5000
        < tell downloading 28
        < remark download broke off: connection lost
        > power
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer
        < POST orders/o-17/confirm
        > answer
        < tell downloading 28
        < GET images/master bytes=4096-{master-last}
    """,
    "N12 an image that is not there yet is asked for again": UNTIL_DOWNLOAD
    + """
        > answer 404
        < remark download broke off: missing: the server does not have the image, got 404
        < abort
        > wait 1.9
        > wait 0.2
        < GET images/master
        > answer
        < tell downloading 28
        < tell downloading 56
        < tell downloading 63
        < abort
        < GET images/slave
    """,
    "the staged image is damaged at rest": UNTIL_STAGED
    + """
        > power damaged-staged
        < reset: switches to the new image
        > power
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 failed [0=2.0.0 1=2.0.0 2=2.0.0]: the staged image was refused at boot
        > ack
        > state IDLE
    """,
    "an instruction that comes before the slaves have booted waits its turn": UNTIL_STAGED
    + """
        > power
        < reset: switches to the new image
        > boot
        > instructed
        > on
        < tell switching 100
        < discover
        < tell switching 100
    """,
    "a slave that is not there stops the upgrade": UNTIL_STAGED
    + """
        > power
        < reset: switches to the new image
        > power
        < tell switching 100
        < discover
        > nodes 1=2.0.0
        < discover
        > nodes 1=2.0.0
        < discover
        > nodes 1=2.0.0
        < tell switching 100: slaves 2 do not answer
        < revert [] restart [1]
        > reverted 1=ok
        < reset: slaves 2 do not answer
        > power
        < discover
        > nodes 1=2.0.0
        < discover
        > nodes 1=2.0.0
        < discover
        > nodes 1=2.0.0
        < report 1 rolled-back [0=2.0.0 1=2.0.0]: slaves 2 do not answer; slaves 2 do not answer
    """,
    "a slave that answers late is waited for": UNTIL_STAGED
    + """
        > power
        < reset: switches to the new image
        > power
        < tell switching 100
        < discover
        > nodes 1=2.0.0
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < tell flashing slaves 100
        < flash 1,2
    """,
    "a slave already on target is left alone, also on the way back": UNTIL_STAGED
    + """
        > power
        < reset: switches to the new image
        > power
        < tell switching 100
        < discover
        > nodes 1=2.0.0 2=2.1.0
        < tell flashing slaves 100
        < flash 1
        > flashed 1=ok
        < activate 1
        > activated 1=ok
        < tell switching 100
        < discover
        > nodes 1=2.1.0 2=2.1.0 trial=1
        < tell self-test 100
        < self-test
        > tested too hot
        < tell switching 100: too hot
        < revert [1] restart [2]
        > reverted 1=ok 2=ok
        < reset: too hot
        > power
        < discover
        > nodes 1=2.0.0 2=2.1.0
        < report 1 rolled-back [0=2.0.0 1=2.0.0 2=2.1.0] mixed (master runs 2.0.0, slave 1 runs 2.0.0, slave 2 runs 2.1.0): too hot
    """,
    "all slaves on target already": UNTIL_STAGED
    + """
        > power
        < reset: switches to the new image
        > power
        < tell switching 100
        < discover
        > nodes 1=2.1.0 2=2.1.0
        < tell self-test 100
        < self-test
    """,
    "a slave that fails once is flashed again, alone": UNTIL_STAGED
    + """
        > power
        < reset: switches to the new image
        > power
        < tell switching 100
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < tell flashing slaves 100
        < flash 1,2
        > flashed 1=silent 2=ok
        < flash 1
        > flashed 1=ok
        < activate 1,2
    """,
    "a slave that fails twice ends the upgrade": UNTIL_STAGED
    + """
        > power
        < reset: switches to the new image
        > power
        < tell switching 100
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < tell flashing slaves 100
        < flash 1,2
        > flashed 1=silent 2=ok
        < flash 1
        > flashed 1=silent
        < tell switching 100: slave 1: silent
        < revert [] restart [1,2]
        > reverted 1=silent 2=ok
        < reset: slave 1: silent
        > state RESETTING
        > power
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 rolled-back [0=2.0.0 1=2.0.0 2=2.0.0]: slave 1: silent
        > ack
        > state IDLE
    """,
    "a slave that does not start the new image": UNTIL_FLASHED
    + """
        > activated 1=ok 2=wrong-version
        < tell switching 100: slave 2: wrong-version
        < revert [] restart [1,2]
    """,
    "a slave that fell back at once": UNTIL_FLASHED
    + """
        > activated 1=ok 2=ok
        < tell switching 100
        < discover
        > nodes 1=2.1.0 2=2.0.0 trial=1
        < tell switching 100: slaves 2 did not boot the new image
        < revert [1] restart [2]
    """,
    "the self-test fails": UNTIL_TESTED
    + """
        > tested insulation monitor does not answer
        < tell switching 100: insulation monitor does not answer
        < revert [1,2] restart []
        > login
        < tell switching 100: insulation monitor does not answer
        > reverted 1=ok 2=ok
        < reset: insulation monitor does not answer
        > power
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 rolled-back [0=2.0.0 1=2.0.0 2=2.0.0]: insulation monitor does not answer
        > ack
        > state IDLE
    """,
    "the new image never reports back: reverted by the boot": UNTIL_TESTED
    + """
        > power
        < discover
        > nodes 1=2.1.0 2=2.1.0 trial=1,2
        < tell switching 100: the new image was not confirmed before the next boot
        < revert [1,2] restart []
        > reverted 1=ok 2=ok
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 rolled-back [0=2.0.0 1=2.0.0 2=2.0.0]: the new image was not confirmed before the next boot
    """,
    "a slave about to try the new image is kept from it": UNTIL_FLASHED
    + """
        > power
        < discover
        > nodes 1=2.0.0 2=2.0.0 trial=2
        < tell switching 100: the new image was not confirmed before the next boot
        < revert [2] restart [1]
        > reverted 2=ok 1=ok
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 rolled-back [0=2.0.0 1=2.0.0 2=2.0.0]: the new image was not confirmed before the next boot
    """,
    "a slave left in its bootloader is woken": UNTIL_FLASHED
    + """
        > power
        < discover
        > nodes 1=2.0.0 2=2.0.0 bootloader=1
        < tell switching 100: the new image was not confirmed before the next boot
        < revert [] restart [1,2]
        > reverted 1=ok 2=ok
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 rolled-back [0=2.0.0 1=2.0.0 2=2.0.0]: the new image was not confirmed before the next boot
    """,
    "slaves confirmed, the master not: all go back": UNTIL_CONFIRMED
    + """
        > power
        < discover
        > nodes 1=2.1.0 2=2.1.0
        < tell switching 100: the new image was not confirmed before the next boot
        < revert [1,2] restart []
        > reverted 1=ok 2=ok
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 rolled-back [0=2.0.0 1=2.0.0 2=2.0.0]: the new image was not confirmed before the next boot
    """,
    "a slave that cannot be confirmed takes all back": UNTIL_CONFIRMED
    + """
        > confirmed 1=ok 2=silent
        < discover
        > nodes 1=2.1.0 2=2.1.0 trial=2
        < confirm 1=2.1.0 2=2.1.0
        > confirmed 1=ok 2=silent
        < discover
        > nodes 1=2.1.0 2=2.1.0 trial=2
        < tell switching 100: slave 2: silent
        < revert [1,2] restart []
    """,
    "a slave whose answer to the confirmation was lost has confirmed": UNTIL_CONFIRMED
    + """
        > confirmed 1=silent 2=silent
        < discover
        > nodes 1=2.1.0
        < discover
        > nodes 1=2.1.0 2=2.1.0
        < raise 1=2.1.0 2=2.1.0
        > raised 1=ok 2=ok
        < discover
        > nodes 1=2.1.0 2=2.1.0
        < report 1 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
    """,
    "a confirmation that was lost on the way is said again": UNTIL_CONFIRMED
    + """
        > confirmed 1=ok 2=silent
        < discover
        > nodes 1=2.1.0 2=2.1.0 trial=2
        < confirm 1=2.1.0 2=2.1.0
        > confirmed 1=ok 2=ok
        < raise 1=2.1.0 2=2.1.0
    """,
    "a slave that fell back instead of confirming takes all back": UNTIL_CONFIRMED
    + """
        > confirmed 1=ok 2=wrong-version
        < discover
        > nodes 1=2.1.0 2=2.0.0
        < tell switching 100: slave 2: wrong-version; slaves 2 do not run the new image
        < revert [1] restart [2]
    """,
    "a slave that is gone after its confirmation takes all back": UNTIL_CONFIRMED
    + """
        > confirmed 1=ok 2=silent
        < discover
        > nodes 1=2.1.0
        < discover
        > nodes 1=2.1.0
        < discover
        > nodes 1=2.1.0
        < tell switching 100: slave 2: silent; slaves 2 do not answer
        < revert [1] restart []
    """,
    "the power is cut while it is asked what was confirmed": UNTIL_CONFIRMED
    + """
        > confirmed 1=ok 2=silent
        < discover
        > power
        < discover
        > nodes 1=2.1.0 2=2.1.0
        < tell switching 100: the new image was not confirmed before the next boot
        < revert [1,2] restart []
    """,
    "S19: a withdrawn order that is given again is taken up again": UNTIL_DOWNLOAD
    + """
        > answer 401
        < abort
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer 204
        < tell cancelled 0: the platform has no order for this unit
        > state IDLE
        > power
    """
    + UNTIL_DOWNLOAD,
    "S19: withdrawn at its confirmation, and given again": UNTIL_ORDER
    + """
        > answer
        < GET manifests
        > answer
        < POST orders/o-17/confirm
        > answer 409
        < tell cancelled 0: the platform has cancelled the order
    """
    + UNTIL_DOWNLOAD,
    "S19: an order that was carried out is not taken up again: its end is reported again": HAPPY
    + UNTIL_ORDER
    + """
        > answer
        < discover
        > nodes 1=2.1.0 2=2.1.0
        < report 2 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        > power
        > state IDLE
    """
    + UNTIL_ORDER
    + """
        > answer
        < discover
        > nodes 1=2.1.0 2=2.1.0
        < report 3 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        > ack
        > state IDLE
    """,
    "S19: an order that was refused stays refused, also behind an answer that there is none": UNTIL_ORDER
    + """
        > answer
        < GET manifests
        > answer forged-manifest
        < tell authenticating 0: {forged-manifest}
        > wait 5.1
    """
    + AGAIN_UNTIL_ORDER
    + """
        > answer
        < GET manifests
        > answer forged-manifest
        < tell authenticating 0: {forged-manifest}
        > wait 10.1
    """
    + AGAIN_UNTIL_ORDER
    + """
        > answer
        < GET manifests
        > answer forged-manifest
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 rejected [0=2.0.0 1=2.0.0 2=2.0.0]: {forged-manifest}
        > ack
        > state IDLE
    """
    + UNTIL_ORDER
    + """
        > answer 204
        > state IDLE
    """
    + UNTIL_ORDER
    + """
        > answer
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 2 rejected [0=2.0.0 1=2.0.0 2=2.0.0]: {forged-manifest}
    """,
    "P8: an instruction is followed while the report is pending, and a newer order supersedes it": REPORTED
    + """
        > instructed
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < POST reports
        > answer 404
        < GET order
        > answer newer
        < GET manifests
        > ack
        > login
        < tell authenticating 0
        > answer
        < POST orders/o-18/confirm
    """,
    "P8: without a newer order the report stays pending, over power cycles too": REPORTED
    + ASKED
    + """
        > answer 404
        < GET order
        > answer 204
        > state REPORTING
        > login
        < report 1 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        > power
        < discover
        > instructed
        > nodes 1=2.1.0 2=2.1.0
        < report 2 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > broken cut
        < tell authenticating 0: cut
        > power
        < discover
        > nodes 1=2.1.0 2=2.1.0
        < report 3 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        > ack
        > state IDLE
    """,
    "P8: the same order again while the report is pending: the report is repeated": REPORTED
    + ASKED
    + """
        > answer 404
        < GET order
        > answer
        < report 1 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        > state REPORTING
    """,
    "P8: a refusal on the link ends nothing; the reason is asked over the device API, once a login": REPORTED
    + """
        > refused
        < tell authenticating 0
        < POST challenge
        > refused
        > answer 503
        < tell authenticating 0: challenge: expected 200, got 503 no: said no
        > wait 5.1
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < POST reports
        > answer receipt
        < GET order
        > answer 204
        > state IDLE
        > power
        > state IDLE
    """,
    "P8: a report of an order that the platform has never heard of is given up on its signed word": REPORTED
    + ASKED
    + """
        > answer receipt unknown-order 0
        < remark the platform refuses the report for good: unknown-order: said the platform
        < GET order
        > answer 204
        > state IDLE
        > login
    """,
    "P8: a stranger's word ends no report": REPORTED
    + ASKED
    + """
        > answer receipt unknown-order 0 thief
        < remark the answer to the report is not believed: arbitrary-software: signed with unknown key 3774845b9147b50c
        < GET order
        > answer 204
        > login
        < report 1 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        > refused
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < POST reports
        > answer nonsense
        < remark the answer to the report is not believed: {no-receipt}
        < GET order
        > answer 204
        > state REPORTING
    """,
    "S32: a counter that has begun anew goes on above what the platform says it has taken": REPORTED
    + ASKED
    + """
        > answer receipt replay 57
        < remark the platform has taken reports up to 57 from this vehicle; the report is signed anew
        < report 58 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        < GET order
        > answer 204
        > state REPORTING
        > ack
        > state IDLE
    """,
    "S15: no signature moves the report counter beyond any number of reports": REPORTED
    + ASKED
    + """
        > answer receipt replay 1099511627776
        < remark the platform refuses the report for good: replay: said the platform
        < GET order
        > answer 204
        > state IDLE
    """,
    "P8: the platform takes the report on the link while it is asked why it did not": REPORTED
    + ASKED
    + """
        > ack
        > answer receipt
        < GET order
        > answer newer
        < GET manifests
    """,
    "P8: a session that cannot be opened leaves the report pending": REPORTED
    + """
        > instructed
        < tell authenticating 0
        < POST challenge
    """
    + "".join(
        f"""
        > broken no network
        < tell authenticating 0: no network
        > wait {wait}.1{said}
        < tell authenticating 0
        < POST challenge
        """
        for wait, said in ((5, ""), (10, ""), (20, ""), (40, ""), (80, ""), (160, AGAIN_REPORTED), (300, ""))
    )
    + """
        > broken no network
        < tell authenticating 0: no network
        > state REPORTING
        > login
        < report 1 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
    """,
    "P24: an order below what was accepted is refused with the number, and the next one is above it": HAPPY
    + UNTIL_ORDER
    + """
        > answer older
        < tell rejected 0: replay: expected an order after 5, got 3
        < POST order/refusal
        > answer newer
        < GET manifests
        > answer
        < POST orders/o-18/confirm
    """,
    "orders that are not believed end the session, not the unit": UNTIL_ORDER
    + """
        > answer other-vehicle
        < tell rejected 0: wrong-vehicle: expected an order for LBMSOTA0000000001, got one for LBMSOTA0000000002
        < POST order/refusal
        > answer other-vehicle
        < tell rejected 0: wrong-vehicle: expected an order for LBMSOTA0000000001, got one for LBMSOTA0000000002
        < POST order/refusal
        > answer other-vehicle
        < tell rejected 0: wrong-vehicle: expected an order for LBMSOTA0000000001, got one for LBMSOTA0000000002
        > state IDLE
    """,
    "an accepted order is not ended by another that is not believed": UNTIL_DOWNLOAD
    + """
        > power
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer other-vehicle
        < tell rejected 0: wrong-vehicle: expected an order for LBMSOTA0000000001, got one for LBMSOTA0000000002
        < POST order/refusal
        > answer
        < tell authenticating 0: the platform offers an order that is not believed
        > wait 5.1
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer
        < POST orders/o-17/confirm
    """,
    "a mixed pack is said in the reason": UNTIL_TESTED
    + """
        > power
        < discover
        > nodes 1=2.1.0 2=2.0.0
        < tell switching 100: the new image was not confirmed before the next boot
        < revert [1] restart [2]
        > reverted 1=silent 2=ok
        < discover
        > nodes 1=2.1.0 2=2.0.0
        < revert [1] restart [2]
        > reverted 1=silent 2=ok
        < discover
        > nodes 1=2.1.0 2=2.0.0
        < report 1 failed [0=2.0.0 1=2.1.0 2=2.0.0] mixed (master runs 2.0.0, slave 1 runs 2.1.0, slave 2 runs 2.0.0): mixed pack: slaves 1 run the new version; the new image was not confirmed before the next boot
    """,
    "power lost while going back": UNTIL_TESTED
    + """
        > tested too hot
        < tell switching 100: too hot
        < revert [1,2] restart []
        > power
        < discover
        > nodes 1=2.1.0 2=2.0.0 trial=1
        < tell switching 100: too hot
        < revert [1] restart [2]
        > reverted 1=ok 2=ok
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 rolled-back [0=2.0.0 1=2.0.0 2=2.0.0]: too hot
    """,
    "confirmed, but power lost before the report: success at the next boot": UNTIL_COMMITTED
    + """
        > power
        < raise 1=2.1.0 2=2.1.0
        > raised 1=ok 2=ok
        < discover
        > nodes 1=2.1.0 2=2.1.0
        < report 1 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        > power
        < discover
        > nodes 1=2.1.0 2=2.1.0
        < report 2 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        > ack
        > state IDLE
    """,
    "a slave that dies after the commit is named": UNTIL_COMMITTED
    + """
        > raised 1=ok 2=silent
        < discover
        > nodes 1=2.1.0
        < discover
        > nodes 1=2.1.0
        < discover
        > nodes 1=2.1.0
        < report 1 failed [0=2.1.0 1=2.1.0]: mixed pack: slaves 2 do not answer
    """,
    "the old image is found damaged at the switch: there is only the new one": UNTIL_STAGED
    + """
        > power
        < reset: switches to the new image
        > power damaged-active
        < tell switching 100
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < tell flashing slaves 100
        < flash 1,2
    """,
    "P18 P20 the switch waits for rest in the old image, over power cycles": UNTIL_STAGED
    + """
        > power charging
        < tell download complete 100: charging
        > login
        < tell download complete 100: charging
        > power empty
        < tell download complete 100: state of charge below 10 %
        > weak
        < tell download complete 100: 12 V supply below 11.5 V
        > live
        < tell download complete 100: contactors closed, current above 15 A
        > faulty
        < tell download complete 100: a fault above level 2
        > wait 100
        > driving
        < tell download complete 100: driving
        > parked
        < reset: switches to the new image
        > power
        < tell switching 100
        < discover
    """,
    "P19 the download goes on while the vehicle drives": UNTIL_DOWNLOAD
    + """
        > driving
        > answer cut 5000
        < tell downloading 28
        < remark download broke off: connection lost
        > wait 1.1
        < GET images/master bytes=5000-{master-last}
        > answer 401
        < abort
        < tell authenticating 0
        < POST challenge
        > power driving
        < tell authenticating 0
        < POST challenge
    """,
    "P18 P19 in the test boot rest is waited for before each step that needs it": UNTIL_SWITCHED
    + """
        > driving
        > nodes 1=2.0.0 2=2.0.0
        < tell switching 100: driving
        > wait 100
        > charging
        < tell switching 100: charging
        > parked
        < tell flashing slaves 100
        < flash 1,2
        > weak
        > flashed 1=ok 2=ok
        < tell switching 100: 12 V supply below 11.5 V
        > early
        > parked
        < activate 1,2
    """,
    "P18 a pack that does not come to rest goes back": UNTIL_SWITCHED
    + """
        > charging
        > nodes 1=2.0.0 2=2.0.0
        < tell switching 100: charging
        > wait 1799
        > wait 2
        < tell switching 100: the pack did not come to rest: charging
        < revert [] restart [1,2]
        > reverted 1=ok 2=ok
        < reset: the pack did not come to rest: charging
        > power charging
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 rolled-back [0=2.0.0 1=2.0.0 2=2.0.0]: the pack did not come to rest: charging
    """,
    "P19 nothing is restarted while the vehicle drives; the next power-on goes back": UNTIL_SWITCHED
    + """
        > driving
        > nodes 1=2.0.0 2=2.0.0
        < tell switching 100: driving
        > wait 7200
        > power driving
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < report 1 rolled-back [0=2.0.0 1=2.0.0 2=2.0.0]: the new image was not confirmed before the next boot
    """,
    "a pack that never answers is gone on without": UNTIL_SWITCHED
    + """
        > wait 599
        > wait 2
        < discover
        > wait 600
        < discover
        > wait 600
        < tell switching 100: slaves 1, 2 do not answer
        < revert [] restart []
        > wait 600
        < reset: slaves 1, 2 do not answer
        > wait 600
        < reset: slaves 1, 2 do not answer
        > power
        < discover
    """,
    "slaves that are flashed without an answer are flashed once more": UNTIL_SWITCHED
    + """
        > nodes 1=2.0.0 2=2.0.0
        < tell flashing slaves 100
        < flash 1,2
        > wait 7201
        < flash 1,2
        > wait 7201
        < tell switching 100: slave 1: no answer; slave 2: no answer
        < revert [] restart [1,2]
    """,
    "slaves that are activated without an answer": UNTIL_FLASHED
    + """
        > wait 601
        < tell switching 100: slave 1: no answer; slave 2: no answer
        < revert [] restart [1,2]
    """,
    "a self-test without an end": UNTIL_TESTED
    + """
        > wait 601
        < tell switching 100: the self-test did not end
        < revert [1,2] restart []
    """,
    "slaves that are confirmed without an answer": UNTIL_CONFIRMED
    + """
        > wait 601
        < discover
        > nodes 1=2.1.0 2=2.1.0
        < raise 1=2.1.0 2=2.1.0
    """,
    "counters that are raised without an answer, and a report that is not acknowledged": UNTIL_COMMITTED
    + """
        > wait 601
        < discover
        > nodes 1=2.1.0 2=2.1.0
        < report 1 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        > wait 299
        > wait 2
        < report 1 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        > wait 598
        > wait 2
        < report 1 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
        > ack
        > wait 86400
        > state IDLE
    """,
    "answers to questions that were not asked are ignored": UNTIL_STAGED
    + """
        > nodes 1=2.0.0 2=2.0.0
        > flashed 1=ok
        > activated 1=ok
        > tested good
        > confirmed 1=ok
        > raised 1=ok
        > reverted 1=ok
        > ack
        > broken late
        > state DOWNLOAD_COMPLETE
    """,
}


@pytest.fixture(scope="module")
def texts(world):
    """What the documents' own refusals say, word by word."""
    forged = sign_order(world.order, world.THIEF_KEY)
    forged_manifest = sign_manifest(world.manifest, world.THIEF_KEY)
    stranger = "arbitrary-software: signed with unknown key 3774845b9147b50c"
    documents = {
        "forged": forged,
        "forged-manifest": forged_manifest,
        "other-vehicle": sign_order(world.order_for(world.manifest_data, vin="LBMSOTA0000000002"), world.ORDER_KEY),
        "expired": sign_order(
            world.order_for(world.manifest_data, issued_s=world.NOW_S - 100, expires_s=world.NOW_S - 1), world.ORDER_KEY
        ),
    }
    newer = world.order_for(world.manifest_data, order_id="o-18", sequence=6)
    documents["newer"] = sign_order(newer, world.ORDER_KEY)
    older = world.order_for(world.manifest_data, order_id="o-3", sequence=3)
    documents["older"] = sign_order(older, world.ORDER_KEY)
    digest = world.manifest.images[0].sha256.hex()[:16]
    return SimpleNamespace(
        documents=documents,
        words={
            "{forged}": stranger,
            "{forged-manifest}": stranger,
            "{corrupted}": f"image {digest}: corrupted-data: block 1 did not have its signed digest 3 times",
            "{no-receipt}": ("malformed-document: application/vnd.bmsota.receipt+cbor: expected tag 18, got 6e"),
            "{nonsense}": "challenge: expected a string of 14 bytes, got 7 (offset 1)",
            "{master-last}": str(world.manifest.images[0].size_bytes - 1),
        },
    )


@pytest.fixture
def made(world, texts):
    def make(**options):
        device = Device(world, **options)
        device.documents |= texts.documents
        return device

    return make


def fill(script, texts):
    for placeholder, text in texts.words.items():
        script = script.replace(placeholder, text)
    return script


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_conversation_goes_as_written(name, made, texts):
    play(made(), fill(SCRIPTS[name], texts))


@pytest.mark.slow
def test_every_transition_of_the_table_is_walked(made, texts, monkeypatch):
    """And none that is not in it: `_enter` refuses those."""
    walked = set()
    enter = Updater._enter

    def recording(self, state, now_ns):
        walked.add((self.state, state))
        enter(self, state, now_ns)

    monkeypatch.setattr(Updater, "_enter", recording)
    for script in SCRIPTS.values():
        play(made(), fill(script, texts))
    for answers in range(4):
        give_up(made(), answers)
    expire(made())
    renew(expire_staged(made()))
    table = {(before, after) for before, followers in TRANSITIONS.items() for after in followers}
    # test_worn_flash.py walks these.
    of_worn_flash = {
        (UpdaterState.WAITING_TO_SWITCH, UpdaterState.DISCOVERING),
        (UpdaterState.CONFIRMING_PACK, UpdaterState.REVERTING_SLAVES),
    }
    assert walked == table - of_worn_flash
    assert {state for pair in table for state in pair} == set(UpdaterState)
    assert set(TRANSITIONS) == set(UpdaterState)


@pytest.mark.slow
def test_s2_every_state_that_waits_for_somebody_has_a_deadline(made, texts, monkeypatch):
    """The platform, the pack, the vehicle: whoever is silent, the updater wakes up. Only the driver may take his time."""
    resting = {UpdaterState.IDLE, UpdaterState.DOWNLOAD_COMPLETE}
    seen = set()
    give = Device.give

    def checked(self, line):
        give(self, line)
        if self.updater.state not in resting:
            assert self.updater.next_timeout() is not None, (self.updater.state, line)
            seen.add(self.updater.state)

    monkeypatch.setattr(Device, "give", checked)
    for script in SCRIPTS.values():
        play(made(), fill(script, texts))
    assert seen == set(UpdaterState) - resting


@pytest.mark.parametrize("before", UpdaterState)
def test_every_move_that_is_not_in_the_table_is_refused(before, made):
    updater = made().updater
    for after in UpdaterState:
        if after not in TRANSITIONS[before]:
            updater.state = before
            with pytest.raises(LocalProtocolError, match="expected a state that follows"):
                updater._enter(after, 0)
            assert updater.state is before
            assert updater.next_action() is None


# -- what a script cannot say well -----------------------------------------------------------------------------------------


def give_up(device, answers=0):
    """Exchanges fail behind so many good answers until the updater gives up; the waits in seconds."""
    play(device, "> instructed\n< tell authenticating 0\n< POST challenge")
    waits = []
    while True:
        for _ in range(answers):
            device.give("answer")
            device.actions()
        device.give("broken no network")
        if device.updater.state is UpdaterState.IDLE:
            return waits
        before = device.now_ns
        while device.updater.state is UpdaterState.WAITING_SAFE_STATE:
            device.now_ns = device.updater.next_timeout()
            device.updater.handle_timeout(device.now_ns)
        waits.append((device.now_ns - before) // SECOND)
        device.actions()


def test_waits_double_up_to_a_maximum_and_then_the_order_is_left():
    waits = [min(EXCHANGE_WAIT_NS << index, EXCHANGE_WAIT_NS_MAX) // SECOND for index in range(EXCHANGE_TRIES_MAX - 1)]
    assert waits == [5, 10, 20, 40, 80, 160, 300]


@pytest.mark.parametrize("answers", range(4))
def test_exchanges_that_fail_for_ever_are_given_up(made, answers):
    device = made()
    assert give_up(device, answers) == [5, 10, 20, 40, 80, 160, 300]
    device.actions()
    play(device, "> login")
    play(device, UNTIL_ORDER)


@pytest.mark.parametrize(("told_s", "waited_s"), [(0, 5), (3, 5), (40, 40), (10**9, 3600)])
def test_a_busy_platform_says_when_to_come_back(made, told_s, waited_s):
    """Retry-After of a refusal is honoured, up to an hour; the next failure without one waits as ever."""
    device = made()
    play(device, "> instructed\n< tell authenticating 0\n< POST challenge")
    device.give(f"answer busy {told_s}")
    assert (device.updater.next_timeout() - device.now_ns) // SECOND == waited_s
    device.actions()
    device.give(f"wait {waited_s + 0.1}")
    device.actions()
    device.give("answer 500")
    assert (device.updater.next_timeout() - device.now_ns) // SECOND == 10


@pytest.mark.parametrize("url", ["http://b x", "http://evil.example", "ftp://cloud.example"])
def test_the_url_in_an_old_journal_is_checked_when_it_is_read(made, url):
    """A version before followed any instruction: nothing is asked or signed there, and the order waits for the next one."""
    device = made()
    play(device, UNTIL_DOWNLOAD)
    device.updater._records.move(url)
    device.power()
    assert device.actions() == [
        f"remark journal: expected an https URL or the origin of this unit's platform, got {url!r}; the order waits for an instruction",
        "tell waiting for safe state 0: waiting for an instruction",
    ]
    device.give("wait 100000")
    assert (device.request, device.updater.next_timeout()) == (None, None)
    device.give("instructed")
    device.actions()
    assert device.request is not None


def test_a_staged_image_whose_url_is_not_allowed_switches_and_asks_nobody(made):
    """It needs nobody as long as its order is good; when that has expired, it waits for an instruction."""
    device = made()
    play(device, UNTIL_STAGED)
    device.updater._records.move("http://evil.example")
    device.now_ns += 40 * 24 * 3600 * SECOND
    device.power()
    assert device.updater.state is UpdaterState.WAITING_TO_SWITCH
    assert device.request is None
    device.give("instructed")
    assert device.updater.state is UpdaterState.OPENING_SESSION


def test_a_pending_report_locks_no_flasher_out(made):
    """The order has ended, and the platform may be away for days; while it is asked for the next order, too."""
    device = made()
    assert not device.updater.locks_pack
    play(device, UNTIL_DOWNLOAD)
    assert device.updater.locks_pack
    device = made()
    play(device, REPORTED)
    assert device.updater.state is UpdaterState.REPORTING
    assert (device.updater.locks_pack, device.updater.in_upgrade_mode) == (False, True)
    device.give("instructed")
    assert device.updater.state is UpdaterState.OPENING_SESSION
    assert not device.updater.locks_pack
    device.power()
    assert (device.updater.state, device.updater.locks_pack) == (UpdaterState.DISCOVERING, True)


def expire(device):
    """The order expires while a unit that has accepted it waits; at the next fetch it is refused."""
    play(device, UNTIL_DOWNLOAD)
    device.now_ns += 40 * 24 * 3600 * SECOND
    device.power()
    for _ in range(3):
        device.actions()
        device.give("answer")
    assert device.actions() == ["discover"]
    device.give("nodes 1=2.0.0 2=2.0.0")
    assert device.actions() == [
        (
            "report 1 rejected [0=2.0.0 1=2.0.0 2=2.0.0]: "
            "freeze: expected order to be valid at 1793456000, got expiry 1792592000"
        )
    ]


def expire_staged(device):
    """A staged image waits in the garage until its order has expired: it is not switched to before a renewed one."""
    play(device, UNTIL_STAGED)
    device.now_ns += 40 * 24 * 3600 * SECOND
    expired = "freeze: expected order to be valid at 1793456000, got expiry 1792592000"
    play(
        device,
        f"""
        > power
        < tell download complete 100: {expired}
        < tell authenticating 0
        < POST challenge
        > answer
        < POST session
        > answer
        < GET order
        > answer
        < tell authenticating 0: {expired}
        > wait 4.9
        """,
    )
    device.give("wait 0.2")
    assert device.actions()[-1] == "POST challenge"
    return device


def renew(device):
    """The platform has signed the order anew; the unit, which has just begun to ask, finds it."""
    world = device.world
    order = world.order_for(
        world.manifest_data,
        order_id="o-18",
        sequence=6,
        issued_s=world.NOW_S + 39 * 24 * 3600,
        expires_s=world.NOW_S + 80 * 24 * 3600,
    )
    device.documents["order"] = sign_order(order, world.ORDER_KEY)
    for _ in range(4):
        device.give("answer")


@pytest.mark.parametrize("operation", range(1, 7))
@pytest.mark.parametrize("phase", ["inside", "after"])
def test_p21_power_lost_while_a_renewed_order_is_stored_costs_nothing_that_was_staged(made, operation, phase):
    """The trust knows the new order, the records may still hold the old one: it is fetched again, the images are not."""
    device = expire_staged(made())
    device.flash.cut_at(device.flash.operations + operation, phase)
    with suppress(PowerCut):
        renew(device)
    device.flash.clear_cuts()
    device.power()
    for _ in range(8):
        if device.updater.state in {UpdaterState.RESETTING, UpdaterState.DOWNLOAD_COMPLETE}:
            break
        device.actions()
        device.give("answer")
    assert not [line for line in device.actions() if "images" in line]
    if device.updater.state is UpdaterState.DOWNLOAD_COMPLETE:
        device.power()
    assert device.updater.state is UpdaterState.RESETTING
    device.power()
    assert device.actions()[-1] == "discover"


def test_p21_a_staged_image_whose_order_has_expired_waits_for_a_renewed_one(made):
    device = expire_staged(made())
    for _ in range(30):
        # However often it is the old one: asked again, at most every five minutes, and nothing is switched.
        for _ in range(3):
            device.give("answer")
        assert device.updater.state is UpdaterState.WAITING_SAFE_STATE
        wait_ns = device.updater.next_timeout() - device.now_ns
        assert wait_ns <= EXCHANGE_WAIT_NS_MAX
        device.give(f"wait {wait_ns / SECOND + 0.1}")
        device.actions()
    assert (device.updater.in_upgrade_mode, device.updater.must_rest) == (True, False)
    renew(device)
    assert device.updater.state is UpdaterState.RESETTING
    assert device.actions()[-1] == "reset: switches to the new image"
    device.power()
    assert device.actions()[-1] == "discover"


def test_p21_a_clock_that_jumps_ahead_costs_nothing_but_a_wait(made):
    """The order is still good when the clock is right again."""
    device = expire_staged(made())
    device.now_ns -= 40 * 24 * 3600 * SECOND
    device.power()
    assert device.updater.state is UpdaterState.RESETTING


def test_a_staged_image_whose_order_was_withdrawn_is_never_switched_to(made):
    device = expire_staged(made())
    del device.documents["order"]
    for _ in range(3):
        device.give("answer")
    assert device.actions()[-1] == "tell cancelled 0: the platform has no order for this unit"
    device.power()
    device.power()
    assert device.boot.facts.version == ImageVersion(2, 0)
    assert device.updater.state is UpdaterState.IDLE


def test_a_renewed_order_for_a_manifest_that_has_expired_does_not_switch(made, world):
    """It is asked for again, later and later, until there is a manifest that holds."""
    device = made()
    manifest = world.replace(world.manifest, expires_s=world.NOW_S + 24 * 3600)
    device.documents["manifest"] = sign_manifest(manifest, world.MANIFEST_KEY)
    order = world.order_for(device.documents["manifest"])
    device.documents["order"] = sign_order(order, world.ORDER_KEY)
    play(device, UNTIL_STAGED)
    device.now_ns += 2 * 24 * 3600 * SECOND
    device.power()
    assert "expected manifest to be valid" in device.actions()[0]
    waits = []
    for _ in range(8):
        for _ in range(4):
            device.give("answer")
        assert device.updater.state is UpdaterState.WAITING_SAFE_STATE
        waits.append((device.updater.next_timeout() - device.now_ns) // SECOND)
        device.give(f"wait {waits[-1] + 0.1}")
        device.actions()
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]
    # The release is signed anew: another document, the same images.
    newer = sign_manifest(world.replace(manifest, expires_s=world.NOW_S + 90 * 24 * 3600), world.MANIFEST_KEY)
    device.documents["manifest"] = newer
    device.documents["order"] = sign_order(world.order_for(newer, order_id="o-18", sequence=6), world.ORDER_KEY)
    for _ in range(5):
        device.give("answer")
    assert device.updater.state is UpdaterState.DOWNLOAD_COMPLETE
    device.power()
    assert device.updater.state is UpdaterState.RESETTING


def test_an_accepted_order_that_expires_is_refused_with_a_report(made):
    expire(made())


def test_an_accepted_order_waits_for_the_network_as_long_as_it_takes(made):
    device = made()
    play(device, UNTIL_DOWNLOAD)
    device.power()
    for _ in range(3 * EXCHANGE_TRIES_MAX):
        device.actions()
        device.give("broken no mobile network")
        assert device.updater.state is UpdaterState.WAITING_SAFE_STATE
        wait_ns = device.updater.next_timeout() - device.now_ns
        assert wait_ns <= EXCHANGE_WAIT_NS_MAX
        device.give(f"wait {wait_ns / SECOND + 0.1}")
    assert device.updater.state is UpdaterState.OPENING_SESSION


def test_a_long_tunnel_in_mid_download_is_no_failure(made):
    """The download's own patience is minutes; then the order waits on, and what is on the shelf stays."""
    device = made()
    play(device, UNTIL_DOWNLOAD)
    device.give("answer cut 5000")
    device.actions()
    for _ in range(400):
        device.give("wait 10")
        device.actions()
        if device.request is not None:
            device.give("broken no mobile network")
    assert device.updater.state in {UpdaterState.WAITING_SAFE_STATE, UpdaterState.OPENING_SESSION}
    while device.request is None:
        device.give("wait 1")
        device.collect()
    for _ in range(4):
        device.actions()
        device.give("answer")
    assert device.updater.state is UpdaterState.DOWNLOADING
    assert any("bytes=4096-" in line for line in device.actions())


def test_a_platform_that_takes_no_session_of_its_own_is_given_up(made):
    """401 behind every fresh session must not become a loop without end, nor one without a pause."""
    device = made()
    play(device, UNTIL_DOWNLOAD)
    start_ns, exchanges = device.now_ns, 0
    while device.updater.state is not UpdaterState.DISCOVERING:
        exchanges += 1
        assert exchanges < 100
        device.give("answer 401" if device.updater.state is UpdaterState.DOWNLOADING else "answer")
        device.actions()
        while device.updater.state is UpdaterState.WAITING_SAFE_STATE:
            device.give("wait 10")
            device.actions()
    assert device.now_ns - start_ns > 300 * SECOND
    device.give("nodes 1=2.0.0 2=2.0.0")
    assert "401" in device.actions()[-1]


def test_images_that_do_not_fit_are_refused_before_the_download(made):
    device = made(shelf_bytes=8192)
    play(device, UNTIL_ORDER)
    device.give("answer")
    device.actions()
    device.give("answer")
    assert device.actions() == ["discover"]
    device.give("nodes 1=2.0.0 2=2.0.0")
    assert device.actions() == [
        "report 1 failed [0=2.0.0 1=2.0.0 2=2.0.0]: image store: expected at most 8192 bytes of images, got 20480"
    ]


def test_an_image_too_large_for_its_slot_is_refused_before_the_download(made, world):
    """Each node's own slot, as it has said it: not one byte of an image is fetched."""
    device = made()
    device.updater.nodes_seen([describe(1, slot_size_kib=1), describe(2, slot_size_kib=0)])
    play(device, UNTIL_ORDER)
    device.give("answer")
    device.actions()
    device.give("answer")
    assert device.actions() == ["discover"]
    device.give("nodes 1=2.0.0 2=2.0.0")
    size = len(world.slave)
    assert device.actions() == [
        f"report 1 failed [0=2.0.0 1=2.0.0 2=2.0.0]: slave 1: expected an image that fits the slot of 1 KiB, got {size} bytes"
    ]


def test_a_master_image_larger_than_its_slot_is_refused_before_the_download(made, world):
    device = made()
    device.updater_store._layout = replace(device.updater_store._layout, slot_size_bytes=4096)
    play(device, UNTIL_ORDER)
    device.give("answer")
    device.actions()
    device.give("answer")
    assert device.actions() == ["discover"]
    device.give("nodes 1=2.0.0 2=2.0.0")
    (line,) = device.actions()
    assert line.endswith(f": master: expected an image that fits the slot of 4096 bytes, got {len(world.master)} bytes")


def test_another_build_of_the_release_s_version_is_flashed_and_never_success(made):
    """Same version, other bytes: such a slave is flashed, and a pack that keeps it goes back."""
    device = made()
    play(device, UNTIL_SWITCHED)
    device.give("nodes 1=2.1.0! 2=2.1.0~")
    assert "flash 2" in device.actions()
    device.give("flashed 2=ok")
    assert device.actions() == ["activate 2"]
    device.give("activated 2=ok")
    device.actions()
    device.give("nodes 1=2.1.0! 2=2.1.0~ trial=2")
    assert "revert [2] restart [1]" in device.actions()


def test_a_report_names_the_bytes_that_run(made):
    device = made()
    play(device, UNTIL_SWITCHED)
    device.give("nodes 1=2.1.0! 2=2.1.0!")
    device.give("tested good")
    device.give("confirmed 1=ok 2=ok")
    device.give("raised 1=ok 2=ok")
    device.give("nodes 1=2.1.0! 2=2.1.0!")
    device.actions()
    ((report, _),) = device.reports
    assert report.outcome.value == "succeeded"
    digests = {image.role: image.sha256 for image in device.world.manifest.images}
    assert [node.image_sha256 for node in report.nodes] == [digests[node.role] for node in report.nodes]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("signed by another key", "arbitrary-software: "),
        ("unstable cells", "corrupted-data: expected image "),
        ("needs a later master", "mixed-bundle: expected MASTER >= 2.2.0"),
    ],
)
def test_every_image_is_verified_as_a_whole_before_anything_is_staged(made, world, wrong, said):
    """Right blocks are not enough. The boot store looks at the master's image only, so of a slave's nothing else here would."""
    slave = {
        "signed by another key": partial(world.slave_image, signing_key=world.THIEF_KEY),
        "unstable cells": world.slave_image,
        "needs a later master": partial(
            world.slave_image, dependencies=(ImageDependency(role=ImageRole.MASTER, version_min=ImageVersion(2, 2)),)
        ),
    }[wrong]()
    device = made()
    manifest = world.manifest_of(world.master, slave)
    device.documents["manifest"] = sign_manifest(manifest, world.MANIFEST_KEY)
    device.documents["order"] = sign_order(world.order_for(device.documents["manifest"]), world.ORDER_KEY)
    device.images = {image.sha256: data for image, data in zip(manifest.images, (world.master, slave), strict=True)}
    device.give("instructed")
    reads = []
    image_store = device.updater._records.image_store
    read, intact_blocks = image_store.read, image_store.intact_blocks

    def unstable(image):
        """Read well when the blocks are looked at, and otherwise the next time."""
        data = read(image)
        reads.append(image)
        return data if image.role is ImageRole.MASTER else data[:700] + bytes([data[700] ^ 1]) + data[701:]

    def looked_at(image):
        image_store.read = read
        try:
            return intact_blocks(image)
        finally:
            if wrong == "unstable cells":
                image_store.read = unstable

    image_store.intact_blocks = looked_at
    device.collect()
    while device.request is not None:
        device.give("answer")
        device.collect()
    device.lines.clear()
    device.give("nodes 1=2.0.0 2=2.0.0")
    (line,) = device.actions()
    assert line.startswith(f"report 1 rejected [0=2.0.0 1=2.0.0 2=2.0.0]: {said}"), line
    assert device.updater_store.slots[device.updater_store.spare_slot].state is SlotState.EMPTY


def test_an_impossible_slave_is_named_in_the_reason(made):
    """It answers, so it is not silent; what it says is that slave's refusal."""
    device = made()
    play(device, UNTIL_SWITCHED)
    for _ in range(3):
        device.updater.nodes_discovered(
            [describe(1, version=ImageVersion(2))],
            device.now_ns,
            refused=[NodeResult(2, False, "impossible identity: hwid: expected text")],
        )
    assert "tell switching 100: slave 2: impossible identity: hwid: expected text" in device.actions()


def test_an_image_store_that_does_not_keep_what_is_written_is_given_up(made, monkeypatch):
    """Worn cells: every block arrives well and reads wrong afterwards."""
    device = made()
    write = FlashModel.write

    def worn(self, offset, data):
        write(self, offset, data)
        if self is device.shelf_flash:
            self.flip_bit(offset + 7, 2)

    monkeypatch.setattr(FlashModel, "write", worn)
    play(device, UNTIL_DOWNLOAD)
    for _ in range(20):
        if device.updater.state is UpdaterState.DISCOVERING:
            break
        device.give("answer")
        device.actions()
    device.give("nodes 1=2.0.0 2=2.0.0")
    assert device.actions()[-1].endswith("the image store does not keep 3 blocks written to it")


def test_how_many_slaves_are_staged_is_told_while_the_others_are_flashed(made):
    """An operator sees "1 of 2"; a slave that is staged after the operation is over says nothing."""
    device = made()
    play(device, UNTIL_FLASHED.partition("    > flashed")[0])
    device.updater.slave_staged(1)
    assert device.actions() == ["tell flashing slaves 100: 1 of 2"]
    device.updater.slave_staged(1)
    assert device.actions() == []
    device.updater.slave_staged(2)
    assert device.actions() == ["tell flashing slaves 100: 2 of 2"]
    device.give("flashed 1=ok 2=ok")
    assert device.actions() == ["activate 1,2"]
    device.updater.slave_staged(2)
    assert device.actions() == []


def test_a_reason_too_long_for_the_wire_is_cut(made):
    """Eight slaves that fail at once say more than a frame and a report can carry; a server may say anything."""
    device = made()
    play(device, UNTIL_FLASHED)
    long = "ä" * 300 + "\n"
    device.updater.slaves_activated([NodeResult(1, False, long)], device.now_ns)
    told = [action for action in iter(device.updater.next_action, None) if isinstance(action, TellState)]
    assert len(told[-1].reason.encode()) <= 255
    assert told[-1].reason.startswith("slave 1: ää")
    device.power()
    device.actions()
    device.give("nodes 1=2.0.0 2=2.0.0")
    assert device.actions()[-1].startswith("report 1 rolled-back")

    other = made()
    play(other, UNTIL_ORDER)
    other.give("broken two\nlines\x00")
    assert other.actions() == ["tell authenticating 0: two lines "]


def test_a_report_repeated_at_a_login_is_the_same_document(made, texts):
    """The platform takes no number twice, unless it is the very same report again."""
    device = made()
    play(device, HAPPY.split("> ack")[0])
    device.give("wait 100")
    device.give("login")
    device.actions()
    (_, first), (_, second) = device.reports
    assert first == second
    device.power()
    device.actions()
    device.give("nodes 1=2.1.0 2=2.1.0")
    device.actions()
    assert [report.counter for report, _ in device.reports] == [1, 1, 2]


@pytest.mark.slow
def test_upgrade_mode_is_from_the_acceptance_to_the_report_and_rest_only_for_the_work(made):
    """Two conditions: one is shown, the other forbids driving and charging."""
    device = made()

    def mode():
        return device.updater.in_upgrade_mode, device.updater.must_rest

    steps = [
        (UNTIL_ORDER, (False, False)),
        (UNTIL_DOWNLOAD, (True, False)),
        (UNTIL_STAGED, (True, False)),
        (UNTIL_STAGED + "> power charging\n< tell download complete 100: charging\n", (True, False)),
        (UNTIL_STAGED + "> power\n< reset: switches to the new image\n", (True, True)),
        (UNTIL_SWITCHED, (True, True)),
        (
            UNTIL_SWITCHED + "> driving\n> nodes 1=2.0.0 2=2.0.0\n< tell switching 100: driving\n",
            (True, False),
        ),
        (UNTIL_FLASHED, (True, True)),
        (UNTIL_TESTED, (True, True)),
        (UNTIL_COMMITTED, (True, True)),
        (HAPPY.split("> ack")[0], (True, False)),
        (HAPPY, (False, False)),
    ]
    assert mode() == (False, False)
    for script, expected in steps:
        device = made()
        play(device, script)
        assert mode() == expected, script[-300:]


def test_a_report_of_what_was_refused_before_the_switch_needs_no_rest(made):
    device = made()
    play(device, UNTIL_DOWNLOAD)
    device.give("answer flip 5000")
    device.give("answer flip 904")
    device.give("answer flip 5000")
    assert device.updater.state is UpdaterState.DISCOVERING
    assert (device.updater.in_upgrade_mode, device.updater.must_rest) == (True, False)


def test_what_an_order_answers_for_grows_with_what_it_does(made):
    """Before the switch it has written into one slot; from the switch on, what it changed is its own work."""
    device = made()

    def reach():
        found = device.updater.scope
        return found and (sorted(found.runs), sorted(found.stages), found.is_concluded)

    assert reach() is None
    play(device, UNTIL_ORDER)
    assert reach() is None
    play(device, UNTIL_DOWNLOAD.removeprefix(UNTIL_ORDER))
    assert (device.updater.scope.order_id, reach()) == ("o-17", ([], [0], False))
    device.power()
    assert reach() == ([], [0], False)
    device = made()
    play(device, UNTIL_STAGED)
    assert reach() == ([0], [0], False)
    play(device, UNTIL_FLASHED.removeprefix(UNTIL_STAGED))
    assert reach() == ([0, 1, 2], [0, 1, 2], False)
    play(device, UNTIL_COMMITTED.removeprefix(UNTIL_FLASHED))
    play(
        device,
        "> raised 1=ok 2=ok\n< discover\n> nodes 1=2.1.0 2=2.1.0\n< report 1 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]",
    )
    assert reach() == ([0, 1, 2], [0, 1, 2], True)
    device.give("ack")
    assert reach() is None
    device.give("boot")
    with pytest.raises(LocalProtocolError, match="after power_on"):
        reach()


def test_the_counter_in_trust_rises_only_at_the_commit(made):
    device = made()
    play(device, UNTIL_CONFIRMED)
    assert device.updater._trust.state.security_counters == ()
    play(device, UNTIL_COMMITTED.removeprefix(UNTIL_CONFIRMED))
    assert device.updater._trust.state.security_counters == ((0, 2), (1, 2), (2, 2))


def test_a_pack_whose_master_runs_the_version_already_is_told_apart_by_its_slot(made, world):
    """A slave came from the workshop with an old image, and the same release is ordered again: equal master versions."""
    device = made()
    play(device, HAPPY)
    order = world.order_for(world.manifest_data, order_id="o-18", sequence=6)
    device.documents["order"] = sign_order(order, world.ORDER_KEY)
    play(device, UNTIL_ORDER)
    for _ in range(3):
        device.give("answer")
        device.actions()
    assert device.updater.state is UpdaterState.DOWNLOAD_COMPLETE
    play(
        device,
        """
        > power
        < reset: switches to the new image
        > power
        < tell switching 100
        < discover
        > nodes 1=2.1.0 2=2.0.0
        < tell flashing slaves 100
        < flash 2
        > power
        < discover
        > nodes 1=2.1.0 2=2.0.0
        < report 2 rolled-back [0=2.1.0 1=2.1.0 2=2.0.0] mixed (master runs 2.1.0, slave 1 runs 2.1.0, slave 2 runs 2.0.0): the new image was not confirmed before the next boot
        """,
    )


def cut_at(device, script, operation, phase="after"):
    """Play *script* with the power failing at this flash operation, counted from now; then power up."""
    device.flash.cut_at(device.flash.operations + operation, phase)
    with pytest.raises(PowerCut):
        play(device, script)
    device.flash.clear_cuts()
    device.power()


@pytest.mark.parametrize("phase", ["before", "after"])
def test_power_lost_in_the_last_write_of_staging(made, phase):
    """The journal says staged, or it does not yet: then the order goes on, and finds that everything is there."""
    device = made()
    reference = copy.deepcopy(device)
    before = reference.flash.operations
    play(reference, UNTIL_STAGED)
    # The record is written twice.
    last = reference.flash.operations - before - (phase == "before")
    cut_at(device, UNTIL_STAGED, last, phase)
    device.actions()
    if phase == "before":
        for _ in range(4):
            device.give("answer")
            device.actions()
        assert device.updater.state is UpdaterState.DOWNLOAD_COMPLETE
        device.power()
    assert device.updater.state is UpdaterState.RESETTING


def test_power_lost_between_the_request_of_the_test_boot_and_the_reset(made):
    """The next power-on is the test boot, and finds the vehicle charging: nothing is flashed."""
    device = made()
    play(device, UNTIL_STAGED)
    play(
        device,
        """
        > power
        < reset: switches to the new image
        > power charging
        < tell switching 100
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < tell switching 100: charging
        """,
    )


def test_a_report_that_was_superseded_is_not_taken_for_the_next_one(made):
    """The platform answers the old report late, when the next order has ended too."""
    device = made()
    play(device, REPORTED)
    old = device.last_report
    device.documents["order"] = device.documents["newer"]
    play(device, ASKED)
    while device.updater.state is not UpdaterState.DISCOVERING:
        device.actions()
        if device.request is None:
            device.give("wait 20")
        elif "/manifests/" in device.request.path:
            device.give("answer forged-manifest")
        else:
            device.give("answer 404" if device.request.path.endswith("/reports") else "answer")
    device.actions()
    device.give("nodes 1=2.1.0 2=2.1.0")
    assert device.actions()[-1].startswith("report 2 rejected")
    device.updater.report_acknowledged(old, device.now_ns)
    device.updater.report_refused(old, device.now_ns)
    assert device.updater.state is UpdaterState.REPORTING
    assert device.actions() == []
    device.give("ack")
    assert device.updater.state is UpdaterState.IDLE


def test_the_platforms_word_about_another_document_ends_no_report(made):
    device = made()
    play(device, REPORTED + ASKED)
    device.give("answer receipt unknown-order 0 order another")
    assert device.actions()[0].startswith(
        "remark the answer to the report is not believed: wrong-document: expected the receipt for "
    )
    device.give("answer 204")
    assert device.updater.state is UpdaterState.REPORTING


def test_a_refused_order_is_named_by_its_digest_with_the_number_to_go_beyond(made):
    """P24: the platform learns in the same session what the unit takes for a replay."""
    device = made()
    play(device, HAPPY + UNTIL_ORDER)
    device.give("answer older")
    device.actions()
    device.give("answer")
    (refusal,) = device.refusals
    assert refusal == device_api.OrderRefusal(
        order_sha256=hashlib.sha256(device.documents["older"]).digest(),
        sequence=5,
        reason="replay: expected an order after 5, got 3",
    )


def test_a_report_says_the_highest_sequence_the_unit_has_accepted(made):
    """P24: a platform that was restored from a backup goes on above it."""
    device = made()
    play(device, REPORTED)
    assert device.reports[-1][0].sequence == 5


@pytest.mark.parametrize("operation", range(1, 9))
def test_p8_power_lost_while_a_newer_order_supersedes_a_pending_report(made, operation):
    """Whatever write it failed in: the newer order never gets the outcome of the older, and is taken in the end."""
    device = made()
    play(device, REPORTED + ASKED)
    device.give("answer 404")
    device.actions()
    device.flash.cut_at(device.flash.operations + operation, "after")
    try:
        device.give("answer newer")
    except PowerCut:
        pass
    else:
        assert operation > 6
        return
    device.flash.clear_cuts()
    device.documents["order"] = device.documents["newer"]
    device.power()
    if device.updater.state is UpdaterState.DISCOVERING:
        device.give("nodes 1=2.1.0 2=2.1.0")
        device.actions()
        assert [report.order_id for report, _ in device.reports] == ["o-17", "o-17"]
    device.actions()
    device.give("instructed")
    for _ in range(6):
        device.actions()
        if device.request.path.endswith("/confirm"):
            break
        device.give("answer 404" if device.request.path.endswith("/reports") else "answer")
    assert device.updater.order_id == "o-18"
    assert device.updater.state is UpdaterState.CONFIRMING_ORDER
    assert device.updater._records.journal.outcome == ""


@pytest.mark.parametrize("operation", range(1, 11))
def test_power_lost_while_the_order_is_closed(made, operation):
    """The report was acknowledged; whatever write the power failed in, the order comes to its end."""
    device = made()
    play(device, HAPPY.split("> ack")[0])
    device.flash.cut_at(device.flash.operations + operation, "after")
    with pytest.raises(PowerCut):
        device.give("ack")
    device.flash.clear_cuts()
    device.power()
    if operation <= 2:
        # Nothing but the record of how it ended was written, which takes two writes: it is reported once more.
        play(
            device,
            """
            > early
            < discover
            > nodes 1=2.1.0 2=2.1.0
            < report 2 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
            > ack
            """,
        )
    assert device.updater.state is UpdaterState.IDLE
    assert "upgrade" not in device.updater_store.record_names()
    assert [line for line in device.actions() if line.startswith("remark")] == []


def test_power_lost_while_a_newer_order_is_stored(made, world):
    """Trust knows the new order, the record still holds the old one: it is fetched again."""
    device = made()
    play(device, UNTIL_DOWNLOAD)
    order = world.order_for(world.manifest_data, order_id="o-18", sequence=6)
    device.documents["order"] = sign_order(order, world.ORDER_KEY)
    device.power()
    for _ in range(2):
        device.actions()
        device.give("answer")
    device.actions()
    device.updater_store.put_record(
        "spare", b""
    )  # the first change since the power-up moves the journal, the next ones do not
    device.flash.cut_at(device.flash.operations + 1, "after")
    with pytest.raises(PowerCut):
        device.give("answer")
    device.flash.clear_cuts()
    device.power()
    for _ in range(3):
        device.actions()
        device.give("answer")
    assert device.updater.state is UpdaterState.FETCHING_MANIFEST
    assert device.updater.order_id == "o-18"


@pytest.mark.parametrize("record", ["order", "manifest"])
def test_documents_damaged_before_the_switch_are_fetched_again(made, record):
    device = made()
    play(device, UNTIL_STAGED)
    device.updater_store.put_record(record, b"damaged")
    device.power()
    asked = []
    for _ in range(8):
        asked += [line for line in device.actions() if line.startswith(("GET", "POST"))]
        if device.updater.state is UpdaterState.DOWNLOAD_COMPLETE:
            break
        device.give("answer")
    assert (asked[0], [line for line in asked if "images" in line]) == ("POST challenge", [])
    device.power()
    assert device.actions()[-1] == "reset: switches to the new image"


def test_damaged_documents_end_in_rest_not_in_a_crash(made):
    device = made()
    play(device, UNTIL_SWITCHED)
    device.updater_store.put_record("manifest", b"damaged")
    device.power()
    device.actions()
    device.give("nodes 1=2.0.0 2=2.0.0")
    device.actions()
    device.power()
    assert device.boot.facts.version == ImageVersion(2, 0)


def test_every_state_that_tells_has_a_stage():
    assert set(STAGE_OF.values()) | {Stage.REJECTED, Stage.CANCELLED} == set(Stage)

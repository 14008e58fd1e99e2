"""What a unit believes. Each attack by its name, and after it a good document is accepted all the same."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmsota.errors import ImageError, LocalProtocolError, TrustError
from bmsota.image import Attack, ImageRole, parse_image
from bmsota.ota import DeviceTrust, TrustState, sign_manifest, sign_order


@pytest.fixture(scope="session")
def unit(world):
    """Make a unit: a master, slaves at 1 to 3."""

    def make(**changes):
        options = {
            "vin": world.VIN,
            "hwid": world.HWID,
            "hardware_classes": {
                0: world.MASTER_CLASS,
                1: world.SLAVE_CLASS,
                2: world.SLAVE_CLASS,
                3: world.SLAVE_CLASS,
            },
            "image_keys": [world.IMAGE_KEY.public_key()],
            "manifest_keys": [world.MANIFEST_KEY.public_key()],
            "order_keys": [world.ORDER_KEY.public_key()],
        }
        return DeviceTrust(**{**options, **changes})

    return make


def refused(call, attack, trust):
    """The refusal has the name, and the state did not move."""
    before = trust.state
    with pytest.raises(TrustError) as caught:
        call()
    assert caught.value.attack == attack, str(caught.value)
    assert trust.state == before


def ordered(world, manifest_data, **changes):
    return sign_order(world.order_for(manifest_data, **changes), world.ORDER_KEY)


# -- the good way --------------------------------------------------------------------------------------------------------


def test_a_release_is_accepted_step_by_step(world, unit):
    """Order, manifest, images, bundle, confirmation: and the state is then ahead in every part."""
    trust = unit()
    order = trust.accept_order(world.order_data, world.NOW_NS)
    assert order == world.order
    manifest = trust.accept_manifest(world.manifest_data, order, world.NOW_NS)
    assert manifest == world.manifest
    images = [
        trust.check_image(data, trust.image_for(manifest, position))
        for position, data in ((0, world.master), (1, world.slave))
    ]
    assert images == [parse_image(world.master), parse_image(world.slave)]
    trust.check_bundle(manifest, images)
    assert trust.state.security_counters == ()
    trust.confirmed(manifest)
    trust.close_order()
    assert trust.state == TrustState(
        sequence=5,
        order_sha256=hashlib.sha256(world.order_data).digest(),
        order_is_open=False,
        security_counters=((0, 2), (1, 2), (2, 2), (3, 2)),
        time_s=world.manifest.created_s + 7 * world.DAY_S,
    )


def test_a_state_survives_storage(world, unit):
    """A unit that was switched off knows what it knew."""
    trust = unit()
    order = trust.accept_order(world.order_data, world.NOW_NS)
    trust.confirmed(trust.accept_manifest(world.manifest_data, order, world.NOW_NS), [1, 3])
    again = unit(state=TrustState.loads(trust.state.dumps()))
    assert again.state == trust.state
    assert again.state.security_counters == ((0, 2), (1, 2), (3, 2))
    assert (again.state.security_counter(3), again.state.security_counter(2)) == (2, 0)


def test_the_open_order_is_accepted_again_until_it_is_closed(world, unit):
    """A power cut after the order was accepted must not lose it; its end must."""
    trust = unit()
    trust.accept_order(world.order_data, world.NOW_NS)
    assert trust.accept_order(world.order_data, world.NOW_NS) == world.order
    # Its expiry is judged when it is accepted, not when it is taken back from the flash.
    late = (world.order.expires_s + 1) * 1_000_000_000
    refused(lambda: trust.accept_order(world.order_data, late), Attack.FREEZE, trust)
    assert trust.reread_order(world.order_data) == world.order
    trust.close_order()
    refused(lambda: trust.accept_order(world.order_data, world.NOW_NS), Attack.REPLAY, trust)
    refused(lambda: trust.reread_order(world.order_data), Attack.REPLAY, trust)


def test_a_manifest_is_taken_back_after_its_expiry(world, unit):
    """What was accepted in time may be carried out later; what was not, may not."""
    trust = unit()
    order = trust.accept_order(world.order_data, world.NOW_NS)
    late = (world.manifest.expires_s + 1) * 1_000_000_000
    assert trust.reread_manifest(world.manifest_data, order) == world.manifest
    refused(lambda: trust.accept_manifest(world.manifest_data, order, late), Attack.FREEZE, trust)


# -- attacks on the order ------------------------------------------------------------------------------------------------


ORDER_ATTACKS = {
    "for another vehicle": ({"vin": "LBMSOTA0000000002"}, Attack.WRONG_VEHICLE),
    "for another master": ({"hwid": "M-0002"}, Attack.WRONG_HARDWARE),
    "expired this second": (
        {"issued_s": 1_780_000_000, "approved_s": 0, "expires_s": 1_790_000_000 - 2_300_000},
        Attack.FREEZE,
    ),
}


@pytest.mark.parametrize("name", ORDER_ATTACKS)
def test_a_genuine_order_that_is_not_for_us_now_is_refused(world, unit, name):
    """And the right one is accepted afterwards."""
    change, attack = ORDER_ATTACKS[name]
    trust = unit()
    data = ordered(world, world.manifest_data, **change)
    refused(lambda: trust.accept_order(data, world.NOW_NS), attack, trust)
    assert trust.accept_order(world.order_data, world.NOW_NS) == world.order


def test_an_order_ends_at_the_second_it_says(world, unit):
    """Valid one second before, expired then."""
    end_ns = world.order.expires_s * 1_000_000_000
    assert unit().accept_order(world.order_data, end_ns - 1)
    trust = unit()
    refused(lambda: trust.accept_order(world.order_data, end_ns), Attack.FREEZE, trust)


def test_an_order_signed_by_another_key_is_refused(world, unit):
    """A thief's, and the release key's: it signs releases, not orders."""
    trust = unit()
    for signer in (world.THIEF_KEY, world.MANIFEST_KEY, world.DEVICE_KEY):
        data = sign_order(world.order, signer)
        refused(lambda data=data: trust.accept_order(data, world.NOW_NS), Attack.ARBITRARY_SOFTWARE, trust)
    refused(lambda: trust.accept_order(world.manifest_data, world.NOW_NS), Attack.WRONG_DOCUMENT, trust)
    refused(lambda: trust.accept_order(b"", world.NOW_NS), Attack.MALFORMED_DOCUMENT, trust)
    refused(lambda: trust.accept_order(bytes(100_000), world.NOW_NS), Attack.ENDLESS_DATA, trust)


def test_an_older_order_is_a_replay(world, unit):
    """Lower, equal with other content, and equal after another was accepted."""
    trust = unit()
    trust.accept_order(world.order_data, world.NOW_NS)
    for sequence, order_id in ((4, "o-16"), (5, "o-18")):
        data = ordered(world, world.manifest_data, sequence=sequence, order_id=order_id)
        refused(lambda data=data: trust.accept_order(data, world.NOW_NS), Attack.REPLAY, trust)
        refused(lambda data=data: trust.reread_order(data), Attack.REPLAY, trust)
    newer = ordered(world, world.manifest_data, sequence=6, order_id="o-18")
    assert trust.accept_order(newer, world.NOW_NS).sequence == 6
    refused(lambda: trust.accept_order(world.order_data, world.NOW_NS), Attack.REPLAY, trust)


def test_time_is_the_later_of_the_clock_and_the_latest_signed_time(world, unit):
    """A clock at 1970 does not revive an old order; a clock twenty years ahead does no lasting harm."""
    trust = unit()
    trust.accept_manifest(world.manifest_data, trust.accept_order(world.order_data, 0), 0)
    assert trust.state.time_s == world.manifest.created_s + 7 * world.DAY_S
    trust.close_order()
    stale = ordered(
        world, world.manifest_data, sequence=9, order_id="o-9", issued_s=world.NOW_S - 9 * world.DAY_S,
        approved_s=0, expires_s=world.NOW_S - world.DAY_S,
    )  # fmt: skip
    refused(lambda: trust.accept_order(stale, 0), Attack.FREEZE, trust)
    fresh = ordered(world, world.manifest_data, sequence=9, order_id="o-9")
    refused(lambda: trust.accept_order(fresh, world.NOW_NS + 20 * 365 * world.DAY_NS), Attack.FREEZE, trust)
    assert trust.accept_order(fresh, world.NOW_NS).sequence == 9


# -- attacks on the manifest ---------------------------------------------------------------------------------------------


def test_a_manifest_the_order_does_not_name_is_a_mixed_bundle(world, unit):
    """Genuine, for our hardware, and not what was approved."""
    trust = unit()
    order = trust.accept_order(world.order_data, world.NOW_NS)
    other = sign_manifest(world.replace(world.manifest, release="F7-2.1.0-b"), world.MANIFEST_KEY)
    refused(lambda: trust.accept_manifest(other, order, world.NOW_NS), Attack.MIXED_BUNDLE, trust)
    assert trust.accept_manifest(world.manifest_data, order, world.NOW_NS)


def test_the_approved_version_is_the_manifests(world, unit):
    """The person approved a text; the release must carry the same."""
    trust = unit()
    order = trust.accept_order(ordered(world, world.manifest_data, software_version="2.0.9"), world.NOW_NS)
    refused(lambda: trust.accept_manifest(world.manifest_data, order, world.NOW_NS), Attack.MIXED_BUNDLE, trust)


def test_a_stolen_order_key_alone_installs_nothing(world, unit):
    """The thief orders a manifest of his own making: its signature is missing (Uptane's split)."""
    trust = unit()
    for signer in (world.THIEF_KEY, world.ORDER_KEY):
        forged = sign_manifest(world.manifest, signer)
        order = trust.accept_order(ordered(world, forged, sequence=trust.state.sequence + 1), world.NOW_NS)
        refused(
            lambda forged=forged, order=order: trust.accept_manifest(forged, order, world.NOW_NS),
            Attack.ARBITRARY_SOFTWARE,
            trust,
        )


def test_a_release_for_other_hardware_is_refused(world, unit):
    """For another master, for another slave, for a master without its slaves, with the roles changed over."""
    releases = {
        "slaves of another class": [world.master, world.firmware(ImageRole.SLAVE, hardware_class=world.OTHER_CLASS)],
        "another master": [world.firmware(hardware_class=world.OTHER_CLASS), world.slave],
        "no slaves": [world.master],
        "roles changed over": [
            world.firmware(hardware_class=world.SLAVE_CLASS),
            world.firmware(ImageRole.SLAVE, hardware_class=world.MASTER_CLASS),
        ],
    }
    trust = unit()
    for images in releases.values():
        data = sign_manifest(world.manifest_of(*images), world.MANIFEST_KEY)
        order = trust.accept_order(ordered(world, data, sequence=trust.state.sequence + 1), world.NOW_NS)
        refused(
            lambda data=data, order=order: trust.accept_manifest(data, order, world.NOW_NS),
            Attack.WRONG_HARDWARE,
            trust,
        )
        refused(lambda data=data, order=order: trust.reread_manifest(data, order), Attack.WRONG_HARDWARE, trust)


def test_a_release_may_serve_several_series(world, unit):
    """Images for hardware we do not have do no harm."""
    other = world.firmware(ImageRole.SLAVE, hardware_class=world.OTHER_CLASS)
    data = sign_manifest(world.manifest_of(world.master, world.slave, other), world.MANIFEST_KEY)
    trust = unit()
    order = trust.accept_order(ordered(world, data), world.NOW_NS)
    assert len(trust.accept_manifest(data, order, world.NOW_NS).images) == 3


def test_an_expired_release_is_a_freeze(world, unit):
    """By the clock, or by the time the order says when the clock is behind."""
    data = sign_manifest(world.replace(world.manifest, expires_s=world.NOW_S - 60), world.MANIFEST_KEY)
    trust = unit()
    order = trust.accept_order(ordered(world, data), world.NOW_NS)
    for now_ns in (world.NOW_NS, 0):
        refused(lambda now_ns=now_ns: trust.accept_manifest(data, order, now_ns), Attack.FREEZE, trust)


def test_a_lower_security_counter_is_a_rollback(world, unit):
    """Of the master or of any slave; an equal one is the releaser's own way back."""
    low_master = [world.firmware(counter=1), world.slave]
    low_slave = [world.master, world.firmware(ImageRole.SLAVE, counter=1)]
    equal = [world.firmware(version="2.0.5"), world.firmware(ImageRole.SLAVE, version="2.0.5")]
    trust = unit(state=TrustState(security_counters=((0, 2), (3, 2))))
    for images, attack in ((low_master, Attack.ROLLBACK), (low_slave, Attack.ROLLBACK), (equal, None)):
        data = sign_manifest(world.manifest_of(*images), world.MANIFEST_KEY)
        order = trust.accept_order(ordered(world, data, sequence=trust.state.sequence + 1), world.NOW_NS)
        if attack is None:
            trust.accept_manifest(data, order, world.NOW_NS)
        else:
            refused(lambda data=data, order=order: trust.accept_manifest(data, order, world.NOW_NS), attack, trust)


# -- attacks on the image ------------------------------------------------------------------------------------------------


def test_other_bytes_than_the_manifests_are_refused(world, unit):
    """Longer, shorter, one bit, another genuine image."""
    trust = unit()
    entry = world.manifest.images[0]
    flipped = bytearray(world.master)
    flipped[500] ^= 1
    for data, attack in (
        (world.master + b"\0", Attack.ENDLESS_DATA),
        (world.master[:-1], Attack.CORRUPTED_DATA),
        (bytes(flipped), Attack.CORRUPTED_DATA),
        (world.slave, Attack.CORRUPTED_DATA),
    ):
        refused(lambda data=data: trust.check_image(data, entry), attack, trust)
    assert trust.check_image(world.master, entry).digest == entry.sha256


def test_a_stolen_release_key_alone_installs_nothing(world, unit):
    """The manifest says these bytes; the image key never signed them."""
    trust = unit(image_keys=[world.THIEF_KEY.public_key()])
    refused(lambda: trust.check_image(world.master, world.manifest.images[0]), Attack.ARBITRARY_SOFTWARE, trust)
    junk = bytes(1000)
    entry = world.replace(
        world.manifest.images[0], size_bytes=1000, sha256=hashlib.sha256(junk).digest(), block_sha256=(bytes(32),)
    )
    with pytest.raises(ImageError):
        trust.check_image(junk, entry)


def test_a_manifest_that_misdescribes_its_image_is_refused(world, unit):
    """Digest right, words wrong: the entry claims another role, class, version or counter than the image has."""
    trust = unit()
    entry = world.manifest.images[0]
    for change, attack in (
        ({"role": ImageRole.SLAVE}, Attack.WRONG_HARDWARE),
        ({"hardware_class": world.OTHER_CLASS}, Attack.WRONG_HARDWARE),
        ({"version": parse_image(world.firmware(version="2.2.0")).version}, Attack.MIXED_BUNDLE),
        ({"security_counter": 3}, Attack.MIXED_BUNDLE),
    ):
        wrong = world.replace(entry, **change)
        refused(lambda wrong=wrong: trust.check_image(world.master, wrong), attack, trust)


def test_images_must_fit_each_other(world, unit):
    """A master that needs slaves of 2.2 is not installed with slaves of 2.1."""
    trust = unit()
    needy = world.firmware(needs="2.2.0")
    manifest = world.manifest_of(needy, world.slave)
    images = [parse_image(needy), parse_image(world.slave)]
    refused(lambda: trust.check_bundle(manifest, images), Attack.MIXED_BUNDLE, trust)
    exact = world.firmware(needs="2.1.0")
    trust.check_bundle(world.manifest_of(exact, world.slave), [parse_image(exact), parse_image(world.slave)])


# -- forward only --------------------------------------------------------------------------------------------------------


def test_confirming_never_lowers_a_counter(world, unit):
    """Not even for a release with lower ones."""
    trust = unit(state=TrustState(security_counters=((0, 9), (2, 1))))
    trust.confirmed(world.manifest)
    assert trust.state.security_counters == ((0, 9), (1, 2), (2, 2), (3, 2))
    refused(lambda: trust.confirmed(world.manifest, [1, 9]), Attack.WRONG_HARDWARE, trust)


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(-40, 40), st.integers(-50, 50), st.booleans()), max_size=12))
def test_no_sequence_of_documents_moves_the_state_back(world, unit, steps):
    """Whatever orders come at whatever clock: sequence and time never fall, and what is accepted was not expired."""
    trust = unit()
    for sequence, issued_days, clock_days, closes in steps:
        issued_s = world.NOW_S + issued_days * world.DAY_S
        data = ordered(
            world, world.manifest_data, sequence=sequence, order_id=f"o-{sequence}", issued_s=issued_s, approved_s=0,
            expires_s=issued_s + 5 * world.DAY_S,
        )  # fmt: skip
        before = trust.state
        now_s = world.NOW_S + clock_days * world.DAY_S
        try:
            order = trust.accept_order(data, now_s * 1_000_000_000)
        except TrustError:
            assert trust.state == before
            continue
        assert max(now_s, before.time_s) < order.expires_s
        assert before.time_s - world.DAY_S <= order.issued_s
        assert trust.state.sequence >= before.sequence
        try:
            trust.accept_manifest(world.manifest_data, order, now_s * 1_000_000_000)
        except TrustError:
            assert trust.state.time_s == before.time_s
            continue
        assert trust.state.time_s == max(before.time_s, min(issued_s, world.manifest.created_s + 7 * world.DAY_S))
        if closes:
            trust.close_order()


# -- ends, fast-forward, a unit without a clock -----------------------------------------------------------------------------


def test_a_withdrawn_order_may_be_given_again_and_one_that_ended_may_not(world, unit):
    """S19: "no order for you" has no signature, so it is no end for good; what was carried out or refused is."""
    trust = unit()
    trust.accept_order(world.order_data, world.NOW_NS)
    trust.close_order(is_withdrawn=True)
    assert not trust.ended_order(world.order_data)
    refused(lambda: trust.reread_order(world.order_data), Attack.REPLAY, trust)
    trust = unit(state=TrustState.loads(trust.state.dumps()))
    assert trust.accept_order(world.order_data, world.NOW_NS) == world.order
    assert trust.state.order_is_open
    assert trust.reread_order(world.order_data) == world.order
    trust.close_order()
    assert trust.ended_order(world.order_data)
    trust = unit(state=TrustState.loads(trust.state.dumps()))
    assert trust.ended_order(world.order_data)
    refused(lambda: trust.accept_order(world.order_data, world.NOW_NS), Attack.REPLAY, trust)


def test_a_withdrawn_order_is_a_replay_behind_a_newer_one(world, unit):
    """S19: the newest order counts, whatever became of it; other documents with the withdrawn number do not."""
    trust = unit()
    trust.accept_order(world.order_data, world.NOW_NS)
    trust.close_order(is_withdrawn=True)
    other = ordered(world, world.manifest_data, order_id="o-other")
    refused(lambda: trust.accept_order(other, world.NOW_NS), Attack.REPLAY, trust)
    trust.accept_order(ordered(world, world.manifest_data, sequence=6, order_id="o-18"), world.NOW_NS)
    refused(lambda: trust.accept_order(world.order_data, world.NOW_NS), Attack.REPLAY, trust)


def test_what_an_older_version_keeps_of_a_withdrawn_order_makes_no_other_order_good(world, unit):
    """An older firmware keeps the field as it found it, and carries out a newer order meanwhile."""
    trust = unit()
    trust.accept_order(world.order_data, world.NOW_NS)
    trust.close_order(is_withdrawn=True)
    newer = ordered(world, world.manifest_data, sequence=6, order_id="o-18")
    state = world.replace(trust.state, sequence=6, order_sha256=hashlib.sha256(newer).digest())
    trust = unit(state=TrustState.loads(state.dumps()))
    assert trust.ended_order(newer)
    refused(lambda: trust.accept_order(newer, world.NOW_NS), Attack.REPLAY, trust)
    assert b"withdrawn" not in state.dumps(as_found=True)


@pytest.mark.parametrize(("ahead", "is_taken"), [(1_000_000, True), (1_000_001, False), (2**63 - 1 - 5, False)])
def test_s15_a_sequence_far_ahead_is_refused_and_moves_nothing(world, unit, ahead, is_taken):
    trust = unit(state=TrustState(sequence=5))
    data = ordered(world, world.manifest_data, sequence=5 + ahead, order_id="o-ahead")
    if is_taken:
        assert trust.accept_order(data, world.NOW_NS).sequence == 1_000_005
    else:
        refused(lambda: trust.accept_order(data, world.NOW_NS), Attack.FAST_FORWARD, trust)
        assert trust.accept_order(ordered(world, world.manifest_data, sequence=6), world.NOW_NS).sequence == 6


@pytest.mark.parametrize("clock_s", [0, 1_790_000_000])
def test_s15_an_issue_time_far_ahead_moves_the_signed_time_by_a_week_at_most(world, unit, clock_s):
    """Beyond the end of the release it is refused; before it, the release's own time bounds what is believed of it."""
    trust, now_ns = unit(), clock_s * 1_000_000_000

    def taken(sequence, issued_s):
        data = ordered(
            world, world.manifest_data, sequence=sequence, order_id=f"o-{sequence}", issued_s=issued_s,
            expires_s=issued_s + 30 * world.DAY_S,
        )  # fmt: skip
        return trust.accept_order(data, now_ns)

    order = taken(5, 2_800_000_000)
    refused(lambda: trust.accept_manifest(world.manifest_data, order, now_ns), Attack.FREEZE, trust)
    assert trust.state.time_s == 0
    trust.accept_manifest(world.manifest_data, taken(6, world.manifest.expires_s - 1), now_ns)
    assert trust.state.time_s == world.manifest.created_s + 7 * world.DAY_S
    # And the honest platform goes on.
    assert trust.accept_manifest(world.manifest_data, taken(7, world.NOW_S), now_ns)


def test_s4_p21_a_unit_at_1970_takes_no_order_that_ended_before_its_release_was_made(world, unit):
    trust = unit()
    made_s = world.manifest.created_s
    for sequence, expires_s in ((5, made_s - 100 * world.DAY_S), (6, made_s)):
        data = ordered(
            world, world.manifest_data, sequence=sequence, order_id="o-old", issued_s=expires_s - 9 * world.DAY_S,
            approved_s=0, expires_s=expires_s,
        )  # fmt: skip
        order = trust.accept_order(data, 0)
        refused(lambda order=order: trust.accept_manifest(world.manifest_data, order, 0), Attack.FREEZE, trust)
        assert trust.state.time_s == 0
    order = trust.accept_order(ordered(world, world.manifest_data, sequence=7), 0)
    assert trust.accept_manifest(world.manifest_data, order, 0) == world.manifest


def test_s4_p21_a_unit_at_1970_takes_no_order_older_than_what_it_has_seen(world, unit):
    """Its number is new and it has not ended, but an order that was accepted before was issued later."""
    trust = unit()
    trust.accept_manifest(world.manifest_data, trust.accept_order(world.order_data, 0), 0)
    seen_s = trust.state.time_s
    for issued_s, is_taken in ((seen_s - world.DAY_S - 1, False), (seen_s - world.DAY_S, True)):
        data = ordered(
            world, world.manifest_data, sequence=9, order_id="o-9", issued_s=issued_s, approved_s=0,
            expires_s=world.NOW_S + world.DAY_S,
        )  # fmt: skip
        if is_taken:
            assert trust.accept_order(data, 0).sequence == 9
        else:
            refused(lambda data=data: trust.accept_order(data, 0), Attack.FREEZE, trust)


# -- storage and construction --------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_state(data):
    """A damaged record is noticed; forgetting everything is never the answer by itself."""
    with pytest.raises(TrustError):
        TrustState.loads(data)


def test_a_state_with_wrong_values_is_no_state():
    """Every field has its rule, in storage and in memory."""
    good = TrustState(sequence=3, security_counters=((0, 1), (2, 5)), time_s=7)
    assert TrustState.loads(good.dumps()) == good
    for size in range(len(good.dumps())):
        with pytest.raises(TrustError):
            TrustState.loads(good.dumps()[:size])
    with pytest.raises(TrustError, match="expected <= 4096"):
        TrustState.loads(bytes(4097))
    for wrong in (
        {"sequence": -1},
        {"order_sha256": b""},
        {"order_is_open": 1},
        {"security_counters": ((2, 1), (0, 1))},
        {"security_counters": ((0, 1), (0, 1))},
        {"security_counters": ((64, 1),)},
        {"security_counters": ((0, -1),)},
        {"time_s": -1},
        {"withdrawn_sha256": b"x"},
        {"withdrawn_sha256": 0},
    ):
        with pytest.raises(LocalProtocolError, match="expected"):
            TrustState(**wrong)


def test_the_largest_state_fits_its_limit():
    """64 nodes, everything at its highest."""
    state = TrustState(
        sequence=2**63 - 1,
        order_sha256=bytes([255]) * 32,
        order_is_open=True,
        security_counters=tuple((position, 2**32 - 1) for position in range(64)),
        time_s=2**63 - 1,
        withdrawn_sha256=bytes([255]) * 32,
    )
    assert TrustState.loads(state.dumps()) == state


def test_a_unit_knows_who_it_is(world, unit):
    """A wrong VIN or HWID, or no master, is a mistake of whoever builds the unit."""
    for wrong in (
        {"vin": "short"},
        {"hwid": ""},
        {"hardware_classes": {1: world.SLAVE_CLASS}},
        {"hardware_classes": {0: world.MASTER_CLASS, 64: world.SLAVE_CLASS}},
    ):
        with pytest.raises(LocalProtocolError, match="expected"):
            unit(**wrong)

/* A slave of the CAN bootloader for CAN FD and both lengths of identifiers, written from docs/bootloader.md and dbc/bmsota_wire.h alone.
 *
 * Capability CAN FD; no broadcast, compression, access, digest. The flash is RAM, the journal is a struct and SHA-256 a hook: they are not
 * what is tried here. A shared object: `node_begin`, then `node_receive` for every CAN frame, `node_turn` for the time, `node_send` for replies.
 */
#include "bmsota_wire.h"
#include <string.h>

#define POSITION 1u
#define SLOT_BYTES (64u * 1024u)
#define WINDOW 6u
#define WINDOW_FD 3u
#define KEEP 8u /* blocks whose maps are kept */
#define QUEUE 64u
#define LOW32 UINT64_C(0xffffffff)
#define GET(d, name) ((uint32_t)bmsota_get(d, BMSOTA_REQUEST_##name##_SHIFT, BMSOTA_REQUEST_##name##_BITS))
#define PUT(d, name, value) bmsota_put(d, BMSOTA_REPLY_##name##_SHIFT, BMSOTA_REPLY_##name##_BITS, (uint64_t)(value))

typedef void (*digest_hook)(const uint8_t *data, uint32_t size, uint8_t *digest);

struct slot {
    uint8_t state, sha[32], version[8];
    uint32_t size, security_counter, stored;
    uint8_t data[SLOT_BYTES + 4096u];
};

static digest_hook digest_of;
static struct slot slots[2];
static uint8_t class_id[16], active, running, reason, boot_id, state, last_tag, last_command, last_code, is_listening, is_29bit;
static uint32_t counter, last_detail;
static uint64_t heard_ms, restart_ms;
/* What is kept by its index before the first OpenBlock. */
static uint8_t kept[64][64], kept_bytes[64];
/* The stream; blocks are counted from 0 without wrapping. */
static uint8_t has_stream, is_repair, was_right, block_frames, frame_bytes, window;
static uint32_t offset, next_block, named_block, place;
static struct {
    uint64_t have;
    uint32_t frames, crc;
    uint8_t is_checked;
} blocks[KEEP];
static uint8_t queue[QUEUE][8];
static unsigned queue_head, queue_size;

static uint32_t little(const uint8_t *at, unsigned bytes)
{
    uint32_t value = 0;
    while (bytes-- > 0)
        value = value << 8 | at[bytes];
    return value;
}

static uint32_t crc32(uint32_t crc, const uint8_t *data, uint32_t size)
{
    crc = ~crc;
    while (size-- > 0) {
        unsigned bit;
        crc ^= *data++;
        for (bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1u ? 0xEDB88320u : 0u);
    }
    return ~crc;
}

static uint8_t *reply(unsigned kind)
{
    uint8_t *frame = queue[(queue_head + queue_size) % QUEUE];
    memset(frame, 0, 8);
    if (queue_size < QUEUE)
        queue_size++;
    PUT(frame, KIND, kind);
    return frame;
}

static void result(unsigned command, unsigned tag, unsigned code, uint32_t detail)
{
    uint8_t *frame = reply(BMSOTA_KIND_RESULT);
    PUT(frame, RESULT_TAG, tag);
    PUT(frame, RESULT_COMMAND, command);
    PUT(frame, RESULT_CODE, code);
    PUT(frame, RESULT_DETAIL, detail);
}

static void text(unsigned kind, const uint8_t *bytes, unsigned size)
{
    unsigned at;
    for (at = 0; at < size; at += 7, kind++)
        memcpy(reply(kind) + 1, bytes + at, size - at < 7 ? size - at : 7);
}

static void discover(unsigned echo)
{
    static const uint8_t hwid[24] = "FROM-THE-PAGE", serial[24] = "C-1";
    const struct slot *run = &slots[running];
    uint8_t *frame = reply(BMSOTA_KIND_STATUS);
    PUT(frame, STATUS_ECHO, echo);
    PUT(frame, LAST_TAG, last_tag);
    PUT(frame, PROTOCOL_VERSION, 2);
    PUT(frame, PROTOCOL_VERSION_MIN, 2);
    PUT(frame, ROLE, BMSOTA_ROLE_SLAVE);
    PUT(frame, NODE_STATE, state);
    PUT(frame, BOOT_REASON, reason);
    PUT(frame, SLOT_A_STATE, slots[0].state);
    PUT(frame, SLOT_B_STATE, slots[1].state);
    PUT(frame, ACTIVE_SLOT, active);
    PUT(frame, RUNNING_SLOT, running);
    PUT(frame, BLOCK_FRAMES_MAX, 64);
    frame = reply(BMSOTA_KIND_VERSION);
    PUT(frame, VERSION_ECHO, echo);
    memcpy(frame + 2, run->version, 4);
    frame = reply(BMSOTA_KIND_BUILD);
    PUT(frame, BUILD_ECHO, echo);
    PUT(frame, VERSION_BUILD, little(run->version + 4, 4));
    frame = reply(BMSOTA_KIND_COUNTER);
    PUT(frame, COUNTER_ECHO, echo);
    PUT(frame, SECURITY_COUNTER, counter);
    PUT(frame, BOOT_ID, boot_id);
    text(BMSOTA_KIND_CLASS_0, class_id, 16);
    text(BMSOTA_KIND_HWID_0, hwid, 24);
    text(BMSOTA_KIND_SERIAL_0, serial, 24);
    frame = reply(BMSOTA_KIND_LIMITS);
    PUT(frame, LIMITS_ECHO, echo);
    PUT(frame, CAPABILITIES, 1);
    PUT(frame, WINDOW_BLOCKS, WINDOW);
    PUT(frame, WINDOW_BLOCKS_FD, WINDOW_FD);
    PUT(frame, SLOT_SIZE, SLOT_BYTES / 1024u);
}

static void end_stream(void)
{
    has_stream = 0;
    memset(kept_bytes, 0, sizeof kept_bytes);
}

static void boot(void)
{
    struct slot *spare = &slots[1 - active];
    running = active;
    reason = BMSOTA_BOOT_NORMAL;
    boot_id++;
    if (spare->state == BMSOTA_SLOT_TEST) {
        spare->state = BMSOTA_SLOT_STAGED;
        reason = BMSOTA_BOOT_REVERTED;
    } else if (spare->state == BMSOTA_SLOT_TEST_REQUESTED) {
        spare->state = BMSOTA_SLOT_TEST;
        running = (uint8_t)(1 - active);
        reason = BMSOTA_BOOT_TEST;
    }
    state = BMSOTA_STATE_APPLICATION;
    last_tag = is_listening = 0;
    queue_size = 0;
    end_stream();
}

void node_begin(const uint8_t *class_bytes, int extended, digest_hook hook)
{
    memset(slots, 0, sizeof slots);
    memcpy(class_id, class_bytes, 16);
    is_29bit = (uint8_t)extended;
    digest_of = hook;
    slots[0].state = BMSOTA_SLOT_CONFIRMED;
    slots[0].version[0] = 2;
    counter = slots[0].security_counter = 1;
    active = 0;
    restart_ms = 0;
    boot();
}

/* The offer: 9 frames of 8 bytes or 2 of 64. 0: a MissingBitmap has been sent instead of a Result. */
static int begin_transfer(const uint8_t *d, unsigned *code, uint32_t *detail)
{
    unsigned frames = GET(d, OFFER_FRAMES), bytes = frames == 9 ? 8 : 64, index, missing = 0;
    uint32_t bitmap = 0, crc = 0;
    uint8_t o[128];
    struct slot *spare = &slots[1 - active];
    if (!is_listening) {
        *code = BMSOTA_RESULT_WRONG_STATE;
        return 1;
    }
    *code = BMSOTA_RESULT_BAD_OFFER;
    if (frames != 9 && frames != 2)
        return 1;
    for (index = 0; index < frames; index++)
        if (kept_bytes[index] != bytes)
            bitmap |= UINT32_C(1) << index, missing++;
    for (index = 0; !missing && index < frames; index++) {
        memcpy(o + index * bytes, kept[index], bytes);
        crc = crc32(crc, kept[index], bytes);
    }
    if (!missing && crc != GET(d, OFFER_CRC32)) {
        missing = frames;
        bitmap = (UINT32_C(1) << frames) - 1;
        memset(kept_bytes, 0, sizeof kept_bytes);
    }
    if (missing) {
        uint8_t *frame = reply(BMSOTA_KIND_MISSING_BITMAP);
        PUT(frame, BITMAP_BLOCK, BMSOTA_OFFER_BLOCK);
        PUT(frame, BITMAP_TOTAL, missing);
        PUT(frame, BITMAP, bitmap);
        return 0;
    }
    if (o[BMSOTA_OFFER_LAYOUT_AT] != BMSOTA_OFFER_LAYOUT)
        return 1;
    {
        uint32_t size = little(o + BMSOTA_OFFER_SIZE_BYTES_AT, 4), wanted = little(o + BMSOTA_OFFER_SECURITY_COUNTER_AT, 4);
        uint32_t flags = little(o + BMSOTA_OFFER_FLAGS_AT, 2);
        if (o[BMSOTA_OFFER_ROLE_AT] != BMSOTA_ROLE_SLAVE)
            *code = BMSOTA_RESULT_WRONG_ROLE;
        else if (memcmp(o + BMSOTA_OFFER_CLASS_ID_AT, class_id, 16))
            *code = BMSOTA_RESULT_WRONG_HARDWARE;
        else if (!size || size > SLOT_BYTES)
            *code = BMSOTA_RESULT_TOO_LARGE;
        else if (wanted < counter)
            *code = BMSOTA_RESULT_COUNTER_TOO_LOW;
        else if (spare->state == BMSOTA_SLOT_TEST || running != active)
            *code = BMSOTA_RESULT_TEST_PENDING;
        else if (!(flags & ~BMSOTA_OFFER_FLAG_FD) && o[BMSOTA_OFFER_GROUP_AT] == 255 && o[BMSOTA_OFFER_BLOCK_FRAMES_AT] - 1u < 64u) {
            int is_same = spare->size == size && !memcmp(spare->sha, o + BMSOTA_OFFER_SHA256_AT, 32);
            if (!is_same || spare->state == BMSOTA_SLOT_BAD) {
                spare->state = BMSOTA_SLOT_STAGING;
                spare->size = size;
                spare->stored = 0;
                spare->security_counter = wanted;
                memcpy(spare->sha, o + BMSOTA_OFFER_SHA256_AT, 32);
                memcpy(spare->version, o + BMSOTA_OFFER_MAJOR_AT, 8);
            }
            frame_bytes = flags & BMSOTA_OFFER_FLAG_FD ? 64 : 8;
            window = frame_bytes == 64 ? WINDOW_FD : WINDOW;
            block_frames = o[BMSOTA_OFFER_BLOCK_FRAMES_AT];
            end_stream();
            state = BMSOTA_STATE_RECEIVING;
            *code = BMSOTA_RESULT_OK;
            *detail = spare->stored;
        }
    }
    return 1;
}

static void tagged(const uint8_t *d, unsigned command, uint64_t now_ms)
{
    struct slot *spare = &slots[1 - active];
    unsigned tag = d[2], code = BMSOTA_RESULT_OK;
    uint32_t detail = 0;
    int is_receiving = state == BMSOTA_STATE_RECEIVING;
    if (command != BMSOTA_COMMAND_BEGIN_TRANSFER && command != BMSOTA_COMMAND_UNLOCK && d[4] != boot_id) {
        result(command, tag, BMSOTA_RESULT_WRONG_STATE, 0);
        return;
    }
    if (tag && tag == last_tag) {
        if (command == last_command)
            result(command, tag, last_code, last_detail);
        return;
    }
    if (!tag || (last_tag && (tag + 255u - last_tag) % 255u > 127))
        return;
    switch (command) {
    case BMSOTA_COMMAND_ENTER_BOOTLOADER:
        if (GET(d, PROTOCOL) != 2) {
            code = BMSOTA_RESULT_WRONG_PROTOCOL;
            break;
        }
        state = BMSOTA_STATE_BOOTLOADER;
        is_listening = 1;
        end_stream();
        break;
    case BMSOTA_COMMAND_LEAVE_BOOTLOADER:
        state = BMSOTA_STATE_APPLICATION;
        is_listening = 0;
        end_stream();
        break;
    case BMSOTA_COMMAND_BEGIN_TRANSFER:
        if (!begin_transfer(d, &code, &detail))
            return;
        break;
    case BMSOTA_COMMAND_FINISH_TRANSFER:
        if (!is_receiving)
            code = BMSOTA_RESULT_WRONG_STATE;
        else if (spare->stored < spare->size)
            code = BMSOTA_RESULT_INCOMPLETE;
        else {
            uint8_t digest[32];
            digest_of(spare->data, spare->size, digest);
            code = memcmp(digest, spare->sha, 32) ? BMSOTA_RESULT_DAMAGED : BMSOTA_RESULT_OK;
            if (code)
                spare->state = BMSOTA_SLOT_BAD;
            else if (spare->state != BMSOTA_SLOT_TEST_REQUESTED)
                spare->state = BMSOTA_SLOT_STAGED;
            state = BMSOTA_STATE_BOOTLOADER;
            end_stream();
        }
        break;
    case BMSOTA_COMMAND_ACTIVATE_TEST:
        if (spare->state == BMSOTA_SLOT_STAGED || spare->state == BMSOTA_SLOT_TEST_REQUESTED)
            spare->state = BMSOTA_SLOT_TEST_REQUESTED;
        else
            code = BMSOTA_RESULT_NOTHING_TO_DO;
        break;
    case BMSOTA_COMMAND_CONFIRM:
        if (spare->state == BMSOTA_SLOT_TEST) {
            spare->state = BMSOTA_SLOT_CONFIRMED;
            active = running;
        } else if (spare->state == BMSOTA_SLOT_TEST_REQUESTED || running != active)
            code = BMSOTA_RESULT_NOTHING_TO_DO;
        if (!code && GET(d, RAISE_COUNTER) && slots[active].security_counter > counter)
            counter = slots[active].security_counter;
        break;
    case BMSOTA_COMMAND_REVERT:
        if (spare->state == BMSOTA_SLOT_TEST || spare->state == BMSOTA_SLOT_TEST_REQUESTED)
            spare->state = BMSOTA_SLOT_STAGED;
        else if (running == active && spare->state == BMSOTA_SLOT_CONFIRMED && spare->security_counter < counter)
            code = BMSOTA_RESULT_COUNTER_TOO_LOW;
        else if (running == active && spare->state == BMSOTA_SLOT_CONFIRMED) {
            slots[active].state = BMSOTA_SLOT_STAGED;
            active = (uint8_t)(1 - active);
        } else if (running == active)
            code = BMSOTA_RESULT_NOTHING_TO_DO;
        break;
    case BMSOTA_COMMAND_RESET:
        state = BMSOTA_STATE_RESTARTING;
        restart_ms = now_ms + BMSOTA_RESTART_DELAY_MS;
        break;
    default: /* RequestChallenge, Unlock */
        code = BMSOTA_RESULT_NOTHING_TO_DO;
    }
    last_tag = (uint8_t)tag;
    last_command = (uint8_t)command;
    last_code = (uint8_t)code;
    last_detail = detail;
    result(command, tag, code, detail);
}

/* The block with this number that is nearest to the one named before; a negative one is none. */
static int64_t counted(unsigned number)
{
    int64_t block = (int64_t)named_block - named_block % 255u + number, best = block;
    if (named_block + 127 < block)
        best = block - 255;
    else if (block + 127 < named_block)
        best = block + 255;
    if (best < 0 || best > (int64_t)named_block + 60 || best + 60 < (int64_t)named_block)
        return -1;
    return best;
}

static void open_block(const uint8_t *d)
{
    int64_t block;
    if (state != BMSOTA_STATE_RECEIVING)
        return;
    if (!has_stream || (offset != GET(d, STREAM_OFFSET) && !was_right)) {
        if (GET(d, STREAM_OFFSET) > slots[1 - active].stored)
            return;
        has_stream = 1;
        was_right = 0;
        offset = GET(d, STREAM_OFFSET);
        next_block = named_block = 0;
        memset(blocks, 0, sizeof blocks);
    } else if (offset != GET(d, STREAM_OFFSET))
        return;
    block = counted(GET(d, OPENED_BLOCK));
    if (block < 0 || block >= (int64_t)next_block + window)
        return;
    named_block = (uint32_t)block;
    is_repair = (uint8_t)GET(d, IS_REPAIR);
    place = named_block * block_frames;
}

static void take_data(unsigned index, const uint8_t *data, unsigned bytes)
{
    uint32_t block;
    if (!is_listening || state == BMSOTA_STATE_RESTARTING)
        return;
    if (state != BMSOTA_STATE_RECEIVING || !has_stream) {
        memcpy(kept[index], data, bytes);
        kept_bytes[index] = (uint8_t)bytes;
        return;
    }
    if (bytes != frame_bytes || index >= block_frames)
        return;
    if (is_repair)
        block = place / block_frames;
    else { /* The place with this index that is nearest to the expected one. */
        int64_t at = (int64_t)(place / block_frames) * block_frames + index;
        if (at > (int64_t)place + block_frames / 2)
            at -= block_frames;
        else if (at + block_frames / 2 < (int64_t)place)
            at += block_frames;
        if (at < 0)
            return;
        block = (uint32_t)at / block_frames;
        place = (uint32_t)at + 1;
    }
    if (block >= next_block && block < next_block + window) {
        uint32_t at = offset + (block * block_frames + index) * bytes;
        if (at + bytes <= sizeof slots[0].data) {
            memcpy(slots[1 - active].data + at, data, bytes);
            blocks[block % KEEP].have |= UINT64_C(1) << index;
        }
    }
}

static uint64_t all_of(uint32_t frames)
{
    return frames >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << frames) - 1;
}

/* Blocks whose frames have all come: their CRC decides. */
static void advance(void)
{
    struct slot *spare = &slots[1 - active];
    for (;;) {
        uint32_t frames = blocks[next_block % KEEP].frames, at = offset + next_block * block_frames * frame_bytes, crc;
        uint8_t start[4] = {(uint8_t)offset, (uint8_t)(offset >> 8), (uint8_t)(offset >> 16), (uint8_t)(offset >> 24)};
        if (!blocks[next_block % KEEP].is_checked || (all_of(frames) & ~blocks[next_block % KEEP].have))
            return;
        crc = crc32(crc32(crc32(0, spare->sha, 32), start, 4), spare->data + at, frames * frame_bytes);
        if (crc != blocks[next_block % KEEP].crc) {
            memset(&blocks[next_block % KEEP], 0, sizeof blocks[0]);
            return;
        }
        was_right = 1;
        at += frames * frame_bytes;
        if (at > spare->size)
            at = spare->size;
        if (at > spare->stored)
            spare->stored = at;
        memset(&blocks[next_block % KEEP], 0, sizeof blocks[0]);
        next_block++;
    }
}

static void report(uint32_t checked, unsigned number)
{
    struct { uint32_t block, frame; } list[128];
    unsigned listed = 0, total = 0, sent = 0, index;
    uint32_t block;
    uint8_t *frame;
    for (block = next_block; has_stream && block <= checked; block++) {
        uint32_t frames = blocks[block % KEEP].is_checked ? blocks[block % KEEP].frames : block_frames;
        uint64_t missing = all_of(frames) & ~blocks[block % KEEP].have;
        unsigned all = (unsigned)__builtin_popcountll(missing) + !blocks[block % KEEP].is_checked, segment;
        total += all;
        for (segment = 0; segment < 3; segment++) {
            uint32_t bits = segment < 2 ? (uint32_t)(missing >> 32 * segment & LOW32) : !blocks[block % KEEP].is_checked;
            if (__builtin_popcount(bits) >= 4 && sent < 32) {
                frame = reply(BMSOTA_KIND_MISSING_BITMAP);
                PUT(frame, BITMAP_BLOCK, block % 255u);
                PUT(frame, BITMAP_SEGMENT, segment);
                PUT(frame, BITMAP_TOTAL, all);
                PUT(frame, BITMAP, bits);
                sent++;
            } else
                for (index = 0; index < 32; index++)
                    if (bits >> index & 1u && listed < 128) {
                        list[listed].block = block;
                        list[listed++].frame = 32 * segment + index;
                    }
        }
    }
    for (index = 0; index < listed && sent < 32; index += 4, sent++) {
        unsigned entry;
        frame = reply(BMSOTA_KIND_MISSING_LIST);
        PUT(frame, LISTED_BLOCK, number);
        for (entry = 0; entry < 4; entry++) {
            int is_one = index + entry < listed;
            bmsota_put(frame, 16 + 12 * entry, 5, is_one ? checked - list[index + entry].block : BMSOTA_NO_ENTRY_AGE);
            bmsota_put(frame, 21 + 12 * entry, 7, is_one ? list[index + entry].frame : 0);
        }
    }
    frame = reply(BMSOTA_KIND_REPORT);
    PUT(frame, REPORTED_BLOCK, number);
    PUT(frame, NEXT_BLOCK, has_stream ? next_block % 255u : 0);
    PUT(frame, MISSING_TOTAL, !has_stream || total > 255 ? 255 : total);
    PUT(frame, STORED_OFFSET, slots[1 - active].stored);
}

static void check_block(const uint8_t *d)
{
    unsigned number = GET(d, CHECKED_BLOCK), frames = GET(d, CHECKED_FRAMES);
    int64_t block;
    if (state != BMSOTA_STATE_RECEIVING) {
        result(BMSOTA_COMMAND_CHECK_BLOCK, number, BMSOTA_RESULT_WRONG_STATE, 0);
        return;
    }
    if (!frames || frames > block_frames) {
        result(BMSOTA_COMMAND_CHECK_BLOCK, number, BMSOTA_RESULT_INCOMPLETE, 0);
        return;
    }
    block = has_stream ? counted(number) : 0;
    if (block < 0 || (has_stream && block >= (int64_t)next_block + window))
        return;
    if (has_stream) {
        named_block = (uint32_t)block;
        if (named_block >= next_block) {
            blocks[named_block % KEEP].frames = frames;
            blocks[named_block % KEEP].crc = GET(d, CHECKED_CRC32);
            blocks[named_block % KEEP].is_checked = 1;
            advance();
        }
        is_repair = 0;
        place = (named_block + 1) * block_frames;
    }
    if (GET(d, REPORT_WANTED))
        report((uint32_t)block, number);
}

void node_receive(uint32_t id, int is_extended, int is_fd, const uint8_t *data, unsigned bytes, uint64_t now_ms)
{
    uint32_t request = is_29bit ? BMSOTA_ID_REQUEST_29BIT : BMSOTA_ID_REQUEST, first = is_29bit ? BMSOTA_ID_DATA_29BIT : BMSOTA_ID_DATA;
    if (!is_extended != !is_29bit || state == BMSOTA_STATE_RESTARTING)
        return;
    if (id == request && bytes == 8 && !is_fd) {
        unsigned command = GET(data, COMMAND), node = GET(data, NODE);
        if ((node != POSITION && node != BMSOTA_ALL_NODES) || command < BMSOTA_COMMAND_DISCOVER || command > BMSOTA_COMMAND_UNLOCK)
            return;
        heard_ms = now_ms;
        if (command == BMSOTA_COMMAND_DISCOVER)
            discover(GET(data, DISCOVER_ECHO));
        else if (command == BMSOTA_COMMAND_OPEN_BLOCK)
            open_block(data);
        else if (command == BMSOTA_COMMAND_CHECK_BLOCK)
            check_block(data);
        else
            tagged(data, command, now_ms);
    } else if (id - first < 64u && ((bytes == 8 && !is_fd) || (bytes == 64 && is_fd))) {
        heard_ms = now_ms;
        take_data(id - first, data, bytes);
    }
}

void node_turn(uint64_t now_ms)
{
    if (state == BMSOTA_STATE_RESTARTING && now_ms >= restart_ms)
        boot();
    if ((state == BMSOTA_STATE_BOOTLOADER || state == BMSOTA_STATE_RECEIVING) && now_ms >= heard_ms + BMSOTA_SESSION_TIMEOUT_MS) {
        state = BMSOTA_STATE_APPLICATION;
        is_listening = 0;
        end_stream();
    }
}

/* The next reply: its identifier, or 0 for none. */
uint32_t node_send(uint8_t *data)
{
    if (!queue_size)
        return 0;
    memcpy(data, queue[queue_head], 8);
    queue_head = (queue_head + 1) % QUEUE;
    queue_size--;
    return (is_29bit ? BMSOTA_ID_REPLY_29BIT : BMSOTA_ID_REPLY) + POSITION;
}

/* For the test: what has become of the slots. */
uint32_t node_image(uint8_t *data)
{
    memcpy(data, slots[active].data, slots[active].size);
    return slots[active].size;
}

uint32_t node_counter(void)
{
    return counter;
}

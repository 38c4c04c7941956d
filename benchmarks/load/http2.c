// gRPC over HTTP/2 with prior knowledge (RFC 9113), client side: the happy path, and every fault named. A request is a
// unary call, or with --stream a message on a stream that stays open.
#include "openload.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

enum { DATA = 0, HEADERS_FRAME = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8 };
enum { CONTINUATION = 9 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8, PRIORITY = 32 };
enum { SETTING_TABLE_SIZE = 1, SETTING_MAX_STREAMS = 3, SETTING_WINDOW = 4 };
enum { FRAME_HEAD = 9, LARGEST_FRAME = 16384, GRPC_PREFIX = 5, OUR_WINDOW = 1 << 20, LAST_STREAM = 0x7ffff000 };

static uint32_t get_u32(const uint8_t *p) {
    uint32_t value;
    memcpy(&value, p, 4);
    return ntohl(value);
}

static void put_frame(Connection *c, uint32_t length, uint8_t type, uint8_t flags, uint32_t stream, const void *body) {
    uint8_t *p = reserve(c, length + FRAME_HEAD);
    uint32_t number = htonl(stream);
    p[0] = length >> 16;
    p[1] = length >> 8;
    p[2] = length;
    p[3] = type;
    p[4] = flags;
    memcpy(p + 5, &number, 4);
    if (length)
        memcpy(p + FRAME_HEAD, body, length);
    c->output_end += length + FRAME_HEAD;
}

// ---- calls

void http2_prepare(void) {
    hpack_prepare();
    hpack_set_header(HEADER_PATH, options.path);
    uint32_t length = htonl(options.body_length - GRPC_PREFIX);
    options.body[0] = 0;
    memcpy(options.body + 1, &length, 4);
    if (options.body_length > LARGEST_FRAME)
        die("the message is longer than one frame: not supported");
    if (strlen(options.path) > 1000)
        die("the path is too long");
}

void http2_greet(Connection *c) {
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    memcpy(reserve(c, sizeof preface - 1), preface, sizeof preface - 1);
    c->output_end += sizeof preface - 1;
    put_frame(c, 12, SETTINGS, 0, 0, "\0\x02\0\0\0\0" "\0\x04\0\x10\0\0");  // no push; streams' window 1 MiB
    put_frame(c, 4, WINDOW_UPDATE, 0, 0, "\0\x0f\0\x01");                    // and the connection's
}

static void send_message(Connection *c, uint32_t stream, uint8_t flags) {
    put_frame(c, options.body_length, DATA, flags, stream, options.body);
    c->send_window -= options.body_length;
}

void http2_send(Connection *c, Slot *slot) {
    slot->stream = c->next;
    if (slot->open) {
        send_message(c, slot->stream, 0);
        return;
    }
    uint8_t block[2048], *to = block;
    if (c->encoder.resized) {
        to = hpack_put_integer(to, 0x20, 5, c->encoder.limit);
        c->encoder.resized = false;
    }
    *to++ = 0x83;  // :method POST
    *to++ = 0x86;  // :scheme http
    for (int header = 0; header < HEADER_TIMEOUT; header++)
        to = hpack_put_header(&c->encoder, to, header, hpack_header(header));
    if (options.deadlines) {
        int span = options.deadline_digits_most - options.deadline_digits_least + 1;
        int digits = options.deadline_digits_least + draw(&c->worker->random) % span;
        uint64_t least = 1;
        for (int i = 1; i < digits; i++)
            least *= 10;
        char value[24];
        snprintf(value, sizeof value, "%luu", least + draw(&c->worker->random) % (9 * least));
        to = hpack_put_header(&c->encoder, to, HEADER_TIMEOUT, value);
    }
    put_frame(c, to - block, HEADERS_FRAME, END_HEADERS, c->next, block);
    send_message(c, c->next, options.stream ? 0 : END_STREAM);
    slot->open = options.stream;
    c->next += 2;
    if (c->next > LAST_STREAM)
        c->state = DRAINING;
}

// ---- messages

static bool get_varint(const uint8_t **at, const uint8_t *end, uint64_t *value) {
    *value = 0;
    for (int shift = 0; *at < end && shift < 64; shift += 7) {
        uint8_t byte = *(*at)++;
        *value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            return true;
    }
    return false;
}

static void record_ids_of_message(Worker *w, const uint8_t *p, uint32_t length) {  // field 1: varint, sfixed64, packed
    const uint8_t *end = p + length;
    uint64_t key, value, id;
    bool any = false, bad = false;
    while (p < end && !bad) {
        if (!get_varint(&p, end, &key)) {
            bad = true;
            break;
        }
        int type = key & 7;
        bool ours = key >> 3 == 1;
        if (type == 0) {
            bad = !get_varint(&p, end, &value);
            if (ours && !bad) {
                add_id(&w->ids, value);
                any = true;
            }
        } else if (type == 1 && end - p >= 8) {
            memcpy(&id, p, 8);
            p += 8;
            if (ours) {
                add_id(&w->ids, id);
                any = true;
            }
        } else if (type == 5 && end - p >= 4) {
            p += 4;
        } else if (type == 2 && get_varint(&p, end, &value) && value <= (uint64_t)(end - p)) {
            if (ours) {
                bad = value % 8 || !value;
                for (uint64_t i = 0; !bad && i < value; i += 8) {
                    memcpy(&id, p + i, 8);
                    add_id(&w->ids, id);
                    any = true;
                }
            }
            p += value;
        } else {
            bad = true;
        }
    }
    if ((bad || !any) && !w->bad_ids++)
        complain("no id in field 1 of the message (%u bytes)", length);
}

// ---- answers

static uint32_t length_of_message(const Slot *slot) {  // 0: it has not come whole, or is compressed
    if (slot->message_length < GRPC_PREFIX || slot->message[0])
        return 0;
    uint32_t whole = get_u32(slot->message + 1) + GRPC_PREFIX;
    return slot->message_length >= whole ? whole : 0;
}

static void end_message(Connection *c, Slot *slot, uint64_t now) {  // of a stream: there is one at a time
    uint32_t whole = length_of_message(slot);
    if (!whole)
        return;
    bool good = slot->head == 1 && slot->message_length == whole && slot->used;
    if (!good)
        complain("a stream's answer that nobody asked for (%u bytes)", slot->message_length);
    else if (options.check_ids)
        record_ids_of_message(c->worker, slot->message + GRPC_PREFIX, whole - GRPC_PREFIX);
    slot->message_length = 0;
    if (slot->used)
        finish(c, slot, good, now);
}

// ---- frames

static Slot *slot_of(Connection *c, uint32_t stream) {
    Slot *slot = &c->slots[stream >> 1 & c->mask];
    return (slot->used || slot->open) && slot->stream == stream ? slot : NULL;
}

static bool end_of_headers(Connection *c, uint32_t stream, uint64_t now) {
    Verdict verdict = {-1, -1, ""};
    if (!hpack_read(&c->decoder, c->block, c->block_length, &verdict)) {
        complain("a header block that can't be decoded");
        return false;
    }
    Slot *slot = slot_of(c, stream);
    if (!slot)
        return true;
    bool interim = verdict.http >= 100 && verdict.http < 200;
    if (!slot->head && !interim) {
        slot->head = verdict.http == 200 ? 1 : 2;
        if (verdict.http != 200)
            complain(":status %d", verdict.http);
    }
    if (!c->block_ends)
        return true;
    if (options.stream) {
        complain("a stream ended: grpc-status %d %s", verdict.grpc, verdict.message);
        return false;
    }
    uint32_t length = slot->message_length >= GRPC_PREFIX ? get_u32(slot->message + 1) : 0;
    bool whole = slot->message_length == length + GRPC_PREFIX && !slot->message[0];
    bool good = slot->head == 1 && verdict.grpc == 0 && whole;
    if (!good)
        complain("a call failed: grpc-status %d %s, %u bytes of message", verdict.grpc, verdict.message,
                 slot->message_length);
    else if (options.check_ids)
        record_ids_of_message(c->worker, slot->message + GRPC_PREFIX, length);
    finish(c, slot, good, now);
    return true;
}

static void give_credit(Connection *c, uint32_t stream, uint32_t *owed, uint32_t bytes) {
    if ((*owed += bytes) < OUR_WINDOW / 2)
        return;
    uint32_t increment = htonl(*owed);
    put_frame(c, 4, WINDOW_UPDATE, 0, stream, &increment);
    *owed = 0;
}

static void take_settings(Connection *c, const uint8_t *body, uint32_t length) {
    for (uint32_t i = 0; i + 6 <= length; i += 6) {
        uint32_t name = body[i] << 8 | body[i + 1], value = get_u32(body + i + 2);
        if (name == SETTING_TABLE_SIZE && !options.table)
            hpack_limit(&c->encoder, value);
        if (name == SETTING_MAX_STREAMS)
            c->limit = value < (uint32_t)options.in_flight ? value : (uint32_t)options.in_flight;
        if (name == SETTING_WINDOW && value < options.body_length)
            die("the server's window is smaller than the message: not supported");
    }
    put_frame(c, 0, SETTINGS, ACK, 0, NULL);
    if (c->state == GREETING) {
        c->state = READY;
        c->worker->ready++;
    }
}

static bool take_frame(Connection *c, uint8_t type, uint8_t flags, uint32_t stream, const uint8_t *body,
                       uint32_t length, uint64_t now) {
    uint32_t whole = length;
    Slot *slot;
    if (c->block_stream && (type != CONTINUATION || stream != c->block_stream)) {
        complain("a frame inside a header block");
        return false;
    }
    if ((type == DATA || type == HEADERS_FRAME) && flags & PADDED) {
        if (!length || body[0] >= length)
            return false;
        length -= body[0] + 1;
        body++;
    }
    switch (type) {
    case DATA:
        give_credit(c, 0, &c->unacknowledged, whole);
        if (!(slot = slot_of(c, stream)))
            break;
        if (slot->message_length + length >= slot->message_capacity) {
            slot->message_capacity = (slot->message_length + length) * 2 + 64;
            slot->message = allocate(slot->message, slot->message_capacity);
        }
        memcpy(slot->message + slot->message_length, body, length);
        slot->message_length += length;
        if (flags & END_STREAM) {
            complain("a call that ended without trailers");
            finish(c, slot, false, now);
        } else {
            give_credit(c, stream, &slot->unacknowledged, whole);
            if (options.stream)
                end_message(c, slot, now);
        }
        break;
    case HEADERS_FRAME:
    case CONTINUATION:
        if (type == HEADERS_FRAME) {
            if (flags & PRIORITY) {
                if (length < 5)
                    return false;
                body += 5;
                length -= 5;
            }
            c->block_length = 0;
            c->block_stream = stream;
            c->block_ends = flags & END_STREAM;
        } else if (!c->block_stream) {
            return false;
        }
        if (c->block_length + length >= c->block_capacity) {
            c->block_capacity = (c->block_length + length) * 2 + 64;
            c->block = allocate(c->block, c->block_capacity);
        }
        memcpy(c->block + c->block_length, body, length);
        c->block_length += length;
        if (flags & END_HEADERS) {
            c->block_stream = 0;
            return end_of_headers(c, stream, now);
        }
        break;
    case RST_STREAM:
        if (length == 4 && (slot = slot_of(c, stream))) {
            complain("RST_STREAM, code %u", get_u32(body));
            if (options.stream)
                return false;
            finish(c, slot, false, now);
        }
        break;
    case SETTINGS:
        if (!(flags & ACK))
            take_settings(c, body, length);
        break;
    case PING:
        if (!(flags & ACK) && length == 8)
            put_frame(c, 8, PING, ACK, 0, body);
        break;
    case GOAWAY:  // what it covers is finished, then the connection is made anew
        if (length < 8)
            return false;
        c->worker->goaways++;
        if (c->state == READY)
            c->state = DRAINING;
        complain("GOAWAY, code %u: %.*s", get_u32(body + 4), (int)(length - 8 > 100 ? 100 : length - 8), body + 8);
        for (uint32_t i = 0; i <= c->mask; i++)
            if (c->slots[i].used && c->slots[i].stream > (get_u32(body) & 0x7fffffff))
                finish(c, &c->slots[i], false, now);
        break;
    case WINDOW_UPDATE:
        if (length == 4 && !stream)
            c->send_window += get_u32(body) & 0x7fffffff;
        break;
    }
    return true;
}

bool http2_input(Connection *c, uint64_t now) {
    uint8_t *p = c->input, *end = c->input + c->input_length;
    while (end - p >= FRAME_HEAD) {
        uint32_t length = p[0] << 16 | p[1] << 8 | p[2];
        if (length > LARGEST_FRAME) {
            complain("a frame that is too large");
            return false;
        }
        if ((uint32_t)(end - p) < FRAME_HEAD + length)
            break;
        if (!take_frame(c, p[3], p[4], get_u32(p + 5) & 0x7fffffff, p + FRAME_HEAD, length, now))
            return false;
        p += FRAME_HEAD + length;
    }
    c->input_length = end - p;
    if (c->input_length)
        memmove(c->input, p, c->input_length);
    return c->state != DRAINING || c->in_flight;
}

// HTTP/1.1, client side: requests out of a template, and responses with a length, chunks or no body.
#include "openload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// ---- requests

typedef struct {
    enum { LITERAL, TAG, RANDOM } kind;
    const char *text;
    size_t length;
} Piece;

static const struct {
    const char *name;
    int kind;
    size_t longest;
} PLACES[] = {{"{tag}", TAG, 20}, {"{random}", RANDOM, 16}};

static Piece pieces[64];
static size_t piece_count, longest_request;

static void add_piece(int kind, const char *text, size_t length, size_t longest) {
    if (piece_count == sizeof pieces / sizeof *pieces)
        die("too many places in the request");
    pieces[piece_count++] = (Piece){kind, text, length};
    longest_request += longest;
}

void http1_prepare(void) {
    char *length = "", *head;
    bool with_body = options.body_length || strcmp(options.method, "GET");
    if (with_body && asprintf(&length, "Content-Length: %zu\r\n", options.body_length) < 0)
        die("out of memory");
    if (asprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n", options.method, options.path, authority,
                 options.headers, length) < 0)
        die("out of memory");
    char *from = head;
    for (char *p = head; *p; p++)
        for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++) {
            size_t n = strlen(PLACES[i].name);
            if (strncmp(p, PLACES[i].name, n))
                continue;
            add_piece(LITERAL, from, p - from, p - from);
            add_piece(PLACES[i].kind, NULL, 0, PLACES[i].longest);
            from = p + n;
            p = from - 1;
            break;
        }
    add_piece(LITERAL, from, strlen(from), strlen(from));
    if (options.body_length)
        add_piece(LITERAL, (char *)options.body, options.body_length, options.body_length);
}

static uint8_t *put_number(uint8_t *to, uint64_t number) {
    char digits[20];
    int n = 0;
    do
        digits[n++] = '0' + number % 10;
    while (number /= 10);
    while (n)
        *to++ = digits[--n];
    return to;
}

void http1_send(Connection *c, Slot *slot) {
    uint8_t *start = reserve(c, longest_request), *to = start;
    for (size_t i = 0; i < piece_count; i++)
        switch (pieces[i].kind) {
        case LITERAL:
            memcpy(to, pieces[i].text, pieces[i].length);
            to += pieces[i].length;
            break;
        case TAG:
            slot->tag = draw(&c->worker->random) % options.tags;
            to = put_number(to, slot->tag);
            break;
        case RANDOM: {
            uint64_t bits = draw(&c->worker->random);
            for (int digit = 0; digit < 16; digit++, bits >>= 4)
                *to++ = "0123456789abcdef"[bits & 15];
        }
        }
    c->output_end += to - start;
    c->next++;
}

// ---- responses

// Two tags may give the same number: where that is so, a tag's ids are moved to a place of their own among 2^64.
static void record_ids(Worker *w, const char *text, size_t length, uint64_t tag) {
    const char *p = text, *end = text + length;
    uint64_t place = options.ids_per_tag ? tag * 0x9e3779b97f4a7c15ull : 0;
    bool any = false;
    while (p < end) {
        if (*p < '0' || *p > '9') {
            p++;
            continue;
        }
        uint64_t id = 0;
        while (p < end && *p >= '0' && *p <= '9')
            id = id * 10 + *p++ - '0';
        add_id(&w->ids, place + id);
        any = true;
    }
    if (!any && !w->bad_ids++)
        complain("no id in the body: %.*s", (int)(length > 80 ? 80 : length), text);
}

// Length of a chunked body on the wire; 0: incomplete, -1: malformed or with trailers. `join` puts the data together in
// place, and then gives the data's length.
static long chunked(char *body, char *end, bool join) {
    char *from = body, *to = body, *digits_end, *line_end;
    long size = 1;
    while (size) {
        if (!(line_end = memmem(from, end - from, "\r\n", 2)))
            return 0;
        size = strtol(from, &digits_end, 16);
        if (size < 0 || digits_end == from)
            return -1;
        if (end - line_end < size + 4)
            return 0;
        if (join)
            memmove(to, line_end + 2, size);
        to += size;
        from = line_end + size + 4;
    }
    return join ? to - body : from - body;
}

// Length of the response that begins at `text`; 0: incomplete, -1: malformed.
static long response(Connection *c, char *text, size_t length, int *status, char **body, size_t *body_length) {
    char *head_end = memmem(text, length, "\r\n\r\n", 4);
    if (!head_end)
        return length > 60000 ? -1 : 0;
    if (length < 13 || memcmp(text, "HTTP/1.", 7))
        return -1;
    long content_length = -1;
    bool is_chunked = false;
    *status = atoi(text + 9);
    *body = head_end + 4;
    char *line = memchr(text, '\n', head_end - text + 2);
    for (line++; line < head_end + 2; line = (char *)memchr(line, '\n', head_end + 2 - line) + 1)
        if (!strncasecmp(line, "content-length:", 15))
            content_length = strtol(line + 15, NULL, 10);
        else if (!strncasecmp(line, "transfer-encoding: chunked", 26))
            is_chunked = true;
        else if (!strncasecmp(line, "connection: close", 17))
            c->closing = true;
    if (is_chunked) {
        long on_wire = chunked(*body, text + length, false);
        if (on_wire <= 0)
            return on_wire;
        *body_length = chunked(*body, text + length, true);
        return *body - text + on_wire;
    }
    if (content_length < 0) {
        if (*status != 204 && *status != 304)
            return -1;
        content_length = 0;
    }
    *body_length = content_length;
    return *body + content_length > text + length ? 0 : *body + content_length - text;
}

bool http1_input(Connection *c, uint64_t now) {
    uint32_t taken = 0;
    while (taken < c->input_length) {
        int status;
        char *body;
        size_t length;
        long size = response(c, (char *)c->input + taken, c->input_length - taken, &status, &body, &length);
        if (size < 0) {
            complain("malformed response");
            return false;
        }
        if (!size)
            break;
        if (!c->in_flight) {
            complain("a response that nobody asked for");
            return false;
        }
        Slot *slot = &c->slots[c->oldest++ & c->mask];
        if (status != 200)
            complain("status %d: %.*s", status, (int)(length > 100 ? 100 : length), body);
        else if (options.check_ids)
            record_ids(c->worker, body, length, slot->tag);
        finish(c, slot, status == 200, now);
        taken += size;
    }
    c->input_length -= taken;
    if (c->input_length && taken)
        memmove(c->input, c->input + taken, c->input_length);
    return !c->closing || c->in_flight;
}

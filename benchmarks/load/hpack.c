// HPACK (RFC 7541), client side: a decoder for any header block, and an encoder that indexes as grpc-go's does.
#include "openload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATIC_LAST = 61, TABLE_LIMIT = 4096, END_OF_STRING = 256 };

static const struct {
    const char *name, *value;
} STATIC[STATIC_LAST + 1] = {
    {"", ""}, {":authority", ""}, {":method", "GET"}, {":method", "POST"}, {":path", "/"}, {":path", "/index.html"},
    {":scheme", "http"}, {":scheme", "https"}, {":status", "200"}, {":status", "204"}, {":status", "206"},
    {":status", "304"}, {":status", "400"}, {":status", "404"}, {":status", "500"}, {"accept-charset", ""},
    {"accept-encoding", "gzip, deflate"}, {"accept-language", ""}, {"accept-ranges", ""}, {"accept", ""},
    {"access-control-allow-origin", ""}, {"age", ""}, {"allow", ""}, {"authorization", ""}, {"cache-control", ""},
    {"content-disposition", ""}, {"content-encoding", ""}, {"content-language", ""}, {"content-length", ""},
    {"content-location", ""}, {"content-range", ""}, {"content-type", ""}, {"cookie", ""}, {"date", ""}, {"etag", ""},
    {"expect", ""}, {"expires", ""}, {"from", ""}, {"host", ""}, {"if-match", ""}, {"if-modified-since", ""},
    {"if-none-match", ""}, {"if-range", ""}, {"if-unmodified-since", ""}, {"last-modified", ""}, {"link", ""},
    {"location", ""}, {"max-forwards", ""}, {"proxy-authenticate", ""}, {"proxy-authorization", ""}, {"range", ""},
    {"referer", ""}, {"refresh", ""}, {"retry-after", ""}, {"server", ""}, {"set-cookie", ""},
    {"strict-transport-security", ""}, {"transfer-encoding", ""}, {"user-agent", ""}, {"vary", ""}, {"via", ""},
    {"www-authenticate", ""},
};

// ---- Huffman (appendix B): the code is canonical, so that its lengths tell all of it

static const uint8_t CODE_LENGTHS[257] = {
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6,  10, 10, 12, 13, 6,  8,  11, 10, 10, 8,  11, 8,  6,  6,  6,  5,  5,  5,  6,  6,  6,  6,  6,  6,  6,
    7,  8,  15, 6,  12, 10, 13, 6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
    7,  8,  7,  8,  13, 19, 13, 14, 6,  15, 5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,  6,  7,  6,  5,
    5,  6,  7,  7,  7,  7,  7,  15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24,
    24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22,
    23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26,
    27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23,
    22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
};
static uint32_t codes[257];
static short tree[514][2];  // of inner nodes; a child above 0 is a node, one below 0 the symbol -child - 1

void hpack_prepare(void) {
    uint32_t code = 0;
    int nodes = 1;
    for (int length = 5; length <= 30; length++, code <<= 1)
        for (int symbol = 0; symbol < 257; symbol++) {
            if (CODE_LENGTHS[symbol] != length)
                continue;
            int node = 0;
            for (int bit = length - 1; bit > 0; bit--) {
                short *child = &tree[node][code >> bit & 1];
                if (!*child)
                    *child = nodes++;
                node = *child;
            }
            tree[node][code & 1] = -symbol - 1;
            codes[symbol] = code++;
        }
}

// ---- integers and strings (section 5)

uint8_t *hpack_put_integer(uint8_t *to, uint8_t first, int bits, uint32_t value) {
    uint32_t most = (1u << bits) - 1;
    if (value < most) {
        *to++ = first | value;
        return to;
    }
    *to++ = first | most;
    for (value -= most; value >= 128; value >>= 7)
        *to++ = value | 128;
    *to++ = value;
    return to;
}

static bool get_integer(const uint8_t **at, const uint8_t *end, int bits, uint32_t *value) {
    const uint8_t *p = *at;
    uint32_t most = (1u << bits) - 1, read;
    if (p >= end)
        return false;
    read = *p++ & most;
    if (read == most)
        for (int shift = 0;; shift += 7) {
            if (p >= end || shift > 21)
                return false;
            read += (uint32_t)(*p & 127) << shift;
            if (!(*p++ & 128))
                break;
        }
    *at = p;
    *value = read;
    return true;
}

static uint8_t *put_string(uint8_t *to, const char *text, uint32_t length) {  // Huffman where that is shorter
    uint32_t bits = 0;
    for (uint32_t i = 0; i < length; i++)
        bits += CODE_LENGTHS[(uint8_t)text[i]];
    if ((bits + 7) / 8 >= length) {
        to = hpack_put_integer(to, 0, 7, length);
        memcpy(to, text, length);
        return to + length;
    }
    to = hpack_put_integer(to, 0x80, 7, (bits + 7) / 8);
    uint64_t gathered = 0;
    int pending = 0;
    for (uint32_t i = 0; i < length; i++) {
        uint8_t symbol = text[i];
        gathered = gathered << CODE_LENGTHS[symbol] | codes[symbol];
        for (pending += CODE_LENGTHS[symbol]; pending >= 8;)
            *to++ = gathered >> (pending -= 8);
    }
    if (pending)
        *to++ = gathered << (8 - pending) | 0xff >> pending;
    return to;
}

enum { LONGEST_STRING = 20000 };
static __thread char unpacked[2][LONGEST_STRING * 8 / 5 + 1];  // the shortest code has 5 bits

static bool get_string(const uint8_t **at, const uint8_t *end, char *room, const char **text, uint32_t *length) {
    uint32_t packed;
    if (*at >= end)
        return false;
    bool is_packed = **at & 128;
    if (!get_integer(at, end, 7, &packed) || packed > end - *at)
        return false;
    const uint8_t *p = *at;
    *at += packed;
    if (!is_packed) {
        *text = (const char *)p;
        *length = packed;
        return true;
    }
    if (packed > LONGEST_STRING)
        return false;
    uint32_t count = 0;
    int node = 0, depth = 0;
    bool ones = true;
    for (uint32_t i = 0; i < packed; i++)
        for (int shift = 7; shift >= 0; shift--) {
            int bit = p[i] >> shift & 1, child = tree[node][bit];
            depth++;
            ones &= bit;
            if (child >= 0) {
                node = child;
                continue;
            }
            if (child == -END_OF_STRING - 1)
                return false;
            room[count++] = -child - 1;
            node = depth = 0;
            ones = true;
        }
    if (depth > 7 || !ones)
        return false;
    *text = room;
    *length = count;
    return true;
}

// ---- decoder

static void evict(HpackDecoder *d, uint32_t room) {
    while (d->count && d->size + room > d->limit) {
        HpackEntry *oldest = &d->entries[(d->inserted - --d->count) % 128];
        d->size -= oldest->name_length + oldest->value_length + 32;
        free(oldest->name);
        oldest->name = NULL;
    }
}

void hpack_forget(HpackDecoder *d) {
    d->limit = 0;
    evict(d, 0);
    d->limit = TABLE_LIMIT;
}

static void insert(HpackDecoder *d, const char *name, uint32_t name_length, const char *value, uint32_t value_length) {
    char *both = allocate(NULL, name_length + value_length + 1);  // before eviction frees what `name` points to
    memcpy(both, name, name_length);
    memcpy(both + name_length, value, value_length);
    uint32_t size = name_length + value_length + 32;
    evict(d, size);
    if (size > d->limit) {
        free(both);
        return;
    }
    d->inserted++;
    d->count++;
    d->size += size;
    d->entries[d->inserted % 128] = (HpackEntry){both, name_length, value_length};
}

static bool is(const char *name, const char *text, uint32_t length) {
    return strlen(name) == length && !memcmp(name, text, length);
}

static int small_number(const char *text, uint32_t length) {
    int number = 0;
    if (!length || length > 5)
        return -1;
    for (uint32_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        number = number * 10 + text[i] - '0';
    }
    return number;
}

bool hpack_read(HpackDecoder *d, const uint8_t *block, size_t block_length, Verdict *verdict) {
    const uint8_t *p = block, *end = block + block_length;
    while (p < end) {
        uint32_t index = 0, name_length, value_length;
        const char *name, *value;
        uint8_t first = *p;
        bool indexed = first & 0x80, incremental = !indexed && first & 0x40;
        if ((first & 0xe0) == 0x20) {
            if (!get_integer(&p, end, 5, &index) || index > TABLE_LIMIT)
                return false;
            d->limit = index;
            evict(d, 0);
            continue;
        }
        if (!get_integer(&p, end, indexed ? 7 : incremental ? 6 : 4, &index) || (indexed && !index))
            return false;
        if (index > STATIC_LAST) {
            if (index - STATIC_LAST - 1 >= d->count)
                return false;
            HpackEntry *entry = &d->entries[(d->inserted - (index - STATIC_LAST - 1)) % 128];
            name = entry->name;
            name_length = entry->name_length;
            value = name + name_length;
            value_length = entry->value_length;
        } else {
            name = STATIC[index].name;
            name_length = strlen(name);
            value = STATIC[index].value;
            value_length = strlen(value);
        }
        if (!indexed) {
            if (!index && !get_string(&p, end, unpacked[0], &name, &name_length))
                return false;
            if (!get_string(&p, end, unpacked[1], &value, &value_length))
                return false;
        }
        if (is(":status", name, name_length))
            verdict->http = small_number(value, value_length);
        else if (is("grpc-status", name, name_length))
            verdict->grpc = small_number(value, value_length);
        else if (is("grpc-message", name, name_length))
            snprintf(verdict->message, sizeof verdict->message, "%.*s", (int)value_length, value);
        if (incremental)
            insert(d, name, name_length, value, value_length);
    }
    return true;
}

// ---- encoder: everything goes into the table, as with grpc-go. A deadline that changes with each call inserts a new
// entry each time, which in the end evicts :path and the others, which are then inserted again.

static struct {
    const char *name, *value;
    uint32_t static_index;
} headers[HEADERS] = {
    [HEADER_PATH] = {":path", NULL, 4},
    [HEADER_AUTHORITY] = {":authority", authority, 1},
    [HEADER_CONTENT_TYPE] = {"content-type", "application/grpc", 31},
    [HEADER_USER_AGENT] = {"user-agent", "grpc-openload/1.0", 58},
    [HEADER_TE] = {"te", "trailers", 0},
    [HEADER_TIMEOUT] = {"grpc-timeout", NULL, 0},
};

void hpack_set_header(int header, const char *value) { headers[header].value = value; }

const char *hpack_header(int header) { return headers[header].value; }

static void evict_ours(HpackEncoder *e, uint32_t room) {
    while (e->count && e->size + room > e->limit)
        e->size -= e->sizes[(e->inserted - --e->count) % 128];
}

void hpack_limit(HpackEncoder *e, uint32_t limit) {
    limit = limit < TABLE_LIMIT ? limit : TABLE_LIMIT;
    if (limit == e->limit)
        return;
    e->limit = limit;
    e->resized = true;
    evict_ours(e, 0);
}

uint8_t *hpack_put_header(HpackEncoder *e, uint8_t *to, int header, const char *value) {
    uint32_t name_length = strlen(headers[header].name), value_length = strlen(value);
    uint32_t size = name_length + value_length + 32;
    bool known = e->last[header] && e->inserted - e->last[header] < e->count;
    uint32_t dynamic = STATIC_LAST + 1 + e->inserted - e->last[header];
    if (known && header != HEADER_TIMEOUT)
        return hpack_put_integer(to, 0x80, 7, dynamic);
    uint32_t name = headers[header].static_index ? headers[header].static_index : known ? dynamic : 0;
    bool fits = size <= e->limit;
    to = fits ? hpack_put_integer(to, 0x40, 6, name) : hpack_put_integer(to, 0, 4, name);
    if (!name)
        to = put_string(to, headers[header].name, name_length);
    to = put_string(to, value, value_length);
    if (!fits)
        return to;
    evict_ours(e, size);
    e->count++;
    e->size += size;
    e->last[header] = ++e->inserted;
    e->sizes[e->inserted % 128] = size;
    return to;
}

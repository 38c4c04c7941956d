// What the parts of openload share; main.c says what it is for.
#ifndef OPENLOAD_H
#define OPENLOAD_H
#define _GNU_SOURCE

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    bool grpc, closed, poisson, json, check_ids, ids_per_tag, deadlines, stream, table;
    int connections, in_flight, threads, port;
    int deadline_digits_least, deadline_digits_most;
    int pids[64], pid_count;  // of the server: their CPU time is reported
    long tags;                // how many values {tag} takes
    double rate, warmup, duration, drain;
    const char *host, *path, *method, *headers, *witness;
    uint8_t *body;  // of gRPC with its five-byte prefix
    size_t body_length;
} Options;

extern Options options;
extern char authority[64];

// Times are nanoseconds of CLOCK_MONOTONIC.
extern uint64_t schedule_start, window_start, window_end;
uint64_t now_ns(void);

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));  // the first few only; all are counted
void *allocate(void *old, size_t size);

// xorshift64*: fast, and good enough to spread tags and headers.
static inline uint64_t draw(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717ull;
}

// ---- what is recorded

typedef struct {
    uint64_t end;  // when the answer was complete
    uint32_t ns;   // since the intended send; saturates at 4.29 s
    bool open;     // never answered: `ns` is its age at the end, a lower bound
} Life;

typedef struct {
    Life *v;
    size_t count, capacity;
} Lives;

typedef struct {
    uint32_t *v;
    size_t count, capacity;
} Spans;

typedef struct {
    uint64_t *v;
    size_t count, capacity;
} Ids;

void add_life(Lives *, uint64_t ns, uint64_t end, bool open);
void add_span(Spans *, uint64_t ns);
void add_id(Ids *, uint64_t id);

// ---- requests, connections, workers

typedef struct {  // one outstanding request
    uint64_t since;  // intended send time (open loop) or actual one (closed loop)
    uint64_t tag;    // HTTP/1: the last one in its request
    uint32_t stream, unacknowledged, message_length, message_capacity;
    bool used, recorded, queued;
    bool open;     // --stream: whether its stream is; the slot with number i has stream 2 i + 1
    uint8_t head;  // gRPC: 0 no response headers yet, 1 good ones, 2 bad ones
    uint8_t *message;
} Slot;

typedef struct {
    char *name;  // followed by the value: one allocation
    uint32_t name_length, value_length;
} HpackEntry;

typedef struct {  // of the server's header blocks; the entry with insertion number k (from 1) is entries[k % 128]
    HpackEntry entries[128];
    uint32_t inserted, count, size, limit;
} HpackDecoder;

enum { HEADER_PATH, HEADER_AUTHORITY, HEADER_CONTENT_TYPE, HEADER_USER_AGENT, HEADER_TE, HEADER_TIMEOUT, HEADERS };

typedef struct {  // the table as the server's decoder has it; `last` is each header's latest insertion number
    uint32_t inserted, count, size, limit, last[HEADERS], sizes[128];
    bool resized;
} HpackEncoder;

typedef struct {  // what a header block said
    int http, grpc;  // -1: nothing, or nothing readable
    char message[160];
} Verdict;

typedef enum { DEAD, CONNECTING, GREETING, READY, DRAINING } State;
typedef struct Worker Worker;

typedef struct {
    Worker *worker;
    int fd;
    State state;
    bool available, wants_write, dirty, closing;
    uint32_t in_flight, limit, mask;
    uint32_t next, oldest;  // next stream id, or number of the next and of the oldest unanswered HTTP/1 request
    Slot *slots, **unwritten;
    uint32_t unwritten_count;
    uint8_t *input, *output, *block;  // block: header block fragments of one HEADERS and its CONTINUATIONs
    uint32_t input_length, input_capacity, output_start, output_end, output_capacity, block_length, block_capacity;
    uint32_t block_stream;
    bool block_ends;
    int64_t send_window;
    uint32_t unacknowledged;
    HpackDecoder decoder;
    HpackEncoder encoder;
    uint64_t retry_at;
} Connection;

struct Worker {
    int id, epoll, connection_count, dead, ready, dirty_count, available_head, available_count;
    Connection *connections, **available, **dirty;
    uint64_t *due;                         // the schedule
    size_t due_count, head, tail, waited;  // [head, tail) are due and wait; those below `waited` were counted as such
    uint64_t random, in_flight;
    volatile uint64_t answered;  // good ones; the main thread looks while it grows
    uint64_t sent, good, failed, unfinished, queued, warmup_failed, goaways, reconnects, bad_ids;
    Lives lives;
    Spans late, send_delay;
    Ids ids;
};

void *run_worker(void *);
void finish(Connection *, Slot *, bool good, uint64_t now);
uint8_t *reserve(Connection *, size_t length);  // room at the end of the output; the caller adds to `output_end`

// HTTP/1.1. `..._input` takes what was read; false: close the connection.
void http1_prepare(void);
void http1_send(Connection *, Slot *);
bool http1_input(Connection *, uint64_t now);

// gRPC over HTTP/2.
void http2_prepare(void);
void http2_greet(Connection *);
void http2_send(Connection *, Slot *);
bool http2_input(Connection *, uint64_t now);

void hpack_prepare(void);
uint8_t *hpack_put_integer(uint8_t *to, uint8_t first, int bits, uint32_t value);
uint8_t *hpack_put_header(HpackEncoder *, uint8_t *to, int header, const char *value);
void hpack_set_header(int header, const char *value);
const char *hpack_header(int header);
void hpack_limit(HpackEncoder *, uint32_t limit);
void hpack_forget(HpackDecoder *);
bool hpack_read(HpackDecoder *, const uint8_t *block, size_t length, Verdict *);

// ---- the machine's own stalls

typedef struct {
    uint64_t begin, end;
} Stall;

bool witness_start(const char *cpus, const char **why_not);
void witness_stop(void);
const Stall *witness_stalls(size_t *count);  // in order, merged
double witness_cpu_seconds(void);

// ---- what is reported

typedef struct {  // CPU times in ns
    uint64_t at, generator, server, server_user, answered, busy, stolen;
} Sample;

Sample take_sample(Worker *, int workers);
int report(Worker *, int workers, const Sample *begin, const Sample *end, const char *no_witness);

#endif

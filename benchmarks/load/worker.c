// A worker: its connections, its part of the schedule, and the loop that keeps it.
#include "openload.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

extern pthread_barrier_t barrier;

enum { FIRST_WINDOW = 65535, TABLE = 4096 };
static const uint64_t MS = 1000000, PATIENCE = 5000000000ull;

// ---- which connection sends next

static bool usable(const Connection *c) {
    return c->state == READY && c->in_flight < c->limit && !c->closing &&
           (!options.grpc || c->send_window >= (int64_t)options.body_length);
}

static void make_available(Connection *c) {
    Worker *w = c->worker;
    if (c->available || !usable(c))
        return;
    c->available = true;
    w->available[(w->available_head + w->available_count++) % w->connection_count] = c;
}

static Connection *next_available(Worker *w) {
    while (w->available_count) {
        Connection *c = w->available[w->available_head];
        w->available_head = (w->available_head + 1) % w->connection_count;
        w->available_count--;
        c->available = false;
        if (usable(c))
            return c;
    }
    return NULL;
}

// ---- connections

uint8_t *reserve(Connection *c, size_t length) {
    if (c->output_start == c->output_end)
        c->output_start = c->output_end = 0;
    if (c->output_end + length > c->output_capacity) {
        c->output_capacity = (c->output_end + length) * 2;
        c->output = allocate(c->output, c->output_capacity);
    }
    if (!c->dirty) {
        c->dirty = true;
        c->worker->dirty[c->worker->dirty_count++] = c;
    }
    return c->output + c->output_end;
}

static void watch(Connection *c, uint32_t events, int how) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(c->worker->epoll, how, c->fd, &event);
}

static void open_connection(Connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options.port)};
    int one = 1;
    inet_pton(AF_INET, options.host, &address.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->input_length = c->output_start = c->output_end = c->block_length = c->block_stream = 0;
    c->unwritten_count = c->unacknowledged = c->in_flight = c->oldest = 0;
    c->closing = false;
    c->next = options.grpc ? 1 : 0;
    c->limit = options.in_flight;
    c->send_window = FIRST_WINDOW;
    for (uint32_t i = 0; i <= c->mask; i++)
        c->slots[i].open = false;
    c->state = CONNECTING;
    c->wants_write = true;
    c->worker->dead--;
    hpack_forget(&c->decoder);
    memset(&c->encoder, 0, sizeof c->encoder);
    c->encoder.limit = TABLE;
    watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_ADD);
    if (connect(c->fd, (void *)&address, sizeof address) && errno != EINPROGRESS)
        complain("connect: %s", strerror(errno));
}

static void lose_connection(Connection *c, uint64_t now, const char *why) {
    State was = c->state;
    Worker *w = c->worker;
    if (was == DEAD)
        return;
    if (c->in_flight)
        complain("a connection was lost with %u requests outstanding: %s", c->in_flight, why);
    c->state = DEAD;
    w->dead++;
    close(c->fd);
    c->unwritten_count = 0;
    c->output_start = c->output_end = 0;
    for (uint32_t i = 0; i <= c->mask; i++)
        if (c->slots[i].used)
            finish(c, &c->slots[i], false, now);
    if (was >= GREETING) {
        w->reconnects++;
        w->ready -= was >= READY;
    }
    c->retry_at = was >= READY ? now : now + 10 * MS;  // at once, or now and then while the server refuses
}

static void flush(Connection *c, bool writable) {
    if (c->state < GREETING || c->output_start == c->output_end || (c->wants_write && !writable))
        return;
    uint64_t now = now_ns();  // when all requests of this write are really sent
    for (uint32_t i = 0; i < c->unwritten_count; i++) {
        Slot *slot = c->unwritten[i];
        Worker *w = c->worker;
        if (options.closed) {
            slot->since = now;
            slot->recorded = now >= window_start;
        }
        if (!slot->recorded)
            continue;
        w->sent++;
        add_span(&w->send_delay, now - slot->since);
        if (!slot->queued)
            add_span(&w->late, now - slot->since);
    }
    c->unwritten_count = 0;
    ssize_t written = write(c->fd, c->output + c->output_start, c->output_end - c->output_start);
    if (written < 0 && errno != EAGAIN) {
        lose_connection(c, now, strerror(errno));
        return;
    }
    if (written > 0)
        c->output_start += written;
    bool left = c->output_start < c->output_end;
    if (c->wants_write != left) {
        c->wants_write = left;
        watch(c, left ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
    }
}

static void flush_all(Worker *w) {
    for (int i = 0; i < w->dirty_count; i++) {
        w->dirty[i]->dirty = false;
        flush(w->dirty[i], false);
    }
    w->dirty_count = 0;
}

// ---- requests

// Into the output: `flush` writes it and stamps it.
static void send_request(Connection *c, uint64_t intended, bool queued) {
    if (options.stream)
        for (c->next = 1; c->slots[c->next >> 1].used;)  // the first free one, so that streams are opened in order
            c->next += 2;
    while (options.grpc && c->slots[c->next >> 1 & c->mask].used)
        c->next += 2;  // streams' numbers may be left out
    Slot *slot = &c->slots[(options.grpc ? c->next >> 1 : c->next) & c->mask];
    slot->since = intended;
    slot->message_length = 0;
    if (!slot->open)
        slot->unacknowledged = slot->head = 0;
    slot->used = true;
    slot->recorded = intended >= window_start;
    slot->queued = queued;
    c->unwritten[c->unwritten_count++] = slot;
    c->in_flight++;
    c->worker->in_flight++;
    (options.grpc ? http2_send : http1_send)(c, slot);
}

void finish(Connection *c, Slot *slot, bool good, uint64_t now) {
    Worker *w = c->worker;
    slot->used = false;
    c->in_flight--;
    w->in_flight--;
    if (good) {
        w->answered++;
        if (slot->recorded) {
            w->good++;
            add_life(&w->lives, now > slot->since ? now - slot->since : 0, now, false);
        }
    } else if (slot->recorded) {
        w->failed++;
    } else {
        w->warmup_failed++;
    }
}

static void dispatch(Worker *w) {  // open loop: what is due goes to free connections
    uint64_t now = now_ns();
    Connection *c;
    while (w->tail < w->due_count && w->due[w->tail] <= now)
        w->tail++;
    while (w->head < w->tail && (c = next_available(w))) {
        send_request(c, w->due[w->head], w->head < w->waited);
        w->head++;
        make_available(c);
    }
    flush_all(w);
    // What is due and finds no free connection waits for the server: our own delay ended when we noticed.
    for (size_t i = w->head > w->waited ? w->head : w->waited; i < w->tail; i++)
        if (w->due[i] >= window_start) {
            w->queued++;
            add_span(&w->late, now - w->due[i]);
        }
    if (w->tail > w->waited)
        w->waited = w->tail;
}

static void send_more(Connection *c, uint64_t now) {  // after something was read, or when it became ready
    if (!options.closed) {
        make_available(c);
        return;
    }
    while (now < window_end && usable(c))
        send_request(c, now, false);
}

// ---- the loop

static void on_connected(Connection *c) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) {
        complain("connect: %s", strerror(error));
        lose_connection(c, now_ns(), "refused");
        return;
    }
    if (options.grpc) {
        c->state = GREETING;
        http2_greet(c);
        return;
    }
    c->state = READY;
    c->worker->ready++;
    c->wants_write = false;
    watch(c, EPOLLIN, EPOLL_CTL_MOD);
    if (schedule_start)
        send_more(c, now_ns());
}

static void on_event(Connection *c, uint32_t events) {
    if (c->state == DEAD)
        return;
    if (c->state == CONNECTING)
        on_connected(c);
    if (events & EPOLLOUT && c->wants_write)
        flush(c, true);
    if (c->state == DEAD || !(events & ~EPOLLOUT)) {
        flush_all(c->worker);
        return;
    }
    if (c->input_length + 4096 > c->input_capacity) {
        c->input_capacity = c->input_capacity ? c->input_capacity * 2 : 65536;
        c->input = allocate(c->input, c->input_capacity);
    }
    ssize_t count = read(c->fd, c->input + c->input_length, c->input_capacity - c->input_length);
    uint64_t now = now_ns();
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0) {
        lose_connection(c, now, count ? strerror(errno) : "closed by the server");
        return;
    }
    c->input_length += count;
    if (!(options.grpc ? http2_input : http1_input)(c, now)) {
        flush_all(c->worker);
        lose_connection(c, now, "closed by us");
        return;
    }
    if (schedule_start)
        send_more(c, now);
    flush_all(c->worker);
}

static void wait_for_events(Worker *w, int64_t ns) {
    struct epoll_event events[64];
    struct timespec timeout = {ns / 1000000000, ns % 1000000000};
    int count = epoll_pwait2(w->epoll, events, 64, &timeout, NULL);
    for (int i = 0; i < count; i++) {
        on_event(events[i].data.ptr, events[i].events);
        if (w->head < w->due_count && schedule_start)
            dispatch(w);
    }
}

static double uniform(uint64_t *state) { return (draw(state) >> 11) * 0x1p-53; }

static double exponential(uint64_t *state) {  // von Neumann's: exact, by comparisons only
    for (double whole = 0;; whole++) {
        double first = uniform(state), before = first, next;
        bool odd = true;
        while ((next = uniform(state)) < before) {
            before = next;
            odd = !odd;
        }
        if (odd)
            return whole + first;
    }
}

static void make_schedule(Worker *w) {  // all of it, fixed before the start; relative to it for now
    double step = 1e9 * options.threads / options.rate, total = (options.warmup + options.duration) * 1e9;
    double first = w->id * 1e9 / options.rate, at = options.poisson ? exponential(&w->random) * step : first;
    size_t room = total / step * 1.01 + 10000;
    w->due = allocate(NULL, room * sizeof *w->due);
    for (size_t i = 1; at < total && w->due_count < room; i++) {
        w->due[w->due_count++] = at;
        at = options.poisson ? at + exponential(&w->random) * step : first + i * step;
    }
}

static void touch(Worker *w, size_t requests) {  // memory is there before the start: no page faults while measuring
    w->lives.capacity = w->late.capacity = w->send_delay.capacity = requests;
    w->lives.v = allocate(NULL, requests * sizeof *w->lives.v);
    w->late.v = allocate(NULL, requests * sizeof *w->late.v);
    w->send_delay.v = allocate(NULL, requests * sizeof *w->send_delay.v);
    memset(w->lives.v, 1, requests * sizeof *w->lives.v);
    memset(w->late.v, 1, requests * sizeof *w->late.v);
    memset(w->send_delay.v, 1, requests * sizeof *w->send_delay.v);
    if (options.check_ids) {
        w->ids.capacity = requests;
        w->ids.v = allocate(NULL, requests * sizeof *w->ids.v);
        memset(w->ids.v, 1, requests * sizeof *w->ids.v);
    }
}

static void connect_all(Worker *w) {
    size_t slots = 256;
    while (slots < 4 * (size_t)options.in_flight)
        slots *= 2;
    uint64_t give_up = now_ns() + PATIENCE;
    for (int i = 0; i < w->connection_count; i++) {
        Connection *c = &w->connections[i];
        c->worker = w;
        c->mask = slots - 1;
        c->slots = calloc(slots, sizeof *c->slots);
        c->unwritten = calloc(options.in_flight, sizeof *c->unwritten);
        w->dead++;
        open_connection(c);
    }
    while (w->ready < w->connection_count) {
        wait_for_events(w, 10 * MS);
        if (w->dead || now_ns() > give_up)
            die("can't connect to %s:%d", options.host, options.port);
    }
}

static void reopen(Worker *w, uint64_t now) {
    for (int i = 0; i < w->connection_count; i++)
        if (w->connections[i].state == DEAD && w->connections[i].retry_at <= now)
            open_connection(&w->connections[i]);
}

static void run_schedule(Worker *w) {
    uint64_t stop = window_end + (uint64_t)(options.drain * 1e9), now;
    for (;;) {
        if (w->head < w->due_count)
            dispatch(w);
        now = now_ns();
        if (now >= stop || (now >= window_end && w->head == w->due_count && !w->in_flight))
            break;
        uint64_t next = w->tail < w->due_count ? w->due[w->tail] : now < window_end ? window_end : stop;
        if (w->dead) {
            reopen(w, now);
            if (w->dead && next > now + MS)
                next = now + MS;
        }
        wait_for_events(w, next > now ? next - now : 0);
    }
    // Whoever was never answered counts with its age.
    for (int i = 0; i < w->connection_count; i++)
        for (uint32_t k = 0; k <= w->connections[i].mask; k++) {
            Slot *slot = &w->connections[i].slots[k];
            if (slot->used && slot->recorded) {
                w->unfinished++;
                add_life(&w->lives, now - slot->since, now, true);
            }
        }
    for (; w->head < w->due_count; w->head++)
        if (w->due[w->head] >= window_start) {
            w->unfinished++;
            add_life(&w->lives, now - w->due[w->head], now, true);
            add_span(&w->send_delay, now - w->due[w->head]);
        }
}

void *run_worker(void *argument) {
    Worker *w = argument;
    prctl(PR_SET_TIMERSLACK, 1);
    w->epoll = epoll_create1(0);
    w->random = 0x9e3779b97f4a7c15ull + w->id;
    w->connections = calloc(w->connection_count, sizeof *w->connections);
    w->available = calloc(w->connection_count, sizeof *w->available);
    w->dirty = calloc(w->connection_count, sizeof *w->dirty);
    connect_all(w);
    if (!options.closed)
        make_schedule(w);
    touch(w, w->due_count + (1 << 20));
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);  // the main thread sets the start in between
    for (size_t i = 0; i < w->due_count; i++)
        w->due[i] += schedule_start;
    while (now_ns() < schedule_start)
        usleep(100);
    for (int i = 0; i < w->connection_count; i++)
        send_more(&w->connections[i], schedule_start);
    flush_all(w);
    run_schedule(w);
    return NULL;
}

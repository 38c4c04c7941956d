// openload: a load generator for servers on loopback that hides nothing: HTTP/1.1 with keep-alive, or gRPC: unary calls
// or messages on streams.
//
// Open loop (default): each request has an intended send time, fixed before the start, and its latency runs from
// there to the complete answer. So neither a server that stalls nor a generator that stalls hides what a client
// would have met. What was never answered counts with its age at the end. The generator's own delay is reported
// beside it ("late": from the intended time to the write, or to the moment when it was seen that no connection is
// free).
// Closed loop: each connection sends as soon as it has its answer; latency runs from the write.
//
// The server's CPU time is its processes' clock. It holds what the kernel does in their name: for loopback that is the
// whole way of an answer into the client's socket, but not the way of the requests.
//
// Exit status: 0; 1 if a request failed or an id came twice; 2 if nothing could be measured.
#include "openload.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

Options options = {
    .connections = 16,
    .threads = 1,
    .in_flight = 0,
    .rate = 1000,
    .warmup = 2,
    .duration = 10,
    .drain = 3,
    .tags = 1000,
    .deadline_digits_least = 7,
    .deadline_digits_most = 8,
    .host = "127.0.0.1",
    .path = "/",
    .method = "GET",
    .headers = "",
};
char authority[64];
uint64_t schedule_start, window_start, window_end;
pthread_barrier_t barrier;

static const char USAGE[] =
    "usage: openload http|grpc --port N [--host 127.0.0.1] [--path P] [--connections 16] [--rate N | --closed]\n"
    "  [--json] [--poisson] [--warmup 2] [--duration 10] [--drain 3] [--threads 1] [--check-ids[=tag]] [--pid P]...\n"
    "  --check-ids: no id comes twice; with =tag, none of a tag\n"
    "  [--witness CORES]   real-time threads on these cores (0,1) tell the machine's own stalls\n"
    "  http: [--in-flight 1] [--method M] [--body TEXT] [--header 'A: b']...\n"
    "        {tag} in path and headers is a number below --tags N (1000), {random} 16 digits, new in each request\n"
    "  grpc: [--in-flight 100] [--body-hex HEX]   a protobuf message\n"
    "        [--deadlines[=7-8]]   each call has another grpc-timeout, of so many digits of microseconds\n"
    "        [--stream]   messages on streams that stay open, one in flight on each, in place of calls\n"
    "        [--table]   headers go into a table of 4 KB even if the server asks for none";

static void set_body_hex(const char *hex) {
    options.body = allocate(options.body, 5 + strlen(hex));
    for (options.body_length = 5; hex[0] && hex[1]; hex += 2) {
        unsigned byte;
        if (sscanf(hex, "%2x", &byte) != 1)
            die("--body-hex takes pairs of hexadecimal digits");
        options.body[options.body_length++] = byte;
    }
    if (*hex)
        die("--body-hex takes pairs of hexadecimal digits");
}

static void add_header(const char *line) {
    char *all;
    if (asprintf(&all, "%s%s\r\n", options.headers, line) < 0)
        die("out of memory");
    options.headers = all;
}

static void set_deadlines(const char *digits) {
    options.deadlines = true;
    if (!digits)
        return;
    char *end;
    options.deadline_digits_least = strtol(digits, &end, 10);
    options.deadline_digits_most = *end == '-' ? atoi(end + 1) : options.deadline_digits_least;
}

static void read_options(int count, char **words) {
    enum {
        PORT = 1, HOST, PATH, CONNECTIONS, RATE, CLOSED, POISSON, WARMUP, DURATION, DRAIN, THREADS, CHECK_IDS, PID,
        JSON, WITNESS, IN_FLIGHT, METHOD, BODY, HEADER, TAGS, BODY_HEX, DEADLINES, STREAM, TABLE
    };
    static const struct option KNOWN[] = {
        {"port", 1, 0, PORT},           {"host", 1, 0, HOST},           {"path", 1, 0, PATH},
        {"connections", 1, 0, CONNECTIONS}, {"rate", 1, 0, RATE},       {"closed", 0, 0, CLOSED},
        {"poisson", 0, 0, POISSON},     {"warmup", 1, 0, WARMUP},       {"duration", 1, 0, DURATION},
        {"drain", 1, 0, DRAIN},         {"threads", 1, 0, THREADS},     {"check-ids", 2, 0, CHECK_IDS},
        {"pid", 1, 0, PID},             {"json", 0, 0, JSON},           {"witness", 1, 0, WITNESS},
        {"in-flight", 1, 0, IN_FLIGHT}, {"method", 1, 0, METHOD},       {"body", 1, 0, BODY},
        {"header", 1, 0, HEADER},       {"tags", 1, 0, TAGS},           {"body-hex", 1, 0, BODY_HEX},
        {"deadlines", 2, 0, DEADLINES}, {"stream", 0, 0, STREAM},       {"table", 0, 0, TABLE},
        {0},
    };
    if (count < 2 || (strcmp(words[1], "http") && strcmp(words[1], "grpc")))
        die("%s", USAGE);
    options.grpc = words[1][0] == 'g';
    options.in_flight = options.grpc ? 100 : 1;
    if (options.grpc)
        set_body_hex("");
    optind = 2;
    for (int found; (found = getopt_long(count, words, "", KNOWN, NULL)) != -1;)
        switch (found) {
        case PORT: options.port = atoi(optarg); break;
        case HOST: options.host = optarg; break;
        case PATH: options.path = optarg; break;
        case CONNECTIONS: options.connections = atoi(optarg); break;
        case RATE: options.rate = atof(optarg); break;
        case CLOSED: options.closed = true; break;
        case POISSON: options.poisson = true; break;
        case WARMUP: options.warmup = atof(optarg); break;
        case DURATION: options.duration = atof(optarg); break;
        case DRAIN: options.drain = atof(optarg); break;
        case THREADS: options.threads = atoi(optarg); break;
        case JSON: options.json = true; break;
        case WITNESS: options.witness = optarg; break;
        case IN_FLIGHT: options.in_flight = atoi(optarg); break;
        case METHOD: options.method = optarg; break;
        case HEADER: add_header(optarg); break;
        case TAGS: options.tags = atol(optarg); break;
        case BODY_HEX: set_body_hex(optarg); break;
        case DEADLINES: set_deadlines(optarg); break;
        case STREAM: options.stream = true; break;
        case TABLE: options.table = true; break;
        case CHECK_IDS:
            options.check_ids = true;
            options.ids_per_tag = optarg && !strcmp(optarg, "tag");
            break;
        case BODY:
            options.body = (uint8_t *)optarg;
            options.body_length = strlen(optarg);
            break;
        case PID:
            if (options.pid_count == sizeof options.pids / sizeof *options.pids)
                die("too many processes");
            options.pids[options.pid_count++] = atoi(optarg);
            break;
        default: die("%s", USAGE);
        }
    bool numbers = options.port > 0 && options.rate > 0 && options.connections > 0 && options.in_flight > 0 &&
                   options.tags > 0 && options.duration > 0 && options.warmup >= 0 && options.threads > 0 &&
                   options.threads <= 8 && options.threads <= options.connections;
    bool digits = options.deadline_digits_least > 0 && options.deadline_digits_most < 9 &&
                  options.deadline_digits_least <= options.deadline_digits_most;
    if (!numbers || !digits || optind < count)
        die("%s", USAGE);
    if (strncmp(options.host, "127.", 4))
        die("it is made for servers on loopback");
    snprintf(authority, sizeof authority, "%.40s:%d", options.host, options.port);
}

static void sleep_until(uint64_t time) {
    struct timespec until = {time / 1000000000, time % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
        ;
}

int main(int count, char **words) {
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stderr, NULL, _IOLBF, 0);
    read_options(count, words);
    if (options.grpc)
        http2_prepare();
    else
        http1_prepare();
    const char *no_witness = NULL;
    if (options.witness && !witness_start(options.witness, &no_witness))
        fprintf(stderr, "openload: no witness of the machine's stalls: %s\n", no_witness);
    Worker *workers = calloc(options.threads, sizeof *workers);
    pthread_t threads[8];
    pthread_barrier_init(&barrier, NULL, options.threads + 1);
    for (int i = 0; i < options.threads; i++) {
        workers[i].id = i;
        int rest = options.connections % options.threads;
        workers[i].connection_count = options.connections / options.threads + (i < rest);
        if ((errno = pthread_create(&threads[i], NULL, run_worker, &workers[i])))
            die("can't start a thread: %s", strerror(errno));
    }
    pthread_barrier_wait(&barrier);
    schedule_start = now_ns() + 50000000;  // the workers get to their places
    window_start = schedule_start + options.warmup * 1e9;
    window_end = window_start + options.duration * 1e9;
    pthread_barrier_wait(&barrier);
    sleep_until(window_start);
    Sample begin = take_sample(workers, options.threads);
    sleep_until(window_end);
    Sample end = take_sample(workers, options.threads);
    for (int i = 0; i < options.threads; i++)
        pthread_join(threads[i], NULL);
    if (options.witness && !no_witness)
        witness_stop();
    return report(workers, options.threads, &begin, &end, no_witness);
}

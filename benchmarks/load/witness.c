// The witness: one real-time thread per core wakes a thousand times a second and notes when it wakes late. Nothing
// that runs at ordinary priority can keep it from waking: when it is late, the machine itself stood still (the
// hypervisor gave the core to somebody else, firmware, the kernel in a part that can't be interrupted).
#include "openload.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CORES = 64, NOTES = 1 << 16 };
static const uint64_t TICK = 1000000;
static const uint64_t NOTICED = 200000;  // ns late: far above what a timer interrupt takes, far below 1 ms

static struct {
    pthread_t thread;
    Stall *stalls;
    size_t count;
} watchers[CORES];
static int watcher_count;
static volatile bool stopping;
static Stall *merged;
static size_t merged_count;
static double cpu_seconds;

static void *watch_core(void *argument) {
    int me = (int)(intptr_t)argument;
    Stall *stalls = watchers[me].stalls;
    uint64_t due = now_ns() + TICK;
    while (!stopping) {
        struct timespec until = {due / 1000000000, due % 1000000000};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
            ;
        uint64_t now = now_ns();
        if (now - due > NOTICED && watchers[me].count < NOTES)
            stalls[watchers[me].count++] = (Stall){due, now};
        do
            due += TICK;
        while (due <= now);
    }
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    cpu_seconds += used.tv_sec + used.tv_nsec / 1e9;  // they are joined one after the other
    return NULL;
}

static bool start_thread(int core, int me) {
    pthread_attr_t attributes;
    cpu_set_t cores;
    struct sched_param priority = {.sched_priority = sched_get_priority_min(SCHED_FIFO)};
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    pthread_attr_init(&attributes);
    pthread_attr_setaffinity_np(&attributes, sizeof cores, &cores);
    pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
    pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
    pthread_attr_setschedparam(&attributes, &priority);
    watchers[me].stalls = allocate(NULL, NOTES * sizeof(Stall));
    memset(watchers[me].stalls, 1, NOTES * sizeof(Stall));
    errno = pthread_create(&watchers[me].thread, &attributes, watch_core, (void *)(intptr_t)me);
    pthread_attr_destroy(&attributes);
    return !errno;
}

bool witness_start(const char *cpus, const char **why_not) {
    for (const char *p = cpus; *p;) {
        char *end;
        long core = strtol(p, &end, 10);
        if (end == p || core < 0 || core >= CPU_SETSIZE || watcher_count == CORES)
            die("--witness takes numbers of cores, as in 0,1");
        if (!start_thread(core, watcher_count)) {
            *why_not = errno == EPERM ? "real-time scheduling is not permitted here" : strerror(errno);
            witness_stop();
            watcher_count = 0;
            return false;
        }
        watcher_count++;
        p = *end == ',' ? end + 1 : end;
    }
    return true;
}

static int by_begin(const void *a, const void *b) {
    uint64_t x = ((const Stall *)a)->begin, y = ((const Stall *)b)->begin;
    return x < y ? -1 : x > y;
}

void witness_stop(void) {
    size_t total = 0;
    stopping = true;
    for (int i = 0; i < watcher_count; i++) {
        pthread_join(watchers[i].thread, NULL);
        total += watchers[i].count;
    }
    Stall *all = allocate(NULL, (total + 1) * sizeof *all);
    total = 0;
    for (int i = 0; i < watcher_count; i++) {
        memcpy(all + total, watchers[i].stalls, watchers[i].count * sizeof *all);
        total += watchers[i].count;
    }
    qsort(all, total, sizeof *all, by_begin);
    merged = all;
    merged_count = 0;
    for (size_t i = 0; i < total; i++)
        if (merged_count && all[i].begin <= merged[merged_count - 1].end) {
            if (all[i].end > merged[merged_count - 1].end)
                merged[merged_count - 1].end = all[i].end;
        } else {
            merged[merged_count++] = all[i];
        }
}

const Stall *witness_stalls(size_t *count) {
    *count = merged_count;
    return merged;
}

double witness_cpu_seconds(void) { return cpu_seconds; }

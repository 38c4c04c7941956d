// CPU clocks at the window's ends, percentiles, and the words or JSON that tell them.
#include "openload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// ---- CPU time

static long status_kb(int pid, const char *key) {
    char path[64], line[256];
    long value = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, key, strlen(key)))
            value = atol(line + strlen(key) + 1);
    if (file)
        fclose(file);
    return value;
}

static uint64_t user_ns(int pid) {  // as the kernel divides the time by its ticks: good over seconds
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    size_t length = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[length] = 0;
    if (file)
        fclose(file);
    unsigned long user = 0;
    char *name_end = strrchr(text, ')');
    if (name_end)
        sscanf(name_end + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu", &user);
    return user * (1000000000ull / sysconf(_SC_CLK_TCK));
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t))
        return 0;
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

Sample take_sample(Worker *workers, int count) {
    Sample sample = {.at = now_ns()};
    for (int i = 0; i < count; i++)
        sample.answered += workers[i].answered;
    sample.generator = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < options.pid_count; i++) {
        clockid_t clock;  // exact, with ended threads too
        if (clock_getcpuclockid(options.pids[i], &clock))
            die("there is no process %d", options.pids[i]);
        sample.server += clock_ns(clock);
        sample.server_user += user_ns(options.pids[i]);
    }
    FILE *file = fopen("/proc/stat", "r");
    unsigned long v[8] = {0};
    if (file && fscanf(file, "cpu %lu %lu %lu %lu %lu %lu %lu %lu", v, v + 1, v + 2, v + 3, v + 4, v + 5, v + 6,
                       v + 7) == 8) {
        uint64_t tick = 1000000000ull / sysconf(_SC_CLK_TCK);
        sample.busy = (v[0] + v[1] + v[2] + v[5] + v[6]) * tick;
        sample.stolen = v[7] * tick;
    }
    if (file)
        fclose(file);
    return sample;
}

// ---- distributions

static int by_u32(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static int by_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile(const Spans *sorted, double part) {  // in us
    if (!sorted->count)
        return 0;
    size_t place = part * sorted->count;
    return sorted->v[place < sorted->count ? place : sorted->count - 1] / 1e3;
}

static void sort(Spans *spans) {
    if (spans->count)
        qsort(spans->v, spans->count, sizeof *spans->v, by_u32);
}

static void print_percentiles(const char *name, const Spans *sorted) {
    double mean = 0;
    for (size_t i = 0; i < sorted->count; i++)
        mean += sorted->v[i] / 1e3 / sorted->count;
    printf(",\"%s\":{\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p99.9\":%.1f,\"p99.99\":%.1f,\"max\":%.1f}",
           name, mean, percentile(sorted, .5), percentile(sorted, .9), percentile(sorted, .99),
           percentile(sorted, .999), percentile(sorted, .9999), percentile(sorted, 1));
}

// Whether a request that lived from `begin` to `end` met a stall, or the backlog that a stall leaves: what piles up
// in a stall takes up to as long again to be worked off, as long as the server is at most half busy.
static bool met_a_stall(const Stall *shadows, size_t count, uint64_t begin, uint64_t end) {
    size_t low = 0, high = count;  // the first shadow that ends after `begin`
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (shadows[middle].end <= begin)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && shadows[low].begin < end;
}

typedef struct {
    size_t count, left_out;
    double total_ms, longest_ms;
} StallSummary;

static StallSummary leave_out_stalls(const Lives *lives, Spans *rest) {
    StallSummary summary = {0};
    size_t count;
    const Stall *stalls = witness_stalls(&count);
    Stall *shadows = allocate(NULL, (count + 1) * sizeof *shadows);
    size_t shadow_count = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t length = stalls[i].end - stalls[i].begin;
        Stall shadow = {stalls[i].begin, stalls[i].end + length};
        if (stalls[i].end > window_start && stalls[i].begin < window_end) {
            summary.count++;
            summary.total_ms += length / 1e6;
            if (length / 1e6 > summary.longest_ms)
                summary.longest_ms = length / 1e6;
        }
        if (shadow_count && shadow.begin <= shadows[shadow_count - 1].end) {
            if (shadow.end > shadows[shadow_count - 1].end)
                shadows[shadow_count - 1].end = shadow.end;
        } else {
            shadows[shadow_count++] = shadow;
        }
    }
    for (size_t i = 0; i < lives->count; i++) {
        const Life *life = &lives->v[i];
        // What was never answered is not excused: no stall lasts for ever.
        if (!life->open && met_a_stall(shadows, shadow_count, life->end - life->ns, life->end))
            summary.left_out++;
        else
            add_span(rest, life->ns);
    }
    free(shadows);
    return summary;
}

// ---- the report

static void gather(Worker *all, Worker *workers, int count) {
    for (int i = 0; i < count; i++) {
        Worker *w = &workers[i];
        all->sent += w->sent;
        all->good += w->good;
        all->failed += w->failed;
        all->unfinished += w->unfinished;
        all->queued += w->queued;
        all->warmup_failed += w->warmup_failed;
        all->goaways += w->goaways;
        all->reconnects += w->reconnects;
        all->bad_ids += w->bad_ids;
        for (size_t j = 0; j < w->lives.count; j++)
            add_life(&all->lives, w->lives.v[j].ns, w->lives.v[j].end, w->lives.v[j].open);
        for (size_t j = 0; j < w->late.count; j++)
            add_span(&all->late, w->late.v[j]);
        for (size_t j = 0; j < w->send_delay.count; j++)
            add_span(&all->send_delay, w->send_delay.v[j]);
        for (size_t j = 0; j < w->ids.count; j++)
            add_id(&all->ids, w->ids.v[j]);
    }
}

int report(Worker *workers, int count, const Sample *begin, const Sample *end, const char *no_witness) {
    Worker all = {0};
    gather(&all, workers, count);
    Spans latency = {0}, rest = {0};
    for (size_t i = 0; i < all.lives.count; i++)
        add_span(&latency, all.lives.v[i].ns);
    bool witnessed = options.witness && !no_witness;
    StallSummary stalls = {0};
    if (witnessed)
        stalls = leave_out_stalls(&all.lives, &rest);
    sort(&latency);
    sort(&rest);
    sort(&all.late);
    sort(&all.send_delay);
    if (all.ids.count)
        qsort(all.ids.v, all.ids.count, sizeof *all.ids.v, by_u64);
    uint64_t duplicates = 0;
    for (size_t i = 1; i < all.ids.count; i++)
        duplicates += all.ids.v[i] == all.ids.v[i - 1];

    double seconds = (end->at - begin->at) / 1e9, answered = end->answered - begin->answered;
    double rate = answered / seconds, us_each = answered ? 1e6 / answered : 0;
    double generator = (end->generator - begin->generator) / 1e9, server = (end->server - begin->server) / 1e9;
    double user = (end->server_user - begin->server_user) / 1e9;
    double stolen = (end->stolen - begin->stolen) / 1e9 / seconds;
    double others = ((end->busy - begin->busy) / 1e9 - generator - server) / seconds;
    double left_out = all.lives.count ? (double)stalls.left_out / all.lives.count : 0;
    long peak_kb = 0;
    for (int i = 0; i < options.pid_count; i++)
        peak_kb += status_kb(options.pids[i], "VmHWM:");

    if (options.json) {
        printf("{\"protocol\":\"%s\",\"loop\":\"%s\",\"target_rate\":%.0f,\"poisson\":%s,\"connections\":%d,"
               "\"in_flight\":%d,\"threads\":%d,\"deadlines\":%s,\"seconds\":%.3f",
               options.grpc ? "grpc" : "http", options.closed ? "closed" : "open", options.closed ? 0 : options.rate,
               options.poisson ? "true" : "false", options.connections, options.in_flight, options.threads,
               options.deadlines ? "true" : "false", seconds);
        printf(",\"sent\":%lu,\"good\":%lu,\"failed\":%lu,\"unfinished\":%lu,\"warmup_failed\":%lu,\"queued\":%lu,"
               "\"goaways\":%lu,\"reconnects\":%lu,\"rate\":%.1f",
               all.sent, all.good, all.failed, all.unfinished, all.warmup_failed, all.queued, all.goaways,
               all.reconnects, rate);
        print_percentiles("latency_us", &latency);
        if (witnessed) {
            print_percentiles("latency_without_stalls_us", &rest);
            printf(",\"stalls\":{\"count\":%zu,\"total_ms\":%.3f,\"longest_ms\":%.3f,\"left_out\":%.6f}", stalls.count,
                   stalls.total_ms, stalls.longest_ms, left_out);
        } else if (options.witness) {
            printf(",\"no_witness\":\"%s\"", no_witness);
        }
        print_percentiles("late_us", &all.late);
        print_percentiles("send_delay_us", &all.send_delay);
        printf(",\"generator_us_per_request\":%.2f,\"generator_cores\":%.3f,\"stolen_cores\":%.3f,\"other_cores\":%.3f",
               (generator - witness_cpu_seconds()) * us_each, generator / seconds, stolen, others);
        if (options.pid_count)
            printf(",\"server_us_per_request\":%.3f,\"server_user_us_per_request\":%.3f,\"server_cores\":%.3f,"
                   "\"server_peak_kb\":%ld",
                   server * us_each, user * us_each, server / seconds, peak_kb);
        if (options.check_ids)
            printf(",\"ids\":%zu,\"duplicates\":%lu,\"bad_ids\":%lu", all.ids.count, duplicates, all.bad_ids);
        puts("}");
    } else {
        printf("%.0f answers a second in %.1f s: %lu sent, %lu good, %lu failed, %lu unfinished, %lu failed while "
               "warming up\n",
               rate, seconds, all.sent, all.good, all.failed, all.unfinished, all.warmup_failed);
        printf("latency    p50 %.1f  p99 %.1f  p99.9 %.1f  max %.1f us\n", percentile(&latency, .5),
               percentile(&latency, .99), percentile(&latency, .999), percentile(&latency, 1));
        if (witnessed)
            printf("no stalls  p50 %.1f  p99 %.1f  p99.9 %.1f  max %.1f us, without %.3f %% of requests that met one of "
                   "%zu stalls of the machine (%.1f ms in all)\n",
                   percentile(&rest, .5), percentile(&rest, .99), percentile(&rest, .999), percentile(&rest, 1),
                   left_out * 100, stalls.count, stalls.total_ms);
        else if (options.witness)
            printf("no stalls  unknown: %s\n", no_witness);
        if (!options.closed)
            printf("generator  late by p50 %.1f  p99 %.1f  p99.9 %.1f  max %.1f us; %.2f %% waited for a connection\n",
                   percentile(&all.late, .5), percentile(&all.late, .99), percentile(&all.late, .999),
                   percentile(&all.late, 1), all.late.count ? 100.0 * all.queued / all.late.count : 0);
        printf("CPU        generator %.2f us a request", (generator - witness_cpu_seconds()) * us_each);
        if (options.pid_count)
            printf(", server %.2f us (%.2f of them user's), %.2f cores, %.1f MB", server * us_each, user * us_each,
                   server / seconds, peak_kb / 1024.0);
        printf("; others %.2f cores, stolen %.3f\n", others, stolen);
        if (options.check_ids)
            printf("ids        %zu, %lu of them twice, %lu answers without one\n", all.ids.count, duplicates,
                   all.bad_ids);
        if (all.goaways || all.reconnects)
            printf("connections %lu GOAWAYs, %lu made anew\n", all.goaways, all.reconnects);
    }
    bool fine = all.good && !all.failed && !all.unfinished && !all.warmup_failed && !duplicates && !all.bad_ids;
    return fine ? 0 : 1;
}

// Growing arrays of what was measured, and how to fail.
#include "openload.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("openload: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(2);
}

void complain(const char *format, ...) {
    static int said;
    if (__atomic_fetch_add(&said, 1, __ATOMIC_RELAXED) >= 5)
        return;
    va_list arguments;
    va_start(arguments, format);
    fputs("openload: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

void *allocate(void *old, size_t size) {
    void *new = realloc(old, size);
    if (!new && size)
        die("out of memory");
    return new;
}

#define GROW(array)                                                                   \
    do {                                                                              \
        if ((array)->count == (array)->capacity) {                                    \
            (array)->capacity = (array)->capacity ? (array)->capacity * 2 : 1 << 16;  \
            (array)->v = allocate((array)->v, (array)->capacity * sizeof *(array)->v); \
        }                                                                             \
    } while (0)

void add_life(Lives *lives, uint64_t ns, uint64_t end, bool open) {
    GROW(lives);
    lives->v[lives->count++] = (Life){.end = end, .ns = ns > UINT32_MAX ? UINT32_MAX : ns, .open = open};
}

void add_span(Spans *spans, uint64_t ns) {
    GROW(spans);
    spans->v[spans->count++] = ns > UINT32_MAX ? UINT32_MAX : ns;
}

void add_id(Ids *ids, uint64_t id) {
    GROW(ids);
    ids->v[ids->count++] = id;
}

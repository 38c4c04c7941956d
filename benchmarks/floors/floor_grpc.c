// floor_grpc: the least that a server has to do for a unary gRPC call, to measure others against. One thread on
// epoll, HTTP/2 with prior knowledge, no decoding of headers at all: each DATA frame that ends a stream is answered
// with HEADERS, DATA (one packed sfixed64 in field 1) and trailers out of constant blocks. All answers to one read
// leave in one write.
//
//   floor_grpc PORT
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { INPUT = 65536, FRAME_HEAD = 9, LARGEST_FRAME = 16384, CREDIT_AT = 1 << 30 };
enum { DATA = 0, SETTINGS = 4, PING = 6 };
enum { END_STREAM = 1, ACK = 1 };

typedef struct {
    int fd;
    uint32_t length, consumed;
    bool greeted;
    uint8_t input[INPUT];
} Connection;

static const char PREFACE[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
static const uint8_t HELLO[] = "\0\0\x06\x04\0\0\0\0\0" "\0\x03\0\0\x03\xe8"   // SETTINGS: 1,000 streams
                               "\0\0\x04\x08\0\0\0\0\0" "\x7f\xff\0\0";        // WINDOW_UPDATE to 2^31 - 1
static const uint8_t HEAD[] = "\0\0\x14\x01\x04\0\0\0\0" "\x88" "\x0f\x10\x10" "application/grpc";
static const uint8_t MESSAGE[] = "\0\0\x0f\0\0\0\0\0\0" "\0\0\0\0\x0a" "\x0a\x08" "........";
static const uint8_t TRAILERS[] = "\0\0\x0f\x01\x05\0\0\0\0" "\0\x0b" "grpc-status" "\x01" "0";
enum { HEAD_SIZE = sizeof HEAD - 1, MESSAGE_SIZE = sizeof MESSAGE - 1, TRAILERS_SIZE = sizeof TRAILERS - 1 };

// The shortest frame that can end a stream is a head alone.
static uint8_t output[INPUT / FRAME_HEAD * (HEAD_SIZE + MESSAGE_SIZE + TRAILERS_SIZE) + 4096];

static uint8_t *put(uint8_t *to, const uint8_t *frame, size_t size, const uint8_t *stream) {
    memcpy(to, frame, size);
    memcpy(to + 5, stream, 4);
    return to + size;
}

static bool send_all(int fd, const uint8_t *p, size_t left) {
    while (left) {
        ssize_t sent = write(fd, p, left);
        if (sent > 0) {
            p += sent;
            left -= sent;
        } else if (sent < 0 && errno == EAGAIN) {
            struct pollfd writable = {fd, POLLOUT, 0};
            poll(&writable, 1, 1000);
        } else {
            return false;
        }
    }
    return true;
}

static bool serve(Connection *c) {
    static int64_t id;
    ssize_t count = read(c->fd, c->input + c->length, INPUT - c->length);
    if (count <= 0)
        return false;
    c->length += count;
    uint8_t *p = c->input, *end = c->input + c->length, *to = output;
    if (!c->greeted) {
        if (c->length < sizeof PREFACE - 1)
            return true;
        if (memcmp(p, PREFACE, sizeof PREFACE - 1))
            return false;
        p += sizeof PREFACE - 1;
        c->greeted = true;
    }
    while (end - p >= FRAME_HEAD) {
        uint32_t length = p[0] << 16 | p[1] << 8 | p[2], type = p[3], flags = p[4];
        if (length > LARGEST_FRAME)
            return false;
        if ((uint32_t)(end - p) < FRAME_HEAD + length)
            break;
        if (type == DATA) {
            c->consumed += length;
            if (flags & END_STREAM) {
                to = put(to, HEAD, HEAD_SIZE, p + 5);
                to = put(to, MESSAGE, MESSAGE_SIZE, p + 5);
                ++id;
                memcpy(to - 8, &id, 8);
                to = put(to, TRAILERS, TRAILERS_SIZE, p + 5);
            }
        } else if (type == SETTINGS && !(flags & ACK)) {
            memcpy(to, "\0\0\0\x04\x01\0\0\0\0", FRAME_HEAD);
            to += FRAME_HEAD;
        } else if (type == PING && !(flags & ACK) && length == 8) {
            memcpy(to, "\0\0\x08\x06\x01\0\0\0\0", FRAME_HEAD);
            memcpy(to + FRAME_HEAD, p + FRAME_HEAD, 8);
            to += FRAME_HEAD + 8;
        }
        p += FRAME_HEAD + length;
    }
    if (c->consumed > CREDIT_AT) {
        uint32_t increment = htonl(c->consumed);
        memcpy(to, "\0\0\x04\x08\0\0\0\0\0", FRAME_HEAD);
        memcpy(to + FRAME_HEAD, &increment, 4);
        to += FRAME_HEAD + 4;
        c->consumed = 0;
    }
    c->length = end - p;
    memmove(c->input, p, c->length);
    return send_all(c->fd, output, to - output);
}

int main(int count, char **words) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(count > 1 ? atoi(words[1]) : 9021),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1024)) {
        perror("floor_grpc");
        return 1;
    }
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (c) {
                if (!serve(c)) {
                    close(c->fd);
                    free(c);
                }
                continue;
            }
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0 || !(c = calloc(1, sizeof *c)))
                continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            c->fd = fd;
            event.data.ptr = c;
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
            send_all(fd, HELLO, sizeof HELLO - 1);
        }
    }
}

/* Messages over associations that stand. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define ADDED 100    /* bytes at most that a record has beside its message */
#define SILENCE 0.25 /* seconds without an answer after which what is under way is lost */
#define PAUSE 2e-5   /* seconds between ping-pongs, in which every server goes to sleep: else the slow ones need not */
#define CHECKED_EVERY 64
#define EVENTS 64

static unsigned char message[16384], datagram[LARGEST_DATAGRAM];

/* --- records --- */

struct captured {
    unsigned char *record;
    size_t length;
};

static void capture(void *context, const unsigned char *bytes, size_t length)
{
    struct captured *captured = context;
    memcpy(captured->record, bytes, length);
    captured->length = length;
}

size_t protect(struct association *association, const void *text, size_t length, unsigned char *record)
{
    struct captured captured = {record, 0};
    struct datagrams before = association->datagrams;
    if (association->ssl == NULL) {
        memcpy(record, text, length);
        return length;
    }
    association->datagrams.transmit = capture;
    association->datagrams.context = &captured;
    if (SSL_write(association->ssl, text, (int)length) != (int)length)
        die("cannot protect a message");
    association->datagrams = before;
    return captured.length;
}

size_t unprotect(struct association *association, const unsigned char *bytes, size_t length, void *text, size_t size)
{
    if (association->ssl == NULL) {
        memcpy(text, bytes, length < size ? length : size);
        return length;
    }
    association->datagrams.given = bytes;
    association->datagrams.length = length;
    int result = SSL_read(association->ssl, text, (int)size);
    association->datagrams.given = NULL;
    return result > 0 ? (size_t)result : 0;
}

static size_t record_size(struct association *association)
{
    unsigned char record[sizeof message + ADDED];
    memset(message, 'm', load.size);
    return protect(association, message, load.size, record);
}

static void prepare(struct association *association, size_t count, size_t size)
{
    free(association->records);
    association->records = malloc(count * size);
    if (association->records == NULL)
        die("no memory for %zu records", count);
    for (size_t at = 0; at < count; at++)
        protect(association, message, load.size, association->records + at * size);
    association->next = 0;
    association->prepared = count;
}

static void release(void)
{
    for (size_t at = 0; at < load.count; at++) {
        free(load.associations[at].records);
        load.associations[at].records = NULL;
    }
}

/* What was left of earlier work is no answer to this. */
static void drain(int fd)
{
    while (recv(fd, datagram, sizeof datagram, 0) >= 0)
        ;
}

static void check(struct association *association, size_t length)
{
    static unsigned char text[16384];
    if (unprotect(association, datagram, length, text, sizeof text) != load.size || memcmp(text, message, load.size))
        die("something else came back than was sent");
}

/* --- echo --- */

static int send_next(struct association *association, size_t size)
{
    if (association->next == association->prepared)
        return 0;
    send(association->fd, association->records + association->next++ * size, size, 0);
    return 1;
}

/* Wait, in which the load's core does not sleep; for how long. */
static double pause_a_moment(void)
{
    double begun = seconds(), now = begun;
    while (load.spin && now - begun < PAUSE)
        now = seconds();
    return now - begun;
}

struct tally echo(unsigned long count, size_t window, double limit)
{
    struct tally tally = {0};
    struct epoll_event events[EVENTS];
    int poller = epoll_create1(EPOLL_CLOEXEC);
    size_t size = record_size(&load.associations[0]), each = count / load.count + 1;
    for (size_t at = 0; at < load.count; at++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = at};
        drain(load.associations[at].fd);
        prepare(&load.associations[at], each, size);
        epoll_ctl(poller, EPOLL_CTL_ADD, load.associations[at].fd, &event);
    }
    ready();
    double begun = seconds(), until = begun + limit, heard = begun, now = begun;
    double paused = 0;
    unsigned long sent = 0;
    size_t under_way = 0;
    while (tally.done + tally.lost < count && now < until) {
        for (; under_way < window && sent < count; under_way++)
            send_next(&load.associations[sent++ % load.count], size);
        int number = epoll_wait(poller, events, EVENTS, load.spin ? 0 : 1);
        now = seconds();
        for (int at = 0; at < number; at++) {
            struct association *association = &load.associations[events[at].data.u64];
            ssize_t length = recv(association->fd, datagram, sizeof datagram, 0);
            if (length != (ssize_t)size)
                continue; /* an error of ICMP, or a handshake's last words */
            if (tally.done++ % CHECKED_EVERY == 0)
                check(association, size);
            under_way -= under_way > 0;
            heard = now;
            if (window == 1)
                paused += pause_a_moment();
            if (sent < count) {
                send_next(&load.associations[sent++ % load.count], size);
                under_way++;
            }
        }
        if (now - heard > SILENCE) {
            tally.lost += under_way;
            under_way = 0;
            heard = now;
        }
    }
    tally.seconds = seconds() - begun - paused;
    tally.lost = sent - tally.done - under_way;
    close(poller);
    release();
    return tally;
}

/* --- one way --- */

/* The number that a short message tells, or -1 if it is not such a message. */
static long answer(struct association *association, const unsigned char *bytes, size_t length, const char *form)
{
    char text[SHORTEST + 1];
    long number;
    if (length == 0 || length >= SHORTEST + ADDED)
        return -1;
    size_t size = unprotect(association, bytes, length, text, SHORTEST);
    text[size] = '\0';
    return sscanf(text, form, &number) == 1 ? number : -1;
}

/* Look for an answer; the last that was there, or "known". Each is taken from "asked". */
static long look(struct association *association, long known, unsigned *asked)
{
    ssize_t length;
    while ((length = recv(association->fd, datagram, sizeof datagram, 0)) >= 0) {
        long number = answer(association, datagram, (size_t)length, "count %ld");
        if (number < 0)
            continue;
        known = number;
        *asked -= *asked > 0;
    }
    return known;
}

static long ask(struct association *association, double patience)
{
    unsigned char record[SHORTEST + ADDED];
    double until = seconds() + patience, again = 0;
    unsigned asked = 0;
    long known = -1;
    for (double now = seconds(); known < 0 && now < until; now = seconds()) {
        if (now >= again) {
            send(association->fd, record, protect(association, "count", 5, record), 0);
            again = now + SILENCE;
        }
        rest(association->fd);
        known = look(association, known, &asked);
    }
    if (known < 0) {
        die("the server does not say what has come");
    }
    return known;
}

/* The kernel cuts what a server without UDP_GRO receives into datagrams, and does so at the load's expense. */
static void send_block(struct association *association, const unsigned char *records, size_t number, size_t size)
{
    for (size_t at = 0, some; at < number; at += some) {
        some = number - at < MAX_BATCH ? number - at : MAX_BATCH;
        if (send_segments(association->fd, records + at * size, some * size, size, NULL) < 0 && errno != EAGAIN &&
            errno != ECONNREFUSED)
            die("cannot send: %m");
    }
}

struct tally send_in(unsigned long count, size_t window, double limit)
{
    struct tally tally = {0};
    struct association *association = &load.associations[0];
    size_t size = record_size(association), block = window / 2, blocks = count / block, question = 0;
    if (block == 0)
        die("a window of %zu is too small", window);
    size_t stride = block * size + SHORTEST;
    unsigned char *records = malloc(blocks * stride); /* each block, and a question behind it */
    if (records == NULL)
        die("no memory for %lu records", count);
    drain(association->fd);
    long before = ask(association, limit);
    for (size_t at = 0; at < blocks; at++) {
        for (size_t number = 0; number < block; number++)
            protect(association, message, load.size, records + at * stride + number * size);
        question = protect(association, "count", 5, records + at * stride + block * size);
    }
    ready();
    double begun = seconds(), until = begun + limit, now = begun;
    unsigned asked = 0;
    size_t sent = 0;
    for (; sent < blocks && now < until; sent++) {
        const unsigned char *records_of_block = records + sent * stride;
        send_block(association, records_of_block, block, size);
        send(association->fd, records_of_block + block * size, question, 0);
        asked++;
        for (double since = now = seconds(); asked > 1; now = seconds()) {
            look(association, 0, &asked);
            rest(association->fd);
            if (now - since > SILENCE)
                asked = 0; /* the question was lost, or its answer */
        }
    }
    tally.done = (unsigned long)(ask(association, limit) - before);
    tally.seconds = seconds() - begun;
    tally.lost = sent * block - tally.done;
    free(records);
    return tally;
}

struct tally take_out(unsigned long count, int gro, double limit)
{
    struct tally tally = {0};
    struct association *association = &load.associations[0];
    unsigned char request[SHORTEST + ADDED];
    char text[SHORTEST];
    unsigned long came = 0;
    size_t size = record_size(association), segment = 0;
    if (gro)
        enable_gro(association->fd);
    drain(association->fd);
    int length = snprintf(text, sizeof text, "send %lu", count);
    size_t request_length = protect(association, text, (size_t)length, request);
    ready();
    double begun = seconds(), heard = begun, now = begun;
    send(association->fd, request, request_length, 0);
    for (int sent = 0; !sent; now = seconds()) {
        ssize_t taken = gro ? receive_segments(association->fd, datagram, sizeof datagram, &segment, NULL, 0)
                            : recv(association->fd, datagram, sizeof datagram, 0);
        if (taken < 0) {
            rest(association->fd);
            if (now - heard > limit || (came > 0 && now - heard > SILENCE))
                break; /* the word that all is sent was lost, too */
            continue;
        }
        heard = now;
        if (taken >= (ssize_t)size) {
            if (came % CHECKED_EVERY == 0)
                check(association, size);
            came += (unsigned long)taken / size;
        }
        size_t rest_at = (size_t)taken / size * size; /* a short message, by itself or behind a batch */
        sent = answer(association, datagram + rest_at, (size_t)taken - rest_at, "sent %ld") >= 0;
    }
    tally.seconds = heard - begun;
    tally.done = count;
    tally.lost = count - came;
    if (came == 0)
        die("the server sent nothing");
    return tally;
}

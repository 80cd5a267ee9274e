/* Handshakes: of associations that stay, of such that end at once, and ClientHellos that lead to none. */
#include "load.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/rand.h>

#define WINDOW 8
#define SILENCE 0.25 /* seconds without an answer after which a ClientHello counts as lost */
#define LINGERING 64 /* closed associations whose sockets stay, so that a server's close_notify meets no closed port */
#define RANDOM_AT 27 /* of a ClientHello in its datagram: after the headers of record and message, and the version */

static int connected_socket(void)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)load.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = new_socket();
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("cannot connect: %m");
    return fd;
}

static void transmit(void *context, const unsigned char *datagram, size_t length)
{
    send(((struct association *)context)->fd, datagram, length, 0);
}

/* --- one handshake --- */

static void begin(struct association *association, SSL_SESSION *session)
{
    memset(association, 0, sizeof *association);
    association->fd = connected_socket();
    association->datagrams.transmit = transmit;
    association->datagrams.context = association;
    if (load.context == NULL) {
        send(association->fd, "count", 5, 0);
        return;
    }
    association->ssl = new_ssl(load.context, &association->datagrams, load.mtu);
    if (session && !SSL_set_session(association->ssl, session))
        die("cannot set a session");
    SSL_connect(association->ssl);
}

/* Take what has come; whether the handshake is complete. */
static int advance(struct association *association)
{
    unsigned char datagram[LARGEST_DATAGRAM];
    ssize_t length = recv(association->fd, datagram, sizeof datagram, 0);
    if (length < 0) /* nothing after all, or ICMP: a server that is not there yet */
        return 0;
    if (association->ssl == NULL)
        return 1;
    association->datagrams.given = datagram;
    association->datagrams.length = (size_t)length;
    ERR_clear_error();
    int result = SSL_connect(association->ssl), error = SSL_get_error(association->ssl, result);
    association->datagrams.given = NULL;
    if (result != 1 && error != SSL_ERROR_WANT_READ)
        die("a handshake failed");
    return result == 1;
}

static void repeat_what_is_due(struct association *association)
{
    if (association->ssl == NULL)
        send(association->fd, "count", 5, 0);
    else if (DTLSv1_handle_timeout(association->ssl) < 0)
        die("a handshake was not answered");
}

/* --- many --- */

/* Run handshakes, some at a time, "done" being told of each that is complete; how many are. */
static unsigned long run_handshakes(unsigned long count, int window, double limit,
                                    struct association *(*place)(void), SSL_SESSION *session,
                                    void (*done)(struct association *))
{
    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct association *pending[count < (unsigned long)window ? count + 1 : (unsigned long)window];
    unsigned long begun = 0, complete = 0;
    int under_way = 0;
    double until = seconds() + limit, look_at_timers = seconds() + 0.1;
    memset(pending, 0, sizeof pending);
    for (double now = seconds(); complete < count && now < until; now = seconds()) {
        for (; under_way < window && begun < count; begun++, under_way++) {
            size_t free_slot = 0;
            while (pending[free_slot])
                free_slot++;
            struct association *association = pending[free_slot] = place();
            begin(association, session);
            struct epoll_event event = {.events = EPOLLIN, .data.u64 = free_slot};
            epoll_ctl(poller, EPOLL_CTL_ADD, association->fd, &event);
        }
        struct epoll_event events[64];
        int number = epoll_wait(poller, events, 64, load.spin ? 0 : 20);
        for (int at = 0; at < number; at++) {
            struct association *association = pending[events[at].data.u64];
            if (!advance(association))
                continue;
            pending[events[at].data.u64] = NULL;
            epoll_ctl(poller, EPOLL_CTL_DEL, association->fd, NULL);
            under_way--;
            complete++;
            done(association);
        }
        if (now > look_at_timers) {
            look_at_timers = now + 0.1;
            for (size_t at = 0; at < sizeof pending / sizeof *pending; at++)
                if (pending[at])
                    repeat_what_is_due(pending[at]);
        }
    }
    close(poller);
    return complete;
}

static struct association *place_to_stay(void)
{
    return &load.associations[load.count++];
}

static void keep(struct association *association)
{
    (void)association;
}

void associate(size_t count, double limit)
{
    if (load.associations == NULL)
        load.associations = calloc(65536, sizeof *load.associations); /* they stay where they are: BIOs point to them */
    if (count > 65536)
        die("too many associations");
    size_t missing = count > load.count ? count - load.count : 0;
    if (run_handshakes(missing, WINDOW, limit, place_to_stay, NULL, keep) != missing) {
        die("not all of %zu associations came about in %g s", count, limit);
    }
}

/* --- those that end at once --- */

static struct association passing[LINGERING];
static struct tally tally;
static SSL_SESSION *kept; /* the first handshake's, to be resumed */

/* The place that was left longest ago: there are more than handshakes at a time. */
static struct association *place_to_pass(void)
{
    static unsigned long turn;
    for (;;) {
        struct association *association = &passing[turn++ % LINGERING];
        if (association->ssl && !SSL_is_init_finished(association->ssl))
            continue;
        if (association->ssl) {
            SSL_free(association->ssl);
            close(association->fd);
        }
        return association;
    }
}

static void part(struct association *association)
{
    tally.done++;
    tally.resumed += (unsigned long)SSL_session_reused(association->ssl);
    SSL_shutdown(association->ssl);
}

static void part_with_session(struct association *association)
{
    kept = SSL_get1_session(association->ssl);
    part(association);
}

struct tally shake_hands(unsigned long count, int window, int resume, double limit)
{
    if (window >= LINGERING)
        die("too many handshakes at a time");
    if (resume)
        run_handshakes(1, 1, limit, place_to_pass, NULL, part_with_session);
    ready();
    memset(&tally, 0, sizeof tally);
    double begun = seconds();
    run_handshakes(count, window, limit, place_to_pass, kept, part);
    tally.seconds = seconds() - begun;
    tally.lost = count - tally.done;
    SSL_SESSION_free(kept);
    kept = NULL;
    return tally;
}

/* --- ClientHellos --- */

static unsigned char hello[2048];
static size_t hello_length;

static void keep_hello(void *nothing, const unsigned char *datagram, size_t length)
{
    (void)nothing;
    memcpy(hello, datagram, length);
    hello_length = length;
}

static void make_hello(void)
{
    struct datagrams datagrams = {.transmit = keep_hello};
    SSL *ssl = new_ssl(load.context, &datagrams, load.mtu);
    SSL_connect(ssl);
    SSL_free(ssl);
    if (hello_length < RANDOM_AT + 32)
        die("OpenSSL made no ClientHello");
}

static void send_hello(int fd, unsigned long number)
{
    memcpy(hello + RANDOM_AT, &number, sizeof number); /* each is another client's */
    send(fd, hello, hello_length, 0);
}

struct tally send_hellos(unsigned long count, size_t ports, size_t window, double limit)
{
    struct tally flood = {0};
    unsigned char answer[LARGEST_DATAGRAM];
    int *sockets = calloc(ports, sizeof *sockets);
    for (size_t at = 0; at < ports; at++)
        sockets[at] = connected_socket();
    make_hello();
    RAND_bytes(hello + RANDOM_AT, 32);
    ready();
    double begun = seconds(), until = begun + limit, heard = begun, now = begun;
    unsigned long sent = 0, next = 0; /* "next" is the number of the first hello whose answer is waited for */
    while (next < count && now < until) {
        while (sent < count && sent < next + window) {
            send_hello(sockets[sent % ports], sent);
            sent++;
        }
        int fd = sockets[next % ports];
        now = seconds();
        if (recv(fd, answer, sizeof answer, 0) > RANDOM_AT && answer[0] == 22 && answer[13] == 3) {
            flood.done++; /* a HelloVerifyRequest, in the order in which they were asked for */
            next++;
            heard = now;
        } else if (now - heard > SILENCE) {
            flood.lost++;
            next++;
            heard = now - SILENCE * 0.9; /* those behind it may be lost too */
        } else {
            rest(fd);
        }
    }
    flood.seconds = seconds() - begun;
    flood.lost += sent - next;
    for (size_t at = 0; at < ports; at++)
        close(sockets[at]);
    free(sockets);
    return flood;
}

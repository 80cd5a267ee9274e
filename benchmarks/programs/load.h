/* The load: one program for all servers, so that all meet the same. load.c says how it is driven. */
#ifndef LOAD_H
#define LOAD_H

#include "common.h"

struct association {
    int fd;
    SSL *ssl; /* NULL over plain UDP */
    struct datagrams datagrams;
    unsigned char *records; /* protected before the clock runs, so that the load is quicker than any server */
    size_t next, prepared;
};

/* What is told of the work done. */
struct tally {
    unsigned long done, lost, resumed;
    double seconds;
};

struct load {
    int port, mtu, spin; /* spin: the load has a core of its own and never sleeps on it */
    size_t size;
    SSL_CTX *context; /* NULL for plain UDP */
    struct association *associations;
    size_t count;
};

extern struct load load;

double seconds(void);

/* Wait until a descriptor can be read, a moment at most; not at all where the load spins. */
void rest(int fd);

/* Say that all is prepared, and wait for the driver, which looks at the server's clock meanwhile. */
void ready(void);

/* --- load_associations.c --- */

/* Have "count" associations, each with its socket; handshakes with others are under way at the same time. */
void associate(size_t count, double limit);

/* Shake hands and say close_notify, again and again. */
struct tally shake_hands(unsigned long count, int window, int resume, double limit);

/* Send ClientHellos without a cookie from many ports; an answer to each is waited for. */
struct tally send_hellos(unsigned long count, size_t ports, size_t window, double limit);

/* --- load_traffic.c --- */

/* Protect a message, or copy it where nothing is protected; the length of the record. */
size_t protect(struct association *association, const void *message, size_t length, unsigned char *record);

/* The message in a datagram, in "message"; its length. */
size_t unprotect(struct association *association, const unsigned char *datagram, size_t length, void *message,
                 size_t size);

/* Echoes over all associations in turn, "window" of them under way; with a pause between them if that is one, which
 * does not count as time. */
struct tally echo(unsigned long count, size_t window, double limit);

/* Messages to the server over the first association; what has come is asked for in between, so that no more than
 * "window" are under way. */
struct tally send_in(unsigned long count, size_t window, double limit);

/* Messages of the server over the first association. */
struct tally take_out(unsigned long count, int gro, double limit);

#endif

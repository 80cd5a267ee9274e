/* What the server and the load have in common. Both are started by the driver, see ../processes.py.
 *
 * Messages of at least SHORTEST bytes are the work itself. Shorter ones tell a server what to do, each answered once:
 *
 *     count        how many long messages came on this association: "count 1234"
 *     send N       send N long messages, and then "sent N"
 */
#ifndef COMMON_H
#define COMMON_H

#include <netinet/in.h>
#include <sys/types.h>

#include <openssl/ssl.h>

#define SHORTEST 100
#define LARGEST_DATAGRAM 65536
#define MAX_BATCH 50 /* records of one sendmsg: below UDP_MAX_SEGMENTS, and 64 KiB with what is added to a message */

/* A BIO between an SSL and whoever moves its datagrams: one datagram is given to be read, what is written goes out by a
 * function. It holds nothing and copies once. */
struct datagrams {
    const unsigned char *given; /* the datagram that waits to be read; NULL if there is none */
    size_t length;
    void (*transmit)(void *context, const unsigned char *datagram, size_t length);
    void *context;
};

BIO *new_datagram_bio(struct datagrams *datagrams);

/* An SSL on such a BIO, with the MTU of both sides. */
SSL *new_ssl(SSL_CTX *context, struct datagrams *datagrams, int mtu);

/* A context for DTLS 1.2 and one suite, with P-256: all stacks do the same arithmetic. */
SSL_CTX *new_context(const SSL_METHOD *method, const char *cipher);

/* sendmsg() of a buffer that the kernel cuts into datagrams of "segment" bytes; "address" may be NULL. */
ssize_t send_segments(int fd, const void *buffer, size_t length, size_t segment, const struct sockaddr_in *address);

/* recvmsg() that may bring many datagrams of "segment" bytes at once, all of one sender. */
ssize_t receive_segments(int fd, void *buffer, size_t size, size_t *segment, struct sockaddr_in *address, int flags);

/* A UDP socket with a receive buffer of 4 MiB, or as much as the kernel allows. */
int new_socket(void);

void enable_gro(int fd);

/* End with a message, %m in it being the last error of the kernel. */
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

#endif

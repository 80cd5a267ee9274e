/* What the peers written in C have in common: their options, their UDP socket, and the talk once a handshake is complete.
 *
 * Every peer of this directory, in whatever language, is used alike: "peer client|server [options]". It prints
 *
 *     LISTENING 40000                                              (a server: the port it was given)
 *     ESTABLISHED DTLSv1.2 suite=... peer=... alpn=... resumed=0   (in the stack's own words)
 *     CLOSED                                                       (the other side said close_notify)
 *     FAILED ...                                                   (the handshake or the association, and why)
 *
 * with "?" for what the stack does not tell, and besides that each message that it receives. Each line of its standard
 * input is sent as a message; at the end of its input it says close_notify and ends. A server serves one client after
 * the other.
 */
#ifndef PEER_H
#define PEER_H

#include <stddef.h>

struct options {
    int server;               /* the role */
    const char *host;         /* --host: numeric, 127.0.0.1 if not given */
    int port;                 /* --port: 0 for a server that takes any */
    const char *name;         /* --name: the server name to ask for and to verify */
    const char *ca;           /* --ca: a PEM file, who is trusted; a server with it requires a certificate */
    const char *cert;         /* --cert: a PEM file, the own certificate and what leads to the root */
    const char *key;          /* --key: a PEM file */
    const char *ciphers;      /* --ciphers: one suite, in the stack's own notation */
    int mtu;                  /* --mtu: bytes of a datagram; 0 for the stack's own choice */
    const char *alpn;         /* --alpn: one application protocol */
    const char *psk_identity; /* --psk-identity; with it only PSK suites */
    unsigned char psk[64];    /* --psk-key: in hexadecimal */
    size_t psk_length;
    int resume;               /* --resume: a client connects, closes, and connects again with the session */
};

/* One association, as a stack gives it. Each function gives a negative number for what went wrong, except PEER_AGAIN. */
struct association {
    void *state;
    int (*receive)(void *state, unsigned char *buffer, size_t size); /* one message's length, 0 for close_notify */
    int (*send)(void *state, const unsigned char *message, size_t length);
    void (*close)(void *state); /* say close_notify */
};

enum { PEER_AGAIN = -1000000 }; /* there is no message yet */

void parse_options(struct options *options, int argc, char **argv);

/* A UDP socket: bound (a server's, which prints LISTENING) or connected (a client's). */
int open_socket(const struct options *options);

/* Wait for a datagram at a server's socket, and connect the socket to its sender. */
void await_client(int fd);

/* The socket of a server is no longer connected to its client. */
void forget_client(int fd);

/* Print what was negotiated; resumed is negative if the stack does not tell. */
void established(const char *version, const char *suite, const char *peer, const char *alpn, int resumed);

/* Carry messages between the standard streams and the association until one side closes. Ends the process with
 * the standard input. */
void talk(int fd, const struct association *association);

/* Print FAILED and what is said. */
void failed(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Print what is said on standard error and end: the test that started this is wrong. */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif

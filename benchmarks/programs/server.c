/* A DTLS server on OpenSSL as a C programmer writes it: one UDP socket, an SSL for each peer, told apart by address.
 *
 *     server echo|sink one|batch single|many CERTIFICATE KEY CIPHER MTU SIZE
 *
 * An echo server sends long messages back; a sink counts them. A server of batches receives by UDP_GRO and sends by
 * UDP_SEGMENT. Whether there is one peer at a time or many is all the same to it. A peer without a cookie costs no state.
 */
#include "common.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#define BUCKETS (1 << 14)
#define PATIENCE_MICROSECONDS 250000 /* how long a datagram is waited for before timers are looked at */

struct peer {
    struct peer *next; /* in its bucket */
    struct peer *next_handshake, *previous_handshake;
    struct sockaddr_in address;
    SSL *ssl;
    unsigned long received;
};

static struct peer *buckets[BUCKETS];
static struct peer handshakes = {.next_handshake = &handshakes, .previous_handshake = &handshakes};
static int fd, echo, batched, mtu;
static size_t message_size;
static SSL_CTX *context;
static SSL *unproved; /* judges ClientHellos, and becomes the SSL of the first peer with a valid cookie */

/* One datagram is dealt with at a time: its sender is whom everything is sent to. */
static struct sockaddr_in current;
static struct datagrams datagrams;

/* Records that wait to be sent at once. */
static unsigned char batch[LARGEST_DATAGRAM];
static size_t batch_length;
static int batching;

static void transmit(void *nothing, const unsigned char *datagram, size_t length)
{
    (void)nothing;
    if (batching && batch_length + length <= sizeof batch) {
        memcpy(batch + batch_length, datagram, length);
        batch_length += length;
        return;
    }
    sendto(fd, datagram, length, 0, (struct sockaddr *)&current, sizeof current);
}

/* --- cookies --------------------------------------------------------------------------------------------------- */

static unsigned char secret[32];

static int make_cookie(SSL *ssl, unsigned char *cookie, unsigned int *length)
{
    (void)ssl;
    unsigned char identity[6];
    memcpy(identity, &current.sin_addr, 4);
    memcpy(identity + 4, &current.sin_port, 2);
    return HMAC(EVP_sha256(), secret, sizeof secret, identity, sizeof identity, cookie, length) != NULL;
}

static int verify_cookie(SSL *ssl, const unsigned char *cookie, unsigned int length)
{
    unsigned char expected[EVP_MAX_MD_SIZE];
    unsigned int expected_length;
    return make_cookie(ssl, expected, &expected_length) && length == expected_length &&
           CRYPTO_memcmp(cookie, expected, length) == 0;
}

/* --- peers ----------------------------------------------------------------------------------------------------- */

static struct peer **bucket_of(const struct sockaddr_in *address)
{
    uint32_t mixed = (address->sin_addr.s_addr ^ ((uint32_t)address->sin_port << 16 | address->sin_port)) * 2654435769u;
    return &buckets[mixed >> 18];
}

static struct peer *find(const struct sockaddr_in *address)
{
    struct peer *peer = *bucket_of(address);
    while (peer && (peer->address.sin_port != address->sin_port ||
                    peer->address.sin_addr.s_addr != address->sin_addr.s_addr))
        peer = peer->next;
    return peer;
}

static void end_of_handshake(struct peer *peer)
{
    if (peer->next_handshake == NULL)
        return;
    peer->next_handshake->previous_handshake = peer->previous_handshake;
    peer->previous_handshake->next_handshake = peer->next_handshake;
    peer->next_handshake = peer->previous_handshake = NULL;
}

static void forget(struct peer *peer)
{
    struct peer **link = bucket_of(&peer->address);
    while (*link != peer)
        link = &(*link)->next;
    *link = peer->next;
    end_of_handshake(peer);
    SSL_free(peer->ssl);
    free(peer);
}

static struct peer *remember(SSL *ssl)
{
    struct peer *peer = calloc(1, sizeof *peer), **bucket = bucket_of(&current);
    if (peer == NULL)
        die("no memory for a peer");
    peer->address = current;
    peer->ssl = ssl;
    peer->next = *bucket;
    *bucket = peer;
    peer->next_handshake = handshakes.next_handshake;
    peer->previous_handshake = &handshakes;
    peer->next_handshake->previous_handshake = handshakes.next_handshake = peer;
    return peer;
}

static void judge_hello(void)
{
    static BIO_ADDR *ignored;
    if (ignored == NULL)
        ignored = BIO_ADDR_new();
    if (unproved == NULL)
        unproved = new_ssl(context, &datagrams, mtu);
    ERR_clear_error();
    int judged = DTLSv1_listen(unproved, ignored);
    if (judged < 1) {
        if (judged < 0) {
            SSL_free(unproved);
            unproved = NULL;
        }
        return;
    }
    struct peer *peer = remember(unproved);
    unproved = NULL;
    if (SSL_accept(peer->ssl) == 1)
        end_of_handshake(peer);
}

static void repeat_what_is_due(void)
{
    for (struct peer *peer = handshakes.next_handshake, *next; peer != &handshakes; peer = next) {
        next = peer->next_handshake;
        current = peer->address;
        if (DTLSv1_handle_timeout(peer->ssl) < 0)
            forget(peer);
    }
}

/* --- messages -------------------------------------------------------------------------------------------------- */

static void flush(size_t segment)
{
    if (batch_length > 0 && send_segments(fd, batch, batch_length, segment, &current) < 0)
        die("cannot send a batch: %m");
    batch_length = 0;
}

static void send_many(SSL *ssl, unsigned long count)
{
    static unsigned char message[16384];
    memset(message, 'm', message_size);
    batching = batched;
    for (unsigned long at = 0, held = 0; at < count; at++) {
        if (SSL_write(ssl, message, (int)message_size) <= 0)
            die("cannot protect a message");
        if (batching && (++held == MAX_BATCH || at == count - 1)) {
            flush(batch_length / held);
            held = 0;
        }
    }
    batching = 0;
}

static void obey(struct peer *peer, char *words, int length)
{
    char answer[SHORTEST];
    unsigned long count;
    words[length] = '\0';
    if (sscanf(words, "send %lu", &count) == 1) {
        send_many(peer->ssl, count);
        snprintf(answer, sizeof answer, "sent %lu", count);
    } else {
        snprintf(answer, sizeof answer, "count %lu", peer->received);
    }
    SSL_write(peer->ssl, answer, (int)strlen(answer));
}

static void receive(const unsigned char *datagram, size_t length)
{
    static unsigned char message[16385];
    struct peer *peer = find(&current);
    datagrams.given = datagram;
    datagrams.length = length;
    if (peer == NULL) {
        judge_hello();
        return;
    }
    if (peer->next_handshake) {
        ERR_clear_error();
        if (SSL_accept(peer->ssl) != 1)
            return;
        end_of_handshake(peer);
    }
    do {
        int size = SSL_read(peer->ssl, message, sizeof message - 1);
        if (size <= 0)
            break;
        if (size < SHORTEST) {
            obey(peer, (char *)message, size);
            continue;
        }
        peer->received++;
        if (echo)
            SSL_write(peer->ssl, message, size);
    } while (SSL_has_pending(peer->ssl)); /* a datagram may hold several records */
    if (SSL_get_shutdown(peer->ssl) & SSL_RECEIVED_SHUTDOWN) {
        SSL_shutdown(peer->ssl);
        forget(peer);
    }
}

static void serve(void)
{
    static unsigned char buffer[LARGEST_DATAGRAM];
    for (;;) {
        size_t segment = 0;
        socklen_t size = sizeof current;
        ssize_t length = batched ? receive_segments(fd, buffer, sizeof buffer, &segment, &current, 0)
                                 : recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&current, &size);
        if (length < 0) {
            repeat_what_is_due();
            continue;
        }
        if (!batched)
            segment = (size_t)length;
        struct sockaddr_in sender = current;
        for (size_t at = 0; at < (size_t)length; at += segment, current = sender)
            receive(buffer + at, (size_t)length - at < segment ? (size_t)length - at : segment);
    }
}

int main(int argc, char **argv)
{
    if (argc != 9)
        die("usage: %s echo|sink one|batch single|many CERTIFICATE KEY CIPHER MTU SIZE", argv[0]);
    echo = strcmp(argv[1], "echo") == 0;
    batched = strcmp(argv[2], "batch") == 0;
    mtu = atoi(argv[7]);
    message_size = (size_t)atoi(argv[8]);
    RAND_bytes(secret, sizeof secret);
    context = new_context(DTLS_server_method(), argv[6]);
    if (SSL_CTX_use_certificate_chain_file(context, argv[4]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, argv[5], SSL_FILETYPE_PEM) != 1)
        die("cannot use the certificate or the key");
    SSL_CTX_set_session_id_context(context, (const unsigned char *)"benchmark", 9);
    SSL_CTX_set_options(context, SSL_OP_COOKIE_EXCHANGE);
    SSL_CTX_set_cookie_generate_cb(context, make_cookie);
    SSL_CTX_set_cookie_verify_cb(context, verify_cookie);
    datagrams.transmit = transmit;

    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct timeval patience = {.tv_usec = PATIENCE_MICROSECONDS};
    fd = new_socket();
    if (bind(fd, (struct sockaddr *)&address, size) != 0 || getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        die("cannot bind: %m");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (batched)
        enable_gro(fd);
    printf("LISTENING %d %s\n", ntohs(address.sin_port), OpenSSL_version(OPENSSL_VERSION));
    fflush(stdout);
    serve();
}

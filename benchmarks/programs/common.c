/* What common.h describes. */
#include "common.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/bio.h>
#include <openssl/err.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define RECEIVE_BUFFER (4 << 20)

void die(const char *format, ...)
{
    int error = errno;
    va_list arguments;
    ERR_print_errors_fp(stderr);
    errno = error; /* for %m */
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(2);
}

static int read_given(BIO *bio, char *buffer, int size)
{
    struct datagrams *datagrams = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (datagrams->given == NULL) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t length = datagrams->length < (size_t)size ? datagrams->length : (size_t)size;
    memcpy(buffer, datagrams->given, length);
    datagrams->given = NULL;
    return (int)length;
}

static int transmit(BIO *bio, const char *buffer, int length)
{
    struct datagrams *datagrams = BIO_get_data(bio);
    datagrams->transmit(datagrams->context, (const unsigned char *)buffer, (size_t)length);
    return length;
}

static long control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH; /* all else is answered by "no", which for an error or a timeout is the truth */
}

BIO *new_datagram_bio(struct datagrams *datagrams)
{
    static BIO_METHOD *method;
    if (method == NULL) {
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "datagrams");
        BIO_meth_set_read(method, read_given);
        BIO_meth_set_write(method, transmit);
        BIO_meth_set_ctrl(method, control);
    }
    BIO *bio = BIO_new(method);
    if (bio == NULL)
        die("no memory for a BIO");
    BIO_set_data(bio, datagrams);
    BIO_set_init(bio, 1);
    return bio;
}

SSL *new_ssl(SSL_CTX *context, struct datagrams *datagrams, int mtu)
{
    SSL *ssl = SSL_new(context);
    if (ssl == NULL)
        die("no memory for an SSL");
    BIO *bio = new_datagram_bio(datagrams);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_options(ssl, SSL_OP_NO_QUERY_MTU);
    DTLS_set_link_mtu(ssl, mtu);
    return ssl;
}

SSL_CTX *new_context(const SSL_METHOD *method, const char *cipher)
{
    SSL_CTX *context = SSL_CTX_new(method);
    if (context == NULL || !SSL_CTX_set_min_proto_version(context, DTLS1_2_VERSION) ||
        !SSL_CTX_set_max_proto_version(context, DTLS1_2_VERSION) || !SSL_CTX_set_cipher_list(context, cipher) ||
        !SSL_CTX_set1_groups_list(context, "P-256"))
        die("cannot make a context for %s", cipher);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    return context;
}

ssize_t send_segments(int fd, const void *buffer, size_t length, size_t segment, const struct sockaddr_in *address)
{
    struct iovec part = {(void *)buffer, length};
    union {
        char bytes[CMSG_SPACE(sizeof(uint16_t))];
        struct cmsghdr align;
    } ancillary = {{0}};
    struct msghdr message = {
        .msg_name = (void *)address, .msg_namelen = address ? sizeof *address : 0,
        .msg_iov = &part, .msg_iovlen = 1,
        .msg_control = &ancillary, .msg_controllen = sizeof ancillary.bytes,
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = IPPROTO_UDP;
    header->cmsg_type = UDP_SEGMENT;
    header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    uint16_t size = (uint16_t)segment;
    memcpy(CMSG_DATA(header), &size, sizeof size);
    return sendmsg(fd, &message, 0);
}

ssize_t receive_segments(int fd, void *buffer, size_t size, size_t *segment, struct sockaddr_in *address, int flags)
{
    struct iovec part = {buffer, size};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } ancillary;
    struct msghdr message = {
        .msg_name = address, .msg_namelen = address ? sizeof *address : 0,
        .msg_iov = &part, .msg_iovlen = 1,
        .msg_control = &ancillary, .msg_controllen = sizeof ancillary.bytes,
    };
    ssize_t length = recvmsg(fd, &message, flags);
    if (length < 0)
        return length;
    *segment = (size_t)length;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
        if (header->cmsg_level == IPPROTO_UDP && header->cmsg_type == UDP_GRO) {
            int number;
            memcpy(&number, CMSG_DATA(header), sizeof number);
            *segment = (size_t)number;
        }
    return length;
}

int new_socket(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), size = RECEIVE_BUFFER;
    if (fd < 0)
        die("no socket: %m");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    return fd;
}

void enable_gro(int fd)
{
    int on = 1;
    if (setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on) != 0)
        die("this kernel has no UDP_GRO: %m");
}

/* What peer.h describes. */
#include "peer.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void say(FILE *stream, const char *prefix, const char *format, va_list arguments)
{
    fputs(prefix, stream);
    vfprintf(stream, format, arguments);
    fputc('\n', stream);
    fflush(stream);
}

void failed(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(stdout, "FAILED ", format, arguments);
    va_end(arguments);
}

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(stderr, "", format, arguments);
    va_end(arguments);
    exit(2);
}

static size_t from_hexadecimal(const char *text, unsigned char *bytes, size_t size)
{
    size_t length = strlen(text) / 2;
    if (strlen(text) % 2 != 0 || length > size)
        die("--psk-key takes up to %zu bytes in hexadecimal", size);
    for (size_t i = 0; i < length; i++) {
        unsigned int byte;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1)
            die("--psk-key is not hexadecimal");
        bytes[i] = (unsigned char)byte;
    }
    return length;
}

void parse_options(struct options *options, int argc, char **argv)
{
    static const struct option known[] = {
        {"host", required_argument, NULL, 'h'},    {"port", required_argument, NULL, 'p'},
        {"name", required_argument, NULL, 'n'},    {"ca", required_argument, NULL, 'a'},
        {"cert", required_argument, NULL, 'c'},    {"key", required_argument, NULL, 'k'},
        {"ciphers", required_argument, NULL, 's'}, {"mtu", required_argument, NULL, 'm'},
        {"alpn", required_argument, NULL, 'l'},    {"psk-identity", required_argument, NULL, 'i'},
        {"psk-key", required_argument, NULL, 'x'}, {"resume", no_argument, NULL, 'r'},
        {NULL, 0, NULL, 0},
    };
    memset(options, 0, sizeof *options);
    options->host = "127.0.0.1";
    if (argc < 2 || (strcmp(argv[1], "client") != 0 && strcmp(argv[1], "server") != 0))
        die("usage: %s client|server [options]", argv[0]);
    options->server = strcmp(argv[1], "server") == 0;
    for (int option; (option = getopt_long(argc - 1, argv + 1, "", known, NULL)) != -1;) {
        switch (option) {
        case 'h': options->host = optarg; break;
        case 'p': options->port = atoi(optarg); break;
        case 'n': options->name = optarg; break;
        case 'a': options->ca = optarg; break;
        case 'c': options->cert = optarg; break;
        case 'k': options->key = optarg; break;
        case 's': options->ciphers = optarg; break;
        case 'm': options->mtu = atoi(optarg); break;
        case 'l': options->alpn = optarg; break;
        case 'i': options->psk_identity = optarg; break;
        case 'x': options->psk_length = from_hexadecimal(optarg, options->psk, sizeof options->psk); break;
        case 'r': options->resume = 1; break;
        default: exit(2);
        }
    }
}

static socklen_t parse_address(const char *host, int port, struct sockaddr_storage *address)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
    memset(address, 0, sizeof *address);
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1)
        die("not a numeric address: %s", host);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    return sizeof *v6;
}

static int bound_socket(struct sockaddr_storage *address, socklen_t length)
{
    int on = 1, fd = socket(address->ss_family, SOCK_DGRAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)address, length) != 0 ||
        getsockname(fd, (struct sockaddr *)address, &length) != 0)
        die("cannot bind");
    return fd;
}

int open_socket(const struct options *options)
{
    struct sockaddr_storage address;
    socklen_t length = parse_address(options->host, options->port, &address);
    if (!options->server) {
        int fd = socket(address.ss_family, SOCK_DGRAM, 0);
        if (connect(fd, (struct sockaddr *)&address, length) != 0)
            die("cannot connect");
        return fd;
    }
    /* Linux takes a port that was not asked for by its number away again when forget_client() ends a connection: so
     * one socket is given a port, and another asks for it. */
    int first = bound_socket(&address, length);
    int fd = bound_socket(&address, length);
    close(first);
    printf("LISTENING %d\n", ntohs(((struct sockaddr_in *)&address)->sin_port)); /* at the same place in IPv6's */
    fflush(stdout);
    return fd;
}

void await_client(int fd)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    char byte;
    /* The first attempts may give the error that the last datagram to the client before left behind. */
    while (recvfrom(fd, &byte, 1, MSG_PEEK, (struct sockaddr *)&address, &length) < 0 ||
           connect(fd, (struct sockaddr *)&address, length) != 0)
        length = sizeof address;
}

void forget_client(int fd)
{
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    connect(fd, &nobody, sizeof nobody);
}

void established(const char *version, const char *suite, const char *peer, const char *alpn, int resumed)
{
    printf("ESTABLISHED %s suite=%s peer=%s alpn=%s resumed=%c\n", version, suite, peer ? peer : "",
           alpn ? alpn : "", resumed < 0 ? '?' : '0' + resumed);
    fflush(stdout);
}

/* Print the messages that have come; whether the association stands. */
static int receive_all(const struct association *association)
{
    unsigned char buffer[16384];
    int length;
    while ((length = association->receive(association->state, buffer, sizeof buffer)) > 0) {
        fwrite(buffer, 1, (size_t)length, stdout);
        fflush(stdout);
    }
    if (length == PEER_AGAIN)
        return 1;
    if (length < 0) {
        failed("to receive: %d", length);
        return 0;
    }
    puts("CLOSED");
    fflush(stdout);
    association->close(association->state);
    return 0;
}

void talk(int fd, const struct association *association)
{
    struct pollfd ready[] = {{.fd = fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    char line[4096];
    while (receive_all(association)) {
        poll(ready, 2, 200); /* a datagram may hold several messages, of which the stack keeps the later ones */
        if (ready[1].revents == 0)
            continue;
        ssize_t length = read(STDIN_FILENO, line, sizeof line);
        if (length <= 0) {
            association->close(association->state);
            exit(0);
        }
        if (association->send(association->state, (unsigned char *)line, (size_t)length) < 0) {
            failed("to send");
            return;
        }
    }
}

/* A DTLS client and server on wolfSSL 5.5. See peer.h. */
#include "peer.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

/* Suites with a PSK. */
#define PSK_SUITES \
    "ECDHE-PSK-AES128-GCM-SHA256:ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES128-GCM-SHA256:PSK-CHACHA20-POLY1305"

static struct options options;
static WOLFSSL_CTX *context;

static void check(int result, const char *what)
{
    if (result != WOLFSSL_SUCCESS)
        die("%s: %d", what, result);
}

static unsigned int psk_of_client(WOLFSSL *ssl, const char *hint, char *identity, unsigned int identity_size,
                                  unsigned char *psk, unsigned int size)
{
    (void)ssl, (void)hint;
    if (options.psk_length > size)
        return 0;
    snprintf(identity, identity_size, "%s", options.psk_identity);
    memcpy(psk, options.psk, options.psk_length);
    return (unsigned int)options.psk_length;
}

static unsigned int psk_for_server(WOLFSSL *ssl, const char *identity, unsigned char *psk, unsigned int size)
{
    (void)ssl;
    if (strcmp(identity, options.psk_identity) != 0 || options.psk_length > size)
        return 0;
    memcpy(psk, options.psk, options.psk_length);
    return (unsigned int)options.psk_length;
}

static void configure(void)
{
    wolfSSL_Init();
    context = wolfSSL_CTX_new(options.server ? wolfDTLSv1_2_server_method() : wolfDTLSv1_2_client_method());
    if (options.ca)
        check(wolfSSL_CTX_load_verify_locations(context, options.ca, NULL), options.ca);
    if (options.server && !options.ca)
        wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_NONE, NULL);
    else
        wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_PEER | WOLFSSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    if (options.cert) {
        check(wolfSSL_CTX_use_certificate_chain_file(context, options.cert), options.cert);
        check(wolfSSL_CTX_use_PrivateKey_file(context, options.key, WOLFSSL_FILETYPE_PEM), options.key);
    }
    if (options.ciphers || options.psk_identity) {
        const char *suites = options.ciphers ? options.ciphers : PSK_SUITES;
        check(wolfSSL_CTX_set_cipher_list(context, suites), suites);
    }
    if (options.psk_identity && options.server)
        wolfSSL_CTX_set_psk_server_callback(context, psk_for_server);
    else if (options.psk_identity)
        wolfSSL_CTX_set_psk_client_callback(context, psk_of_client);
    if (options.mtu) {
#ifdef WOLFSSL_DTLS_MTU
        check(wolfSSL_CTX_dtls_set_mtu(context, (unsigned short)options.mtu), "MTU");
#else
        die("this wolfSSL was built without WOLFSSL_DTLS_MTU");
#endif
    }
    if (!options.server)
        check(wolfSSL_CTX_UseSessionTicket(context), "tickets");
}

static WOLFSSL *new_association(int fd)
{
    WOLFSSL *ssl = wolfSSL_new(context);
    check(wolfSSL_set_dtls_fd_connected(ssl, fd), "socket");
    if (options.name) {
        check(wolfSSL_UseSNI(ssl, WOLFSSL_SNI_HOST_NAME, options.name, (unsigned short)strlen(options.name)), "SNI");
        check(wolfSSL_check_domain_name(ssl, options.name), options.name);
    }
    if (options.alpn)
        check(wolfSSL_UseALPN(ssl, (char *)options.alpn, (unsigned int)strlen(options.alpn),
                              WOLFSSL_ALPN_FAILED_ON_MISMATCH),
              "ALPN");
    return ssl;
}

static int receive(void *state, unsigned char *buffer, size_t size)
{
    int result = wolfSSL_read(state, buffer, (int)size);
    if (result > 0)
        return result;
    switch (result = wolfSSL_get_error(state, result)) {
    case WOLFSSL_ERROR_WANT_READ: return PEER_AGAIN;
    case WOLFSSL_ERROR_ZERO_RETURN: return 0;
    default: return result < 0 ? result : -result;
    }
}

static int transmit(void *state, const unsigned char *message, size_t length)
{
    return wolfSSL_write(state, message, (int)length) > 0 ? 0 : -1;
}

static void say_goodbye(void *state)
{
    wolfSSL_shutdown(state);
}

static void set_blocking(WOLFSSL *ssl, int blocking)
{
    int fd = wolfSSL_get_fd(ssl), flags = fcntl(fd, F_GETFL);
    wolfSSL_dtls_set_using_nonblock(ssl, !blocking);
    fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

/* Whether the handshake completed. wolfSSL looks after the time itself while the socket blocks. */
static int shake_hands(WOLFSSL *ssl)
{
    WOLFSSL_X509 *peer;
    char *alpn = NULL;
    unsigned short length = 0;

    set_blocking(ssl, 1);
    int result = options.server ? wolfSSL_accept(ssl) : wolfSSL_connect(ssl);
    if (result != WOLFSSL_SUCCESS) {
        char words[WOLFSSL_MAX_ERROR_SZ];
        int error = wolfSSL_get_error(ssl, result);
        failed("%d %s", error, wolfSSL_ERR_error_string((unsigned long)error, words));
        return 0;
    }
    peer = wolfSSL_get_peer_certificate(ssl);
    wolfSSL_ALPN_GetProtocol(ssl, &alpn, &length);
    established(wolfSSL_get_version(ssl), wolfSSL_get_cipher_name(ssl),
                peer ? wolfSSL_X509_get_subjectCN(peer) : NULL, alpn, wolfSSL_session_reused(ssl));
    wolfSSL_X509_free(peer);
    set_blocking(ssl, 0);
    return 1;
}

static void talk_over(WOLFSSL *ssl, int fd)
{
    struct association association = {.state = ssl, .receive = receive, .send = transmit, .close = say_goodbye};
    talk(fd, &association);
}

_Noreturn static void serve(int fd)
{
    for (;;) {
        await_client(fd);
        WOLFSSL *ssl = new_association(fd);
        if (shake_hands(ssl))
            talk_over(ssl, fd);
        set_blocking(ssl, 1);
        wolfSSL_free(ssl);
        forget_client(fd);
    }
}

static int visit(int fd)
{
    WOLFSSL *ssl = new_association(fd);
    if (!shake_hands(ssl))
        return 1;
    if (options.resume) {
        WOLFSSL_SESSION *session = wolfSSL_get1_session(ssl);
        say_goodbye(ssl);
        wolfSSL_free(ssl);
        fd = open_socket(&options);
        ssl = new_association(fd);
        check(wolfSSL_set_session(ssl, session), "session");
        if (!shake_hands(ssl))
            return 1;
    }
    talk_over(ssl, fd);
    return 0;
}

int main(int argc, char **argv)
{
    parse_options(&options, argc, argv);
    int fd = open_socket(&options);
    configure();
    if (options.server)
        serve(fd);
    return visit(fd);
}

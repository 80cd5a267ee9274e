/* A DTLS client and server on Mbed TLS 2.28. See peer.h. */
#include "peer.h"

#include <string.h>
#include <sys/socket.h>

#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_cookie.h>
#include <mbedtls/ssl_ticket.h>
#include <mbedtls/timing.h>

static struct options options;
static mbedtls_net_context net;
static mbedtls_timing_delay_context timer;
static mbedtls_entropy_context entropy;
static mbedtls_ctr_drbg_context random_generator;
static mbedtls_ssl_config config;
static mbedtls_ssl_context ssl;
static mbedtls_ssl_cookie_ctx cookies;
static mbedtls_ssl_ticket_context tickets;
static mbedtls_x509_crt trusted, own;
static mbedtls_pk_context key;

static const char *words(int error)
{
    static char text[200];
    mbedtls_strerror(error, text, sizeof text);
    return text;
}

static void check(int result, const char *what)
{
    if (result != 0)
        die("%s: %s", what, words(result));
}

static void configure_credentials(void)
{
    static unsigned char identity[256];
    if (options.ca) {
        check(mbedtls_x509_crt_parse_file(&trusted, options.ca), options.ca);
        mbedtls_ssl_conf_ca_chain(&config, &trusted, NULL);
    }
    if (options.server)
        mbedtls_ssl_conf_authmode(&config, options.ca ? MBEDTLS_SSL_VERIFY_REQUIRED : MBEDTLS_SSL_VERIFY_NONE);
    if (options.cert) {
        check(mbedtls_x509_crt_parse_file(&own, options.cert), options.cert);
        check(mbedtls_pk_parse_keyfile(&key, options.key, NULL), options.key);
        check(mbedtls_ssl_conf_own_cert(&config, &own, &key), "own certificate");
    }
    if (options.psk_identity) {
        size_t length = strlen(options.psk_identity);
        memcpy(identity, options.psk_identity, length);
        check(mbedtls_ssl_conf_psk(&config, options.psk, options.psk_length, identity, length), "PSK");
    }
}

/* The suites to negotiate: the one that was asked for, or all that need a PSK and no RSA. NULL for Mbed TLS's own choice. */
static const int *suites(void)
{
    static int chosen[200];
    size_t count = 0;
    if (options.ciphers) {
        chosen[0] = mbedtls_ssl_get_ciphersuite_id(options.ciphers);
        return chosen;
    }
    if (!options.psk_identity)
        return NULL;
    for (const int *suite = mbedtls_ssl_list_ciphersuites(); *suite && count < 199; suite++) {
        const char *name = mbedtls_ssl_get_ciphersuite_name(*suite);
        if (strstr(name, "PSK") && !strstr(name, "RSA"))
            chosen[count++] = *suite;
    }
    return chosen;
}

static void configure(void)
{
    static const char *protocols[2];
    int role = options.server ? MBEDTLS_SSL_IS_SERVER : MBEDTLS_SSL_IS_CLIENT;

    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&random_generator);
    mbedtls_ssl_config_init(&config);
    mbedtls_ssl_init(&ssl);
    mbedtls_x509_crt_init(&trusted);
    mbedtls_x509_crt_init(&own);
    mbedtls_pk_init(&key);
    check(mbedtls_ctr_drbg_seed(&random_generator, mbedtls_entropy_func, &entropy, NULL, 0), "seed");
    check(mbedtls_ssl_config_defaults(&config, role, MBEDTLS_SSL_TRANSPORT_DATAGRAM, MBEDTLS_SSL_PRESET_DEFAULT),
          "defaults");
    mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random_generator);
    mbedtls_ssl_conf_min_version(&config, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
    configure_credentials();
    if (suites())
        mbedtls_ssl_conf_ciphersuites(&config, suites());
    if (options.alpn) {
        protocols[0] = options.alpn;
        check(mbedtls_ssl_conf_alpn_protocols(&config, protocols), "ALPN");
    }
    if (options.server) {
        mbedtls_ssl_cookie_init(&cookies);
        check(mbedtls_ssl_cookie_setup(&cookies, mbedtls_ctr_drbg_random, &random_generator), "cookies");
        mbedtls_ssl_conf_dtls_cookies(&config, mbedtls_ssl_cookie_write, mbedtls_ssl_cookie_check, &cookies);
        mbedtls_ssl_ticket_init(&tickets);
        check(mbedtls_ssl_ticket_setup(&tickets, mbedtls_ctr_drbg_random, &random_generator,
                                       MBEDTLS_CIPHER_AES_256_GCM, 3600),
              "tickets");
        mbedtls_ssl_conf_session_tickets_cb(&config, mbedtls_ssl_ticket_write, mbedtls_ssl_ticket_parse, &tickets);
    }
    check(mbedtls_ssl_setup(&ssl, &config), "setup");
    if (options.name)
        check(mbedtls_ssl_set_hostname(&ssl, options.name), options.name);
    if (options.mtu)
        mbedtls_ssl_set_mtu(&ssl, (uint16_t)options.mtu);
    mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, mbedtls_net_recv_timeout);
    mbedtls_ssl_set_timer_cb(&ssl, &timer, mbedtls_timing_set_delay, mbedtls_timing_get_delay);
}

static int receive(void *state, unsigned char *buffer, size_t size)
{
    (void)state;
    int result = mbedtls_ssl_read(&ssl, buffer, size);
    if (result == MBEDTLS_ERR_SSL_TIMEOUT || result == MBEDTLS_ERR_SSL_WANT_READ)
        return PEER_AGAIN;
    return result == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY ? 0 : result;
}

static int transmit(void *state, const unsigned char *message, size_t length)
{
    (void)state;
    return mbedtls_ssl_write(&ssl, message, length);
}

static void say_goodbye(void *state)
{
    (void)state;
    mbedtls_ssl_close_notify(&ssl);
}

/* Whether a client's session is the one before; of a server's, Mbed TLS does not tell. */
static int resumed(const mbedtls_ssl_session *before)
{
    mbedtls_ssl_session now;
    int same;
    if (options.server)
        return -1;
    mbedtls_ssl_session_init(&now);
    mbedtls_ssl_get_session(&ssl, &now);
    same = before != NULL && memcmp(now.master, before->master, sizeof now.master) == 0;
    mbedtls_ssl_session_free(&now);
    return same;
}

static int shake_hands(const mbedtls_ssl_session *before)
{
    const mbedtls_x509_crt *peer;
    char name[256] = "";
    int result;

    mbedtls_ssl_conf_read_timeout(&config, 0);
    while ((result = mbedtls_ssl_handshake(&ssl)) == MBEDTLS_ERR_SSL_WANT_READ)
        ;
    if (result != 0) {
        if (result != MBEDTLS_ERR_SSL_HELLO_VERIFY_REQUIRED)
            failed("-0x%04x %s", -result, words(result));
        return result;
    }
    if ((peer = mbedtls_ssl_get_peer_cert(&ssl)) != NULL)
        mbedtls_x509_dn_gets(name, sizeof name, &peer->subject);
    established(mbedtls_ssl_get_version(&ssl), mbedtls_ssl_get_ciphersuite(&ssl), name,
                mbedtls_ssl_get_alpn_protocol(&ssl), resumed(before));
    mbedtls_ssl_conf_read_timeout(&config, 1); /* milliseconds: talk() has waited already */
    return 0;
}

static const struct association association = {.receive = receive, .send = transmit, .close = say_goodbye};

_Noreturn static void serve(void)
{
    for (;;) {
        struct sockaddr_storage client;
        socklen_t length = sizeof client;
        int result;
        await_client(net.fd);
        getpeername(net.fd, (struct sockaddr *)&client, &length);
        do {
            check(mbedtls_ssl_session_reset(&ssl), "reset");
            check(mbedtls_ssl_set_client_transport_id(&ssl, (unsigned char *)&client, length), "transport");
        } while ((result = shake_hands(NULL)) == MBEDTLS_ERR_SSL_HELLO_VERIFY_REQUIRED);
        if (result == 0)
            talk(net.fd, &association);
        forget_client(net.fd);
    }
}

static int visit(void)
{
    mbedtls_ssl_session session;
    mbedtls_ssl_session_init(&session);
    if (shake_hands(NULL) != 0)
        return 1;
    if (options.resume) {
        check(mbedtls_ssl_get_session(&ssl, &session), "session");
        say_goodbye(NULL);
        mbedtls_net_free(&net);
        net.fd = open_socket(&options);
        check(mbedtls_ssl_session_reset(&ssl), "reset");
        check(mbedtls_ssl_set_session(&ssl, &session), "session");
        if (shake_hands(&session) != 0)
            return 1;
    }
    talk(net.fd, &association);
    return 0;
}

int main(int argc, char **argv)
{
    parse_options(&options, argc, argv);
    net.fd = open_socket(&options);
    configure();
    if (options.server)
        serve();
    return visit();
}

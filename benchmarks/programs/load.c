/* The load of the benchmarks.
 *
 *     load plain|dtls PORT CIPHER MTU SIZE spin|wait
 *
 * reads lines and answers each:
 *
 *     associate N LIMIT                       "associated N"
 *     echo COUNT WINDOW LIMIT                 (a window of 1 over one association is ping-pong)
 *     in COUNT WINDOW LIMIT
 *     out COUNT GRO LIMIT
 *     handshakes COUNT WINDOW RESUME LIMIT
 *     hellos COUNT PORTS WINDOW LIMIT
 *
 * The work is answered by "ready", begins at the line "go", and ends with "done DONE LOST RESUMED SECONDS"; it ends early
 * after LIMIT seconds. Whatever goes wrong is said on the standard error, and ends the program.
 */
#include "load.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

struct load load;

double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void rest(int fd)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    if (!load.spin)
        poll(&ready, 1, 1);
}

void ready(void)
{
    char line[16];
    puts("ready");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        exit(0);
}

static void allow_many_sockets(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void tell(struct tally tally)
{
    printf("done %lu %lu %lu %.9f\n", tally.done, tally.lost, tally.resumed, tally.seconds);
}

static void obey(const char *line)
{
    unsigned long count, first, second;
    double limit;
    if (sscanf(line, "associate %lu %lf", &count, &limit) == 2) {
        associate(count, limit);
        printf("associated %zu\n", load.count);
    } else if (sscanf(line, "echo %lu %lu %lf", &count, &first, &limit) == 3) {
        tell(echo(count, first, limit));
    } else if (sscanf(line, "in %lu %lu %lf", &count, &first, &limit) == 3) {
        tell(send_in(count, first, limit));
    } else if (sscanf(line, "out %lu %lu %lf", &count, &first, &limit) == 3) {
        tell(take_out(count, (int)first, limit));
    } else if (sscanf(line, "handshakes %lu %lu %lu %lf", &count, &first, &second, &limit) == 4) {
        tell(shake_hands(count, (int)first, (int)second, limit));
    } else if (sscanf(line, "hellos %lu %lu %lu %lf", &count, &first, &second, &limit) == 4) {
        tell(send_hellos(count, first, second, limit));
    } else {
        die("not a command: %s", line);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[200];
    if (argc != 7)
        die("usage: %s plain|dtls PORT CIPHER MTU SIZE spin|wait", argv[0]);
    load.port = atoi(argv[2]);
    load.mtu = atoi(argv[4]);
    load.size = (size_t)atoi(argv[5]);
    load.spin = strcmp(argv[6], "spin") == 0;
    if (strcmp(argv[1], "dtls") == 0) {
        load.context = new_context(DTLS_client_method(), argv[3]);
        SSL_CTX_set_verify(load.context, SSL_VERIFY_NONE, NULL); /* it has no secrets, and is to be quick */
    }
    allow_many_sockets();
    while (fgets(line, sizeof line, stdin))
        obey(line);
}

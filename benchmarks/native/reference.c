/* The C reference client: what this machine allows, for programs in other languages to be measured against.
 *
 * Threads with blocking sockets take ranges of the files in turns, each over one kept connection, into page-aligned buffers that are filled
 * before anything is done with them. What can be asked for beside writing is what fetcher does, with fetcher's own core: a chaining value
 * per block of 1 MiB and the root over them, and SHA-256 of whole files by threads that read back what was written in order.
 * It trusts its origin (a well-behaved server on this machine), retries nothing and gives up at the first surprise.
 *
 * Usage: reference [options] URL OUTPUT [URL OUTPUT ...]; prints its own figures as one line of JSON. Built by compiled.py.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "blake3.h"
#include "sha256.h"

#define MIB (1u << 20)
#define HEAD_BYTES_MAX 16384
#define PAGE_BYTES 4096
#define TLS_RECORDS_BYTES 65536
#define FILES_MAX 64
#define PAIR_BYTES_MIN MIB /* a follower waits for so much, or for the rest of the file */

struct source {
    const char *output;
    char host[256];
    char port[8];
    char path[4096];
    int tls;
    int fd;
    int direct; /* past the page cache; -1: not asked for */
    uint64_t size;
    uint64_t next;      /* where the next range starts */
    uint64_t in_order;  /* bytes from the start that are written without a gap; under the lock */
    uint64_t hashed;    /* by a follower */
    int followed;       /* a follower has it in its hands */
    uint8_t *written;   /* a flag for each block */
    uint8_t *cvs;       /* a chaining value for each block */
    struct sha256_stream sha256;
    uint8_t sha256_digest[SHA256_DIGEST_BYTES];
    uint8_t root[BLAKE3_CV_BYTES];
};

struct connection {
    int socket;
    SSL *tls;
    const struct source *to; /* whose host it leads to; NULL: not open */
};

static struct {
    unsigned connections;
    unsigned followers;
    uint64_t range_bytes;
    int write, blake3, sha256, durable, keep, allocate, direct;
    const char *authority; /* certificate to trust; NULL: none is checked */
} want = {.connections = 4, .range_bytes = 16 * MIB, .write = 1};

static struct source sources[FILES_MAX];
static unsigned source_count;
static unsigned turn; /* the source that the next range is taken from, if it has any left */
static struct blake3_mode plain_mode;
static SSL_CTX *tls_context;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t progressed = PTHREAD_COND_INITIALIZER;

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("reference: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

static void *pages(size_t bytes) {
    void *memory;
    if (posix_memalign(&memory, PAGE_BYTES, bytes) != 0)
        fail("no memory");
    return memory;
}

/* ---- one connection ----------------------------------------------------------------------------------------------------------------- */

static void open_connection(struct connection *connection, const struct source *source) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(source->host, source->port, &hints, &found) != 0)
        fail("no address for %s", source->host);
    connection->socket = -1;
    for (struct addrinfo *one = found; one != NULL && connection->socket < 0; one = one->ai_next) {
        int candidate = socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, one->ai_protocol);
        if (candidate >= 0 && connect(candidate, one->ai_addr, one->ai_addrlen) == 0)
            connection->socket = candidate;
        else if (candidate >= 0)
            close(candidate);
    }
    freeaddrinfo(found);
    if (connection->socket < 0)
        fail("cannot connect to %s:%s", source->host, source->port);
    int yes = 1;
    setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    connection->tls = NULL;
    if (source->tls) {
        connection->tls = SSL_new(tls_context);
        SSL_set_fd(connection->tls, connection->socket);
        SSL_set_tlsext_host_name(connection->tls, source->host);
        SSL_set1_host(connection->tls, source->host);
        SSL_set_read_ahead(connection->tls, 1);
        SSL_set_default_read_buffer_len(connection->tls, TLS_RECORDS_BYTES);
        if (SSL_connect(connection->tls) != 1)
            fail("TLS with %s: %s", source->host, ERR_error_string(ERR_peek_last_error(), NULL));
    }
    connection->to = source;
}

static void close_connection(struct connection *connection) {
    if (connection->to == NULL)
        return;
    if (connection->tls != NULL)
        SSL_free(connection->tls);
    close(connection->socket);
    connection->to = NULL;
}

/* Ready for a request to the host of `source`, kept from before if that led there too. */
static void lead_to(struct connection *connection, const struct source *source) {
    const struct source *to = connection->to;
    if (to != NULL && to->tls == source->tls && strcmp(to->host, source->host) == 0 && strcmp(to->port, source->port) == 0)
        return;
    close_connection(connection);
    open_connection(connection, source);
}

static void send_all(struct connection *connection, const char *data, size_t bytes) {
    while (bytes > 0) {
        ssize_t count = connection->tls != NULL ? SSL_write(connection->tls, data, (int)bytes)
                                                : send(connection->socket, data, bytes, MSG_NOSIGNAL);
        if (count <= 0)
            fail("cannot send: %s", strerror(errno));
        data += count;
        bytes -= (size_t)count;
    }
}

static size_t receive_some(struct connection *connection, uint8_t *buffer, size_t bytes, int flags) {
    ssize_t count;
    do {
        count = connection->tls != NULL ? SSL_read(connection->tls, buffer, (int)bytes)
                                        : recv(connection->socket, buffer, bytes, flags);
    } while (count < 0 && connection->tls == NULL && errno == EINTR);
    if (count <= 0)
        fail("the connection ended early");
    return (size_t)count;
}

static void receive_all(struct connection *connection, uint8_t *buffer, size_t bytes) {
    size_t filled = 0;
    while (filled < bytes)
        filled += receive_some(connection, buffer + filled, bytes - filled, MSG_WAITALL);
}

/* Exactly the head: what follows it stays in the socket, so that the body lands where it belongs. */
static void receive_head(struct connection *connection, char head[HEAD_BYTES_MAX + 1]) {
    size_t filled = 0;
    for (;;) {
        if (filled >= HEAD_BYTES_MAX)
            fail("the head is too long");
        if (connection->tls != NULL) {
            filled += receive_some(connection, (uint8_t *)head + filled, 1, 0);
            head[filled] = 0;
            if (filled >= 4 && memcmp(head + filled - 4, "\r\n\r\n", 4) == 0)
                return;
            continue;
        }
        size_t seen = receive_some(connection, (uint8_t *)head + filled, HEAD_BYTES_MAX - filled, MSG_PEEK);
        size_t from = filled < 3 ? 0 : filled - 3;
        char *end = memmem(head + from, filled + seen - from, "\r\n\r\n", 4);
        size_t take = end != NULL ? (size_t)(end + 4 - head) - filled : seen;
        receive_all(connection, (uint8_t *)head + filled, take);
        filled += take;
        head[filled] = 0;
        if (end != NULL)
            return;
    }
}

static uint64_t content_length(const char *head) {
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, "content-length:", 15) == 0)
            return strtoull(line + 17, NULL, 10);
    fail("an answer without Content-Length");
    return 0;
}

/* Ask, and return the length of the body that follows. */
static uint64_t ask(struct connection *connection, const struct source *source, const char *method, uint64_t start, uint64_t stop,
                    int status) {
    char request[8192], head[HEAD_BYTES_MAX + 1];
    char range[80] = "";
    if (stop > start)
        snprintf(range, sizeof range, "Range: bytes=%llu-%llu\r\n", (unsigned long long)start, (unsigned long long)stop - 1);
    int length = snprintf(request, sizeof request,
                          "%s %s HTTP/1.1\r\nHost: %s:%s\r\nUser-Agent: reference\r\nAccept-Encoding: identity\r\n%s\r\n", method,
                          source->path, source->host, source->port, range);
    send_all(connection, request, (size_t)length);
    receive_head(connection, head);
    if (strncmp(head, "HTTP/1.1 ", 9) != 0 || atoi(head + 9) != status)
        fail("%s %s: %.*s", method, source->path, (int)strcspn(head, "\r"), head);
    return content_length(head);
}

/* ---- ranges of files ---------------------------------------------------------------------------------------------------------------- */

/* The next range: lowest offset of a file first, files in turns. NULL: all are taken. */
static struct source *take_range(uint64_t *start, uint64_t *stop) {
    struct source *taken = NULL;
    pthread_mutex_lock(&lock);
    for (unsigned tried = 0; tried < source_count && taken == NULL; tried++) {
        struct source *source = &sources[turn++ % source_count];
        if (source->next < source->size) {
            taken = source;
            *start = source->next;
            *stop = source->next = smaller(source->next + want.range_bytes, source->size);
        }
    }
    pthread_mutex_unlock(&lock);
    return taken;
}

static void book(struct source *source, uint64_t offset) {
    if (!want.sha256)
        return;
    pthread_mutex_lock(&lock);
    source->written[offset / MIB] = 1;
    while (source->in_order < source->size && source->written[source->in_order / MIB])
        source->in_order = smaller(source->in_order + MIB, source->size);
    pthread_cond_broadcast(&progressed);
    pthread_mutex_unlock(&lock);
}

static void sink(struct source *source, uint64_t offset, const uint8_t *data, size_t bytes) {
    int error = 0;
    uint8_t *cv = source->cvs + offset / MIB * BLAKE3_CV_BYTES;
    int fd = source->direct >= 0 && bytes % PAGE_BYTES == 0 ? source->direct : source->fd;
    if (want.blake3 && want.write)
        error = block_sink_write(fd, offset, data, bytes, MIB, cv);
    else if (want.blake3)
        blake3_blocks(&plain_mode, data, bytes, offset, MIB, cv);
    else if (want.write)
        error = block_sink_write_plain(fd, offset, data, bytes);
    if (error != 0)
        fail("cannot write %s: %s", source->output, strerror(error));
    if (want.sha256 && want.followers == 0)
        sha256_update(&source->sha256, data, bytes);
    book(source, offset);
}

static void *fetch(void *unused) {
    struct connection connection = {.to = NULL};
    uint8_t *buffer = pages(MIB);
    uint64_t start, stop;
    struct source *source;
    while ((source = take_range(&start, &stop)) != NULL) {
        lead_to(&connection, source);
        if (ask(&connection, source, "GET", start, stop, 206) != stop - start)
            fail("%s: another length than asked for", source->path);
        while (start < stop) {
            size_t bytes = smaller(MIB, stop - start);
            receive_all(&connection, buffer, bytes);
            sink(source, start, buffer, bytes);
            start += bytes;
        }
    }
    close_connection(&connection);
    free(buffer);
    return unused;
}

/* ---- SHA-256 behind the writers ----------------------------------------------------------------------------------------------------- */

/* Under the lock: a file that nobody follows now, and that has enough for it to be worth it. */
static struct source *take_followable(int *all_done) {
    *all_done = 1;
    for (unsigned index = 0; index < source_count; index++) {
        struct source *source = &sources[index];
        if (source->hashed == source->size)
            continue;
        *all_done = 0;
        uint64_t ready = source->in_order - source->hashed;
        if (!source->followed && (ready >= PAIR_BYTES_MIN || (ready > 0 && source->in_order == source->size))) {
            source->followed = 1;
            return source;
        }
    }
    return NULL;
}

/* Two files side by side where two have bytes, as fetcher does. */
static void *follow(void *unused) {
    uint8_t *buffer = pages(2 * 64 * 1024);
    pthread_mutex_lock(&lock);
    for (;;) {
        int all_done, ignored;
        struct source *a = take_followable(&all_done), *b = NULL;
        if (all_done)
            break;
        if (a == NULL) {
            pthread_cond_wait(&progressed, &lock);
            continue;
        }
        b = take_followable(&ignored);
        uint64_t length = a->in_order - a->hashed;
        if (b != NULL)
            length = smaller(length, b->in_order - b->hashed);
        length = smaller(length, 8 * MIB); /* so that a file that has become ready finds its partner soon */
        pthread_mutex_unlock(&lock);
        uint64_t taken = 0;
        int error = b == NULL ? sha256_update_file(&a->sha256, a->fd, a->hashed, length, buffer, 2 * 64 * 1024, &taken)
                              : sha256_update_pair_files(&a->sha256, a->fd, a->hashed, &b->sha256, b->fd, b->hashed, length, buffer,
                                                         2 * 64 * 1024, &taken);
        if (error != 0 || taken != length)
            fail("cannot read back %s: %s", a->output, strerror(error));
        pthread_mutex_lock(&lock);
        a->hashed += length;
        a->followed = 0;
        if (b != NULL) {
            b->hashed += length;
            b->followed = 0;
        }
        pthread_cond_broadcast(&progressed);
    }
    pthread_mutex_unlock(&lock);
    free(buffer);
    return unused;
}

/* ---- the whole ---------------------------------------------------------------------------------------------------------------------- */

static void read_url(struct source *source, const char *url) {
    source->tls = strncmp(url, "https://", 8) == 0;
    if (!source->tls && strncmp(url, "http://", 7) != 0)
        fail("neither http nor https: %s", url);
    const char *host = strstr(url, "://") + 3;
    size_t host_length = strcspn(host, ":/");
    const char *port = host[host_length] == ':' ? host + host_length + 1 : source->tls ? "443" : "80";
    size_t port_length = strcspn(port, "/");
    const char *path = host + strcspn(host, "/");
    if (host_length >= sizeof source->host || port_length >= sizeof source->port || strlen(path) >= sizeof source->path)
        fail("a URL that is too long");
    memcpy(source->host, host, host_length);
    memcpy(source->port, port, port_length);
    strcpy(source->path, *path != 0 ? path : "/");
}

static void prepare(struct source *source, struct connection *connection) {
    lead_to(connection, source);
    source->size = ask(connection, source, "HEAD", 0, 0, 200);
    uint64_t blocks = (source->size + MIB - 1) / MIB;
    source->written = calloc(blocks + 1, 1);
    source->cvs = calloc(blocks + 1, BLAKE3_CV_BYTES);
    sha256_init(&source->sha256);
    source->fd = source->direct = -1;
    if (want.write) {
        source->fd = open(source->output, O_RDWR | O_CREAT | O_CLOEXEC | (want.keep ? 0 : O_TRUNC), 0644);
        if (source->fd < 0)
            fail("cannot open %s: %s", source->output, strerror(errno));
        if (want.allocate && fallocate(source->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)source->size) != 0)
            fail("cannot allocate %s: %s", source->output, strerror(errno));
        if (want.direct && (source->direct = open(source->output, O_WRONLY | O_DIRECT | O_CLOEXEC)) < 0)
            fail("cannot open %s past the page cache: %s", source->output, strerror(errno));
    }
}

static void finish(struct source *source) {
    uint64_t blocks = (source->size + MIB - 1) / MIB;
    if (want.blake3 && blocks >= 2)
        blake3_merge_root(&plain_mode, source->cvs, blocks, source->root);
    else if (want.blake3) {
        uint8_t *data = pages(MIB); /* one block has no parent to be the root: its bytes are hashed once more */
        if (pread(source->fd, data, source->size, 0) != (ssize_t)source->size)
            fail("cannot read back %s", source->output);
        blake3_root(&plain_mode, data, source->size, source->root);
        free(data);
    }
    if (want.sha256)
        sha256_digest(&source->sha256, source->sha256_digest);
    if (want.write && want.durable && fsync(source->fd) != 0)
        fail("cannot make %s durable: %s", source->output, strerror(errno));
}

static void print_hex(const char *name, const uint8_t *bytes, size_t count) {
    printf(", \"%s\": \"", name);
    for (size_t index = 0; index < count; index++)
        printf("%02x", bytes[index]);
    putchar('"');
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double seconds(struct timeval time) { return (double)time.tv_sec + (double)time.tv_usec / 1e6; }

static void report(double wall_s) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    uint64_t bytes = 0;
    for (unsigned index = 0; index < source_count; index++)
        bytes += sources[index].size;
    printf("{\"wall_s\": %.4f, \"user_s\": %.4f, \"system_s\": %.4f, \"rss_mib\": %.1f, \"bytes\": %llu, \"blake3_kernel\": \"%s\", "
           "\"sha256_kernel\": \"%s\", \"files\": [",
           wall_s, seconds(usage.ru_utime), seconds(usage.ru_stime), (double)usage.ru_maxrss / 1024, (unsigned long long)bytes,
           blake3_kernel_active(), sha256_kernel_active());
    for (unsigned index = 0; index < source_count; index++) {
        printf("%s{\"bytes\": %llu", index > 0 ? ", " : "", (unsigned long long)sources[index].size);
        if (want.blake3)
            print_hex("blake3", sources[index].root, BLAKE3_CV_BYTES);
        if (want.sha256)
            print_hex("sha256", sources[index].sha256_digest, SHA256_DIGEST_BYTES);
        putchar('}');
    }
    puts("]}");
}

static void read_options(int count, char **arguments) {
    static const struct option options[] = {
        {"connections", required_argument, NULL, 'c'}, {"range", required_argument, NULL, 'r'}, {"sink", required_argument, NULL, 's'},
        {"blake3", no_argument, NULL, 'b'},            {"sha256", no_argument, NULL, 'h'},      {"durable", no_argument, NULL, 'd'},
        {"allocate", no_argument, NULL, 'p'},  {"direct", no_argument, NULL, 'o'},
        {"keep", no_argument, NULL, 'k'},              {"cacert", required_argument, NULL, 'a'}, {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(count, arguments, "", options, NULL)) != -1) {
        switch (option) {
        case 'c': want.connections = (unsigned)atoi(optarg); break;
        case 'r': want.range_bytes = strtoull(optarg, NULL, 10); break;
        case 's': want.write = strcmp(optarg, "write") == 0; break;
        case 'b': want.blake3 = 1; break;
        case 'h': want.sha256 = 1; break;
        case 'd': want.durable = 1; break;
        case 'p': want.allocate = 1; break;
        case 'o': want.direct = 1; break;
        case 'k': want.keep = 1; break;
        case 'a': want.authority = optarg; break;
        default: exit(2);
        }
    }
    int given = count - optind;
    if (given < 2 || given % 2 != 0 || given / 2 > FILES_MAX)
        fail("one or more pairs of URL and OUTPUT are needed");
    if (want.connections < 1 || want.range_bytes < MIB || want.range_bytes % MIB != 0)
        fail("at least one connection, and ranges of whole MiB");
    for (int index = optind; index < count; index += 2) {
        struct source *source = &sources[source_count++];
        read_url(source, arguments[index]);
        source->output = arguments[index + 1];
    }
    /* In order is only what one connection brings of one file. */
    int in_order = want.connections == 1 && source_count == 1;
    want.followers = !want.sha256 || in_order ? 0 : source_count > 1 ? 2 : 1;
    if (want.followers > 0 && !want.write)
        fail("sha256 over several connections reads back what was written");
}

int main(int count, char **arguments) {
    read_options(count, arguments);
    double start_s = now_s();
    blake3_kernel_detect();
    sha256_kernel_detect();
    blake3_mode_init(&plain_mode, NULL);
    tls_context = SSL_CTX_new(TLS_client_method());
    if (want.authority != NULL) {
        SSL_CTX_set_verify(tls_context, SSL_VERIFY_PEER, NULL);
        if (SSL_CTX_load_verify_locations(tls_context, want.authority, NULL) != 1)
            fail("cannot read %s", want.authority);
    }
    struct connection first = {.to = NULL};
    for (unsigned index = 0; index < source_count; index++)
        prepare(&sources[index], &first);
    close_connection(&first);
    unsigned threads = want.connections + want.followers;
    pthread_t *started = calloc(threads, sizeof *started);
    for (unsigned index = 0; index < threads; index++)
        if (pthread_create(&started[index], NULL, index < want.connections ? fetch : follow, NULL) != 0)
            fail("cannot start a thread");
    for (unsigned index = 0; index < threads; index++)
        pthread_join(started[index], NULL);
    for (unsigned index = 0; index < source_count; index++)
        finish(&sources[index]);
    report(now_s() - start_s);
    return 0;
}

/* A long link between two network namespaces: a fixed delay, a rate and a bounded queue, where the kernel has no netem.
 *
 * It opens a TUN device in each namespace and carries packets between them. Each direction has a ring of packets and two threads: the reader
 * stamps a packet with the moment at which the link would have brought it, or drops it where the queue is full; the writer waits for that
 * moment. The queue is counted in time, as on a router with a buffer of so many milliseconds.
 *
 * Usage: emulator NAMESPACE_A NAMESPACE_B BITS_PER_S DELAY_US QUEUE_US LOST_PER_MILLION; the namespaces as files, as `ip netns` makes them.
 * Prints "ready" when both devices ("link0" in each) are there; ends with its standard input, and the devices with it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define PACKET_BYTES_MAX 9216
#define SLOTS 8192u /* a power of two; at 9000 bytes, half a second of 1 Gbit/s */
#define SLEEP_NS_MIN 30000
#define NAP_NS 100000

struct packet {
    int64_t due_ns;
    uint32_t bytes;
    uint8_t data[PACKET_BYTES_MAX];
};

struct direction {
    int from, to;
    struct packet *ring;
    atomic_uint written, read;
};

static double bits_per_ns;
static int64_t delay_ns, queue_ns;
static uint32_t lost_per_million;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void sleep_ns(int64_t duration_ns) {
    struct timespec duration = {duration_ns / 1000000000, duration_ns % 1000000000};
    nanosleep(&duration, NULL);
}

static int open_device(const char *name_space) {
    int there = open(name_space, O_RDONLY | O_CLOEXEC);
    if (there < 0 || setns(there, CLONE_NEWNET) != 0)
        fail(name_space);
    close(there);
    int device = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    strcpy(request.ifr_name, "link0");
    if (device < 0 || ioctl(device, TUNSETIFF, &request) != 0)
        fail("/dev/net/tun");
    return device;
}

static void *take_in(void *argument) {
    struct direction *direction = argument;
    int64_t sent_ns = 0; /* when the link is through with what it has */
    uint32_t seed = 12345;
    for (;;) {
        unsigned written = atomic_load_explicit(&direction->written, memory_order_relaxed);
        while (written - atomic_load_explicit(&direction->read, memory_order_acquire) == SLOTS)
            sleep_ns(NAP_NS);
        struct packet *packet = &direction->ring[written % SLOTS];
        ssize_t bytes = read(direction->from, packet->data, sizeof packet->data);
        if (bytes <= 0) {
            if (bytes < 0 && errno == EIO) { /* the device is not up yet */
                sleep_ns(NAP_NS);
                continue;
            }
            if (bytes < 0 && errno == EINTR)
                continue;
            fail("cannot read a packet");
        }
        seed = seed * 1664525u + 1013904223u;
        if (lost_per_million > 0 && (uint32_t)(((uint64_t)seed * 1000000u) >> 32) < lost_per_million)
            continue;
        int64_t now = now_ns();
        if (sent_ns < now)
            sent_ns = now;
        if (sent_ns - now > queue_ns)
            continue;
        sent_ns += (int64_t)((double)bytes * 8 / bits_per_ns);
        packet->bytes = (uint32_t)bytes;
        packet->due_ns = sent_ns + delay_ns;
        atomic_store_explicit(&direction->written, written + 1, memory_order_release);
    }
    return NULL;
}

static void *give_out(void *argument) {
    struct direction *direction = argument;
    for (;;) {
        unsigned read = atomic_load_explicit(&direction->read, memory_order_relaxed);
        while (read == atomic_load_explicit(&direction->written, memory_order_acquire))
            sleep_ns(NAP_NS);
        struct packet *packet = &direction->ring[read % SLOTS];
        int64_t left = packet->due_ns - now_ns();
        if (left > SLEEP_NS_MIN)
            sleep_ns(left);
        while (write(direction->to, packet->data, packet->bytes) < 0 && (errno == EIO || errno == EINTR))
            sleep_ns(NAP_NS);
        atomic_store_explicit(&direction->read, read + 1, memory_order_release);
    }
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 7) {
        fputs("usage: emulator NAMESPACE_A NAMESPACE_B BITS_PER_S DELAY_US QUEUE_US LOST_PER_MILLION\n", stderr);
        return 2;
    }
    int devices[2] = {open_device(arguments[1]), open_device(arguments[2])};
    bits_per_ns = atof(arguments[3]) / 1e9;
    delay_ns = atoll(arguments[4]) * 1000;
    queue_ns = atoll(arguments[5]) * 1000;
    lost_per_million = (uint32_t)atoi(arguments[6]);
    static struct direction directions[2];
    for (int index = 0; index < 2; index++) {
        struct direction *direction = &directions[index];
        direction->from = devices[index];
        direction->to = devices[1 - index];
        direction->ring = malloc(sizeof(struct packet) * SLOTS);
        pthread_t reader, writer;
        if (direction->ring == NULL || pthread_create(&reader, NULL, take_in, direction) != 0 ||
            pthread_create(&writer, NULL, give_out, direction) != 0)
            fail("cannot start");
    }
    puts("ready");
    fflush(stdout);
    char ignored[256];
    while (read(0, ignored, sizeof ignored) > 0)
        ;
    return 0;
}

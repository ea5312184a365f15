/* Threads, their queue, and the descriptor that says that something is done.
 *
 * One mutex over all of it: a job costs some hundred microseconds of hashing and writing, the lock far less than one of them. Threads that
 * sleep form a stack, and the one that slept last is woken first: its cache is the warmest. As long as one is at work another is woken only
 * when SINK_QUEUED_PER_THREAD jobs wait for each that is.
 *
 * More than `running_max` are never at work: writers into one file's page cache wait for each other, and burn a core while they do. Who waits
 * for a disk is not at work; that is what the other threads are there for, so that the disk has its next block while one is hashed.
 */
#ifdef __linux__
#define _GNU_SOURCE
#endif
#include "sink.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/eventfd.h>
#endif

/* The tree of a block and its leaves take about 20 KiB; sanitizers want a multiple of that. */
#define STACK_BYTES (512 * 1024)
#define THREAD_NAME "fetcher-sink"
#ifndef SINK_QUEUED_PER_THREAD
#define SINK_QUEUED_PER_THREAD 1
#endif

struct worker {
    pthread_t thread;
    pthread_cond_t wake;
    struct worker *below; /* in the stack of those that sleep */
    struct sink *sink;
    bool asleep;
};

struct list {
    struct sink_job *first;
    struct sink_job **end;
};

struct sink {
    pthread_mutex_t lock;
    struct list queued;
    struct list done;
    struct worker *sleeping;
    size_t queued_count;
    size_t running_count; /* neither asleep nor waiting for a disk */
    size_t running_max;
    size_t pending;
    unsigned thread_count;
    bool closing;
    int event_read;
    int event_write; /* the same, where there is eventfd(2) */
    struct worker workers[];
};

static void list_clear(struct list *list) {
    list->first = NULL;
    list->end = &list->first;
}

static void list_add(struct list *list, struct sink_job *job) {
    job->next = NULL;
    *list->end = job;
    list->end = &job->next;
}

/* ---- the descriptor ------------------------------------------------------------------------------------------------------------------- */

#ifdef __linux__
static int event_open(struct sink *sink) {
    sink->event_read = sink->event_write = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return sink->event_read < 0 ? errno : 0;
}
#else
static int event_open(struct sink *sink) {
    int ends[2];
    if (pipe(ends))
        return errno;
    for (int i = 0; i < 2; i++) {
        fcntl(ends[i], F_SETFD, FD_CLOEXEC);
        fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    sink->event_read = ends[0];
    sink->event_write = ends[1];
    return 0;
}
#endif

void sink_close_event(struct sink *sink) {
    if (sink->event_read < 0)
        return;
    close(sink->event_read);
    if (sink->event_write != sink->event_read)
        close(sink->event_write);
    sink->event_read = sink->event_write = -1;
}

enum { EVENT_TRIES_MAX = 100 };

static void event_set(const struct sink *sink) {
    uint64_t one = 1;
    /* EAGAIN: it is readable already. Whatever else may be said, a completion that nobody hears of hangs its caller. */
    for (int tries = 0; write(sink->event_write, &one, sizeof one) < 0 && errno != EAGAIN && tries < EVENT_TRIES_MAX; tries++)
        ;
}

static void event_clear(const struct sink *sink) {
    uint64_t count;
    ssize_t got;
    do
        got = read(sink->event_read, &count, sizeof count);
    while ((got < 0 && errno == EINTR) || (got > 0 && sink->event_read != sink->event_write));
}

/* ---- the threads ---------------------------------------------------------------------------------------------------------------------- */

/* The next job, or NULL when there will be none; the lock is held.
 *
 * Those who have come back from the disk may be too many. Whoever is left at work takes what waits, so it is not forgotten.
 */
static struct sink_job *next_job(struct sink *sink, struct worker *worker) {
    while (!sink->queued.first || (sink->running_count > sink->running_max && !sink->closing)) {
        if (sink->closing)
            return NULL;
        worker->below = sink->sleeping;
        sink->sleeping = worker;
        worker->asleep = true;
        sink->running_count--;
        while (worker->asleep)
            pthread_cond_wait(&worker->wake, &sink->lock);
    }
    struct sink_job *job = sink->queued.first;
    sink->queued.first = job->next;
    if (!job->next)
        sink->queued.end = &sink->queued.first;
    sink->queued_count--;
    return job;
}

/* Takes one from the stack, for the caller to signal; the lock is held. */
static struct worker *wake_one(struct sink *sink) {
    struct worker *worker = sink->sleeping;
    if (worker) {
        sink->sleeping = worker->below;
        worker->asleep = false;
        sink->running_count++;
    }
    return worker;
}

/* The same, if another one is wanted. */
static struct worker *wake_wanted(struct sink *sink) {
    bool wanted = sink->running_count < sink->running_max && sink->queued_count > sink->running_count * SINK_QUEUED_PER_THREAD;
    return wanted ? wake_one(sink) : NULL;
}

/* Does a job that waits for the disk; others may work meanwhile. */
static void wait_for_disk(struct sink *sink, struct sink_job *job) {
    pthread_mutex_lock(&sink->lock);
    sink->running_count--;
    struct worker *woken = wake_wanted(sink);
    pthread_mutex_unlock(&sink->lock);
    if (woken)
        pthread_cond_signal(&woken->wake);
    sink_write(job);
    pthread_mutex_lock(&sink->lock);
    sink->running_count++;
    pthread_mutex_unlock(&sink->lock);
}

static void *work(void *argument) {
    struct worker *worker = argument;
    struct sink *sink = worker->sink;
#ifdef __linux__
    pthread_setname_np(pthread_self(), THREAD_NAME);
#endif
    pthread_mutex_lock(&sink->lock);
    for (struct sink_job *job; (job = next_job(sink, worker));) {
        pthread_mutex_unlock(&sink->lock);
        sink_hash(job);
        if (sink_waits(job))
            wait_for_disk(sink, job);
        else
            sink_write(job);
        pthread_mutex_lock(&sink->lock);
        bool first = !sink->done.first;
        list_add(&sink->done, job);
        if (first) {
            /* Not under the lock: whoever is woken by it wants just that. */
            pthread_mutex_unlock(&sink->lock);
            event_set(sink);
            pthread_mutex_lock(&sink->lock);
        }
    }
    pthread_mutex_unlock(&sink->lock);
    return NULL;
}

/* ---- the interface -------------------------------------------------------------------------------------------------------------------- */

static int start_threads(struct sink *sink, unsigned threads) {
    pthread_attr_t attributes;
    sigset_t all, before;
    int error = pthread_attr_init(&attributes);
    if (error)
        return error;
    error = pthread_attr_setstacksize(&attributes, STACK_BYTES);
    /* Signals are the program's, and its handlers are not for threads that know no interpreter. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; i < threads && !error; i++) {
        struct worker *worker = &sink->workers[i];
        worker->sink = sink;
        error = pthread_cond_init(&worker->wake, NULL);
        if (error)
            break;
        pthread_mutex_lock(&sink->lock);
        sink->running_count++;
        pthread_mutex_unlock(&sink->lock);
        error = pthread_create(&worker->thread, &attributes, work, worker);
        if (error)
            pthread_cond_destroy(&worker->wake);
        else
            sink->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return error;
}

int sink_open(struct sink **opened, unsigned threads, unsigned waiting) {
    struct sink *sink = calloc(1, sizeof *sink + (threads + waiting) * sizeof sink->workers[0]);
    if (!sink)
        return ENOMEM;
    list_clear(&sink->queued);
    list_clear(&sink->done);
    sink->running_max = threads;
    int error = event_open(sink);
    if (error) {
        free(sink);
        return error;
    }
    error = pthread_mutex_init(&sink->lock, NULL);
    if (error) {
        sink_close_event(sink);
        free(sink);
        return error;
    }
    error = start_threads(sink, threads + waiting);
    if (error) {
        sink_close(sink);
        sink_close_event(sink);
        sink_free(sink);
        return error;
    }
    *opened = sink;
    return 0;
}

int sink_event_fd(const struct sink *sink) { return sink->event_read; }

bool sink_submit(struct sink *sink, struct sink_job *job) {
    struct worker *woken = NULL;
    pthread_mutex_lock(&sink->lock);
    bool taken = !sink->closing;
    if (taken) {
        list_add(&sink->queued, job);
        sink->queued_count++;
        sink->pending++;
        woken = wake_wanted(sink);
    }
    pthread_mutex_unlock(&sink->lock);
    if (woken)
        pthread_cond_signal(&woken->wake);
    return taken;
}

struct sink_job *sink_take(struct sink *sink) {
    /* First: what is done from here on sets it anew, if the list is empty by then. */
    if (sink->event_read >= 0)
        event_clear(sink);
    pthread_mutex_lock(&sink->lock);
    struct sink_job *first = sink->done.first;
    list_clear(&sink->done);
    for (struct sink_job *job = first; job; job = job->next)
        sink->pending--;
    pthread_mutex_unlock(&sink->lock);
    return first;
}

size_t sink_pending(struct sink *sink) {
    pthread_mutex_lock(&sink->lock);
    size_t pending = sink->pending;
    pthread_mutex_unlock(&sink->lock);
    return pending;
}

void sink_close(struct sink *sink) {
    pthread_mutex_lock(&sink->lock);
    sink->closing = true;
    for (struct worker *worker; (worker = wake_one(sink));)
        pthread_cond_signal(&worker->wake);
    pthread_mutex_unlock(&sink->lock);
    for (unsigned i = 0; i < sink->thread_count; i++)
        pthread_join(sink->workers[i].thread, NULL);
    /* Only now: they signal each other. */
    for (unsigned i = 0; i < sink->thread_count; i++)
        pthread_cond_destroy(&sink->workers[i].wake);
}

void sink_free(struct sink *sink) {
    pthread_mutex_destroy(&sink->lock);
    free(sink);
}

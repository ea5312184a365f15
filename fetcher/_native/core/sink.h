/* The block sink: threads of its own that hash a block while it is in the cache, write it, and journal it.
 *
 * The caller has checked every argument and keeps a job, its bytes and its descriptors until the job has come back from sink_take. Nothing
 * here allocates but sink_open.
 */
#ifndef FETCHER_SINK_H
#define FETCHER_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "blake3.h"

#define SINK_BLOCK_BYTES (1 << 20)
/* What every disk takes as a unit of O_DIRECT; where one wants more, it says EINVAL and gets the block through the page cache. */
#define SINK_DIRECT_BYTES 4096
#define SINK_THREADS_MAX 64

/* What of a job failed. */
enum { SINK_DONE = 0, SINK_DATA = 1, SINK_JOURNAL = 2 };

struct sink_job {
    struct sink_job *next; /* the queue's */
    const uint8_t *data;
    size_t bytes;
    uint64_t offset;         /* a multiple of SINK_BLOCK_BYTES */
    uint64_t journal_offset; /* of the job's own record */
    int fd;
    int direct_fd;  /* the same file, opened with O_DIRECT; or -1 */
    int journal_fd; /* or -1 */
    int error;      /* 0 or an errno, of `stage` */
    int stage;
    uint8_t cv[BLAKE3_CV_BYTES];
};

struct sink;

/* ---- sink_queue.c --------------------------------------------------------------------------------------------------------------------- */

/* 0 or an errno; on success the threads run. `threads` hash and write into memory at a time, and up to `waiting` more wait for a disk. */
int sink_open(struct sink **opened, unsigned threads, unsigned waiting);
/* Readable while jobs wait for sink_take. */
int sink_event_fd(const struct sink *sink);
/* False when the sink is closing; the job is the caller's then. */
bool sink_submit(struct sink *sink, struct sink_job *job);
/* All jobs that are done, in order of completion, as a list; never waits. */
struct sink_job *sink_take(struct sink *sink);
/* Submitted and not yet taken. */
size_t sink_pending(struct sink *sink);
/* Does what is queued, then ends the threads. Once, and never in a child of fork, where there are no such threads. */
void sink_close(struct sink *sink);
/* Closes the descriptor: after sink_close, or in a child of fork. What is done can still be taken. */
void sink_close_event(struct sink *sink);
/* After both, when all that was submitted has been taken. */
void sink_free(struct sink *sink);

/* ---- sink_block.c --------------------------------------------------------------------------------------------------------------------- */

/* The work of one job, in this order: its chaining value … */
void sink_hash(struct sink_job *job);
/* … whether what follows waits for a disk (O_DIRECT), and costs no CPU meanwhile … */
bool sink_waits(const struct sink_job *job);
/* … and its data, then its record. */
void sink_write(struct sink_job *job);

#define SINK_RECORD_BYTES 48
/* A record of a block for the journal: see fetcher/cache/journal.py, which is the authority. */
void sink_record(uint8_t record[SINK_RECORD_BYTES], uint64_t block, const uint8_t cv[BLAKE3_CV_BYTES]);

/* ---- sink_space.c --------------------------------------------------------------------------------------------------------------------- */

/* Allocates what `bytes` bytes from `offset` on take, and leaves the file's size alone; 0 or an errno. */
int sink_preallocate(int fd, uint64_t offset, uint64_t bytes);

#endif

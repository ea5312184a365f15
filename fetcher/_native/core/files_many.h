/* Many small files at once: what would be some system calls per file, each with a hand-over of the GIL, is one call. */
#ifndef FETCHER_FILES_MANY_H
#define FETCHER_FILES_MANY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct file_content {
    const uint8_t *data;
    size_t bytes;
};

/* Create `names` below the directory `folder`, none of which may exist yet, with these contents and exactly this mode.
 * Stops at the first error: returns errno, and its index in `failed`. The file that could not be written is removed; what
 * was made before it stays. */
int files_write(int folder, const char *const *names, const struct file_content *contents, size_t count, mode_t mode,
                size_t *failed);

/* link(2) each `names[i]` below `source` to `targets[i]` below `target`; never through a symlink, never replacing
 * anything. `errors[i]` is 0 or errno; one that fails does not keep the others from being made. */
void files_link(int source, const char *const *names, int target, const char *const *targets, size_t count, int *errors);

/* lstat(2) each; `sizes[i]` is the size of a plain file, -EINVAL for what is none, else minus errno. */
void files_look(int folder, const char *const *names, size_t count, int64_t *sizes);

/* unlink(2) each; `errors[i]` is 0 or errno. */
void files_unlink(int folder, const char *const *names, size_t count, int *errors);

/* mkdir(2) each below `folder`, with exactly this mode and, unless it is -1, this group; never through a symlink.
 * `errors[i]` is 0 or errno, EEXIST for what was there already; all are tried. */
void files_make_directories(int folder, const char *const *names, size_t count, mode_t mode, gid_t group, int *errors);

#endif

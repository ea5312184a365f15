/* Space for a file before its bytes come. */
#ifdef __linux__
#define _GNU_SOURCE
#endif
#include "sink.h"

#include <errno.h>

#ifdef __linux__
#include <fcntl.h>

int sink_preallocate(int fd, uint64_t offset, uint64_t bytes) {
    for (;;) {
        if (!fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes))
            return 0;
        if (errno != EINTR)
            return errno;
    }
}
#else
int sink_preallocate(int fd, uint64_t offset, uint64_t bytes) {
    (void)fd;
    (void)offset;
    (void)bytes;
    return ENOSYS;
}
#endif

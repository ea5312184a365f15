#include "file_read.h"

#include <errno.h>
#include <unistd.h>

int file_read(int fd, uint64_t offset, uint8_t *buffer, size_t bytes, size_t *got) {
    *got = 0;
    while (*got < bytes) {
        ssize_t count = pread(fd, buffer + *got, bytes - *got, (off_t)(offset + *got));
        if (count < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        if (count == 0)
            break;
        *got += (size_t)count;
    }
    return 0;
}

#define _GNU_SOURCE
#include "files_many.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_whole(int descriptor, const uint8_t *data, size_t bytes) {
    while (bytes) {
        ssize_t written = write(descriptor, data, bytes);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        /* POSIX leaves "nothing written, no error" open; asking again might never end. */
        if (written == 0)
            return EIO;
        data += written;
        bytes -= (size_t)written;
    }
    return 0;
}

static int write_one(int folder, const char *name, const struct file_content *content, mode_t mode) {
    int descriptor;
    do
        descriptor = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    while (descriptor < 0 && errno == EINTR);
    if (descriptor < 0)
        return errno;
    int error = write_whole(descriptor, content->data, content->bytes);
    /* Not open(2)'s mode: a umask has no say. */
    if (!error && fchmod(descriptor, mode))
        error = errno;
    /* Where a quota or a network refuses bytes late, close(2) is what says so. After EINTR it is closed on Linux. */
    if (close(descriptor) && errno != EINTR && !error)
        error = errno;
    if (error)
        unlinkat(folder, name, 0);
    return error;
}

int files_write(int folder, const char *const *names, const struct file_content *contents, size_t count, mode_t mode,
                size_t *failed) {
    for (size_t index = 0; index < count; index++) {
        int error = write_one(folder, names[index], &contents[index], mode);
        if (error) {
            *failed = index;
            return error;
        }
    }
    return 0;
}

void files_link(int source, const char *const *names, int target, const char *const *targets, size_t count, int *errors) {
    for (size_t index = 0; index < count; index++)
        errors[index] = linkat(source, names[index], target, targets[index], 0) ? errno : 0;
}

static int64_t size_of_one(int folder, const char *name) {
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW))
        return -errno;
    return S_ISREG(status.st_mode) ? status.st_size : -EINVAL;
}

void files_look(int folder, const char *const *names, size_t count, int64_t *sizes) {
    for (size_t index = 0; index < count; index++)
        sizes[index] = size_of_one(folder, names[index]);
}

void files_unlink(int folder, const char *const *names, size_t count, int *errors) {
    for (size_t index = 0; index < count; index++)
        errors[index] = unlinkat(folder, names[index], 0) ? errno : 0;
}

static int make_one_directory(int folder, const char *name, mode_t mode, gid_t group) {
    if (mkdirat(folder, name, 0700))
        return errno;
    int descriptor;
    do
        descriptor = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    while (descriptor < 0 && errno == EINTR);
    if (descriptor < 0)
        return errno;
    int error = 0;
    /* Not mkdir(2)'s mode: a umask has no say. */
    if ((group != (gid_t)-1 && fchown(descriptor, (uid_t)-1, group)) || fchmod(descriptor, mode))
        error = errno;
    close(descriptor);
    return error;
}

void files_make_directories(int folder, const char *const *names, size_t count, mode_t mode, gid_t group, int *errors) {
    for (size_t index = 0; index < count; index++)
        errors[index] = make_one_directory(folder, names[index], mode, group);
}

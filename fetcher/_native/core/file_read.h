/* Reading files by position. Shared by all that hash what is on the disk. */
#ifndef FETCHER_FILE_READ_H
#define FETCHER_FILE_READ_H

#include <stddef.h>
#include <stdint.h>

/* Fills `buffer` as far as the file goes: 0 or an errno, the bytes got in *got. */
int file_read(int fd, uint64_t offset, uint8_t *buffer, size_t bytes, size_t *got);

#endif

/* The busy flag of an object that works with the GIL released: who comes second is refused, nobody waits and nothing is corrupted. */
#ifndef FETCHER_BUSY_H
#define FETCHER_BUSY_H

#include <stdbool.h>

/* True when the flag was free and is now ours. */
static inline bool busy_take(unsigned char *flag) { return __atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE) == 0; }

static inline void busy_release(unsigned char *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }

#endif

/* The system's entropy and clock, for a process that must be the same each time: hash seeds, and the choices of the
 * async runtime, follow from the seed in RDB_WHOLE_SEED, and each look at the clock is a microsecond after the one
 * before. Each thread has its own, whatever others draw and see. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

/* In 2026. */
#define MORNING 1790000000

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static __thread uint64_t looks;
    (void)clock;
    looks++;
    now->tv_sec = MORNING + (time_t)(looks / 1000000);
    now->tv_nsec = (long)(looks % 1000000) * 1000;
    return 0;
}

ssize_t getrandom(void *into, size_t length, unsigned flags)
{
    static __thread uint64_t state, begun;
    (void)flags;
    if (!begun) {
        const char *seed = getenv("RDB_WHOLE_SEED");
        state = seed ? strtoull(seed, NULL, 10) : 0;
        begun = 1;
    }
    for (size_t i = 0; i < length; i++) {
        uint64_t z = (state += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        ((unsigned char *)into)[i] = (unsigned char)(z ^ (z >> 31));
    }
    return (ssize_t)length;
}

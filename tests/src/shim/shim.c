/* Stands between a node and its machine: one write or sync of its files fails when told so, and its clock is off by what
 * it is told. What it is told stands in a file that it has mapped, named by RDB_SHIM; what it saw stands there, too. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct told {
    int64_t clock_us; /* added to the time of day */
    int64_t fail_at;  /* the call that fails, counted from 1; 0 is none */
    int64_t error;    /* with this errno */
    int64_t calls;    /* writes and syncs so far, of all processes that had this file */
    int64_t failed;   /* how many of them were made to fail */
    int64_t looks;    /* how often a time of day was told that is off */
};

static struct told nothing;
static struct told *told = &nothing;

__attribute__((constructor)) static void map(void)
{
    const char *path = getenv("RDB_SHIM");
    /* Not what starts it, such as ip. */
    if (!path || strcmp(program_invocation_short_name, "rdb-server") != 0)
        return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        abort();
    void *at = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (at == MAP_FAILED)
        abort();
    told = at;
}

/* Whether this call is the one, of a file or directory. Sets errno. */
static int fails(int file)
{
    struct stat is;
    if (told == &nothing || fstat(file, &is) != 0 || !(S_ISREG(is.st_mode) || S_ISDIR(is.st_mode)))
        return 0;
    int64_t call = __atomic_add_fetch(&told->calls, 1, __ATOMIC_SEQ_CST);
    int64_t at = __atomic_load_n(&told->fail_at, __ATOMIC_SEQ_CST);
    /* Some may have been made since it was told. Of those that are made at once, one fails. */
    if (!at || call < at || !__atomic_compare_exchange_n(&told->fail_at, &at, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return 0;
    __atomic_add_fetch(&told->failed, 1, __ATOMIC_SEQ_CST);
    errno = (int)told->error;
    return 1;
}

ssize_t write(int file, const void *from, size_t length)
{
    return fails(file) ? -1 : syscall(SYS_write, file, from, length);
}

ssize_t writev(int file, const struct iovec *from, int count)
{
    return fails(file) ? -1 : syscall(SYS_writev, file, from, count);
}

ssize_t pwrite64(int file, const void *from, size_t length, off64_t at)
{
    return fails(file) ? -1 : syscall(SYS_pwrite64, file, from, length, at);
}

ssize_t pwrite(int file, const void *from, size_t length, off_t at)
{
    return pwrite64(file, from, length, at);
}

int fsync(int file)
{
    return fails(file) ? -1 : (int)syscall(SYS_fsync, file);
}

int fdatasync(int file)
{
    return fails(file) ? -1 : (int)syscall(SYS_fdatasync, file);
}

int ftruncate64(int file, off64_t length)
{
    return fails(file) ? -1 : (int)syscall(SYS_ftruncate, file, length);
}

int ftruncate(int file, off_t length)
{
    return ftruncate64(file, length);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    int64_t off = __atomic_load_n(&told->clock_us, __ATOMIC_SEQ_CST);
    if (failed || clock != CLOCK_REALTIME || off == 0)
        return failed;
    __atomic_add_fetch(&told->looks, 1, __ATOMIC_SEQ_CST);
    int64_t us = (int64_t)now->tv_sec * 1000000 + now->tv_nsec / 1000 + off;
    now->tv_sec = (time_t)(us / 1000000);
    now->tv_nsec = (long)(us % 1000000) * 1000 + now->tv_nsec % 1000;
    return 0;
}

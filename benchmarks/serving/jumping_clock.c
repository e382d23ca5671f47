/* A clock of the wall that is so many seconds ahead as the file says that JUMPING_CLOCK names, read at most every 100 ms.
   Preloaded by troubles.py. The monotonic clock stays as it is, as when an administrator sets the time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int real(clockid_t which, struct timespec *now) {
    static int (*call)(clockid_t, struct timespec *);
    if (!call) call = dlsym(RTLD_NEXT, "clock_gettime");
    return call(which, now);
}

static long ahead(void) {
    static __thread long seconds, looked = -1;
    struct timespec now;
    real(CLOCK_MONOTONIC, &now);
    long tenths = now.tv_sec * 10 + now.tv_nsec / 100000000;
    if (tenths == looked) return seconds;
    looked = tenths;
    char text[32] = {0};
    const char *path = getenv("JUMPING_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return seconds;
    if (read(file, text, sizeof text - 1) > 0) seconds = strtol(text, NULL, 10);
    close(file);
    return seconds;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int failed = real(which, now);
    if (!failed && which == CLOCK_REALTIME) now->tv_sec += ahead();
    return failed;
}

time_t time(time_t *also) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (also) *also = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

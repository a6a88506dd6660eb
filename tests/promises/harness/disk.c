// Preloaded into a program: each time that it brings a file to the disk takes so many milliseconds as SYNC_TAKES_MS says, and
// fails while the file that SYNC_FAILS_WHILE names is there.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int sync_with(const char *name, int file) {
    const char *takes = getenv("SYNC_TAKES_MS");
    if (takes) {
        usleep(1000 * atoi(takes));
    }
    const char *marker = getenv("SYNC_FAILS_WHILE");
    if (marker && access(marker, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(file);
}

int fsync(int file) { return sync_with("fsync", file); }
int fdatasync(int file) { return sync_with("fdatasync", file); }

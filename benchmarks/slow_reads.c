/* Makes every read of a file below $SLOW_READS_BELOW wait for $SLOW_READS_MS, as an object store does; for LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void wait_for(int fd) {
  char link[64], path[4096];
  const char *below = getenv("SLOW_READS_BELOW"), *ms = getenv("SLOW_READS_MS");
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0 || !below || !ms) return;
  path[length] = 0;
  if (!strncmp(path, below, strlen(below))) usleep(1000 * atoi(ms));
}

#define SLOW(name, declaration, arguments)                                 \
  ssize_t name declaration {                                               \
    static ssize_t(*real) declaration;                                     \
    if (!real) real = (ssize_t(*) declaration)dlsym(RTLD_NEXT, #name);     \
    wait_for(fd);                                                          \
    return real arguments;                                                 \
  }

SLOW(read, (int fd, void *buffer, size_t count), (fd, buffer, count))
SLOW(pread, (int fd, void *buffer, size_t count, off_t offset), (fd, buffer, count, offset))
SLOW(pread64, (int fd, void *buffer, size_t count, off64_t offset), (fd, buffer, count, offset))

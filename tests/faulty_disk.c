/* A disk that fails on order, for LD_PRELOAD: counts what changes files below a directory, and at number `at` acts.

   faulty_disk(root, at, kind) begins anew at 0; root "" or at 0: counts only, never acts. faulty_disk_seen() says how
   many there were, faulty_disk_name() what the one was that was met. Kinds:
     1 EIO      that one fails once                       4 torn   that one writes half of its bytes, then as 5
     2 ENOSPC   all from there on that need room fail     5 death  all from there on fail: what is on the disk is what a
     3 short    that one writes half of its bytes, and               process leaves that is killed there
                says so, as write(2) may
   It sees calls through libc, those of Python and of TensorStore; a bare system call would escape it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { EIO_ONCE = 1, NO_ROOM, SHORT, TORN, DEATH };
enum { PASS = 0, HALF = -1, HALF_AND_DIE = -2 };

static char root[512], met[768];
static atomic_long seen, at;
static atomic_int kind, over;

void faulty_disk(const char *below, long number, int what) {
  atomic_store(&at, 0);
  strncpy(root, below, sizeof root - 1);
  met[0] = 0;
  atomic_store(&over, 0);
  atomic_store(&seen, 0);
  atomic_store(&kind, what);
  atomic_store(&at, number);
}
long faulty_disk_seen(void) { return atomic_load(&seen); }
const char *faulty_disk_name(void) { return met; }

/* 0: let it pass; HALF: write half; else the errno to fail with. `room`: whether it takes some. */
static int judge(const char *name, const char *path, int room) {
  if (!root[0] || !path || strncmp(path, root, strlen(root))) return PASS;
  long number = atomic_fetch_add(&seen, 1) + 1;
  int what = atomic_load(&kind);
  if (atomic_load(&over)) return what == NO_ROOM ? (room ? ENOSPC : PASS) : EIO;
  if (number != atomic_load(&at)) return PASS;
  snprintf(met, sizeof met, "%s %s", name, path + strlen(root));
  switch (what) {
    case EIO_ONCE: return EIO;
    case NO_ROOM: atomic_store(&over, 1); return room ? ENOSPC : PASS;
    case SHORT: return HALF;
    case TORN: atomic_store(&over, 1); return HALF_AND_DIE;
    case DEATH: atomic_store(&over, 1); return EIO;
  }
  return PASS;
}
static const char *of_handle(int handle, char *path, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t length = readlink(link, path, size - 1);
  if (length < 0) return NULL;
  path[length] = 0;
  return path;
}
#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define REFUSE(code) do { if ((code) == HALF_AND_DIE) { errno = EIO; return -1; } \
                          if ((code) > 0) { errno = (code); return -1; } } while (0)
#define WITH_PATH(handle) char b[600]; const char *p = handle > 2 && root[0] ? of_handle(handle, b, sizeof b) : NULL

#define OPEN(name, signature, call) \
  int name signature { REAL(name); int mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, int); va_end(rest); } \
    if (flags & (O_CREAT | O_WRONLY | O_RDWR)) { int code = judge(#name, path, flags & O_CREAT); REFUSE(code); } \
    return call; }
OPEN(open, (const char *path, int flags, ...), real(path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), real(path, flags, mode))
OPEN(openat, (int where, const char *path, int flags, ...), real(where, path, flags, mode))
OPEN(openat64, (int where, const char *path, int flags, ...), real(where, path, flags, mode))

#define ON_PATH(name, signature, of, room, call) \
  int name signature { REAL(name); int code = judge(#name, of, room); REFUSE(code); return call; }
ON_PATH(mkdir, (const char *path, mode_t mode), path, 1, real(path, mode))
ON_PATH(rename, (const char *from, const char *to), to, 0, real(from, to))
ON_PATH(link, (const char *from, const char *to), to, 1, real(from, to))
ON_PATH(unlink, (const char *path), path, 0, real(path))
ON_PATH(rmdir, (const char *path), path, 0, real(path))

int unlinkat(int where, const char *name, int flags) {
  REAL(unlinkat);
  char b[1200];
  const char *path = name;
  if (name[0] != '/' && where >= 0 && root[0] && of_handle(where, b, 600)) {
    strncat(b, "/", 2);
    strncat(b, name, 500);
    path = b;
  }
  int code = judge("unlinkat", path, 0);
  REFUSE(code);
  return real(where, name, flags);
}
#define ON_HANDLE(name) \
  int name(int handle) { REAL(name); WITH_PATH(handle); int code = judge(#name, p, 0); REFUSE(code); return real(handle); }
ON_HANDLE(fsync)
ON_HANDLE(fdatasync)

int ftruncate(int handle, off_t size) {
  REAL(ftruncate);
  WITH_PATH(handle);
  int code = judge("ftruncate", p, 0);
  REFUSE(code);
  return real(handle, size);
}
int ftruncate64(int handle, off64_t size) {
  REAL(ftruncate64);
  WITH_PATH(handle);
  int code = judge("ftruncate64", p, 0);
  REFUSE(code);
  return real(handle, size);
}
#define WRITE(name, signature, part, whole) \
  ssize_t name signature { REAL(name); WITH_PATH(handle); int code = judge(#name, p, 1); \
    if (code == HALF_AND_DIE) { if (part < 0) return -1; errno = EIO; return -1; } \
    if (code == HALF) return part; \
    REFUSE(code); return whole; }
WRITE(write, (int handle, const void *x, size_t n), real(handle, x, (n + 1) / 2), real(handle, x, n))
WRITE(pwrite, (int handle, const void *x, size_t n, off_t o), real(handle, x, (n + 1) / 2, o), real(handle, x, n, o))
WRITE(pwrite64, (int handle, const void *x, size_t n, off64_t o), real(handle, x, (n + 1) / 2, o), real(handle, x, n, o))
WRITE(writev, (int handle, const struct iovec *v, int c), real(handle, v, (c + 1) / 2), real(handle, v, c))
WRITE(pwritev, (int handle, const struct iovec *v, int c, off_t o), real(handle, v, (c + 1) / 2, o), real(handle, v, c, o))
WRITE(pwritev64, (int handle, const struct iovec *v, int c, off64_t o), real(handle, v, (c + 1) / 2, o), real(handle, v, c, o))

/* Loaded before the C library, this lets chosen system calls fail. The environment says which:
 *   FAIL_CALL   sync, read, write, open (for writing), rename, unlink, mkdir or truncate
 *   FAIL_PATH   a part of the path; other files are let be
 *   FAIL_AT     the number of the call that fails, from 1; 0: none fails
 *   FAIL_ON     if set, all after it fail too
 *   FAIL_ERRNO  the error
 *   FAIL_LOG    a file that gets the path of each call that failed or, where none is to fail, that would match
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls;

static void note(const char *path) {
	const char *log = getenv("FAIL_LOG");
	int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0666);
	char line[PATH_MAX + 2];
	int length = snprintf(line, sizeof line, "%s\n", path);
	if (fd >= 0) {
		syscall(SYS_write, fd, line, length);
		syscall(SYS_close, fd);
	}
}

/* Whether this call is to fail; errno is set then. */
static int fails(const char *call, const char *path) {
	const char *wanted = getenv("FAIL_CALL"), *part = getenv("FAIL_PATH");
	if (!wanted || !part || strcmp(wanted, call) || !strstr(path, part)) return 0;
	long at = atol(getenv("FAIL_AT")), n = atomic_fetch_add(&calls, 1) + 1;
	if (at && n != at && !(getenv("FAIL_ON") && n > at)) return 0;
	note(path);
	if (!at) return 0;
	errno = atoi(getenv("FAIL_ERRNO"));
	return 1;
}

static int fails_at(const char *call, int dir, const char *path) {
	char whole[PATH_MAX], link[64];
	if (path[0] == '/') return fails(call, path);
	if (dir == AT_FDCWD) {
		if (!getcwd(whole, sizeof whole)) return 0;
	} else {
		snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
		ssize_t length = readlink(link, whole, sizeof whole - 1);
		if (length < 0) return 0;
		whole[length] = 0;
	}
	strncat(whole, "/", sizeof whole - strlen(whole) - 1);
	strncat(whole, path, sizeof whole - strlen(whole) - 1);
	return fails(call, whole);
}

static int fails_on(const char *call, int fd) {
	char link[64], path[PATH_MAX];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t length = readlink(link, path, sizeof path - 1);
	if (length < 0) return 0;
	path[length] = 0;
	return fails(call, path);
}

#define REAL(type, name, ...) ((type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

int fsync(int fd) { return fails_on("sync", fd) ? -1 : REAL(int, fsync, int)(fd); }
int fdatasync(int fd) { return fails_on("sync", fd) ? -1 : REAL(int, fdatasync, int)(fd); }

ssize_t read(int fd, void *bytes, size_t n) {
	return fails_on("read", fd) ? -1 : REAL(ssize_t, read, int, void *, size_t)(fd, bytes, n);
}

ssize_t write(int fd, const void *bytes, size_t n) {
	return fails_on("write", fd) ? -1 : REAL(ssize_t, write, int, const void *, size_t)(fd, bytes, n);
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) {
	return fails_on("write", fd) ? -1 : REAL(ssize_t, pwrite, int, const void *, size_t, off_t)(fd, bytes, n, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
	return fails_on("write", fd) ? -1 : REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t)(fd, bytes, n, at);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
	return fails_on("write", fd) ? -1 : REAL(ssize_t, writev, int, const struct iovec *, int)(fd, parts, n);
}
int ftruncate(int fd, off_t size) { return fails_on("truncate", fd) ? -1 : REAL(int, ftruncate, int, off_t)(fd, size); }
int ftruncate64(int fd, off64_t size) {
	return fails_on("truncate", fd) ? -1 : REAL(int, ftruncate64, int, off64_t)(fd, size);
}

int rename(const char *from, const char *to) {
	return fails_at("rename", AT_FDCWD, to) ? -1 : REAL(int, rename, const char *, const char *)(from, to);
}
int renameat(int from_dir, const char *from, int to_dir, const char *to) {
	return fails_at("rename", to_dir, to)
		? -1
		: REAL(int, renameat, int, const char *, int, const char *)(from_dir, from, to_dir, to);
}
int unlink(const char *path) {
	return fails_at("unlink", AT_FDCWD, path) ? -1 : REAL(int, unlink, const char *)(path);
}
int unlinkat(int dir, const char *path, int flags) {
	return fails_at("unlink", dir, path) ? -1 : REAL(int, unlinkat, int, const char *, int)(dir, path, flags);
}
int mkdir(const char *path, mode_t mode) {
	return fails_at("mkdir", AT_FDCWD, path) ? -1 : REAL(int, mkdir, const char *, mode_t)(path, mode);
}

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT); }

#define OPEN(name)                                                                    \
	int name(const char *path, int flags, ...) {                                      \
		va_list rest;                                                                 \
		va_start(rest, flags);                                                        \
		int mode = va_arg(rest, int);                                                 \
		va_end(rest);                                                                 \
		if (writes(flags) && fails_at("open", AT_FDCWD, path)) return -1;             \
		return REAL(int, name, const char *, int, ...)(path, flags, mode);            \
	}
#define OPENAT(name)                                                                  \
	int name(int dir, const char *path, int flags, ...) {                             \
		va_list rest;                                                                 \
		va_start(rest, flags);                                                        \
		int mode = va_arg(rest, int);                                                 \
		va_end(rest);                                                                 \
		if (writes(flags) && fails_at("open", dir, path)) return -1;                  \
		return REAL(int, name, int, const char *, int, ...)(dir, path, flags, mode);  \
	}
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

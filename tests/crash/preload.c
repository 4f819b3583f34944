/* Logs, and on demand fails, every change that a process makes below one directory.
 *
 * LD_PRELOAD library for the crash tests. Environment:
 *   CRASH_ROOT    canonical path of the directory that counts as "the disk"
 *   CRASH_LOG     log file (optional); records are appended with one write each, so several processes may share it
 *   CRASH_FAULT   file of one `struct fault`, mapped shared (optional)
 *   CRASH_NOSYNC  when set, nothing is ever synced and no barrier is logged: the program is broken on purpose
 *
 * A write is logged before it is made and a barrier's end after it returned, so the log never promises more than the disk.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, WRITTEN, TRUNCATE, SYNC_BEGIN, SYNC_END, RENAME, UNLINK, MKDIR, SHARED_MAP, ALLOCATE, RMDIR };

struct header {
    uint32_t magic, kind;
    uint64_t object, offset, length, token;
};

struct fault {
    int32_t armed;     /* 0: nothing fails */
    int32_t kinds;     /* bit of each kind that counts, by the enum above */
    int32_t number;    /* the errno to answer */
    int32_t countdown; /* this many matching calls succeed first */
    int32_t sticky;    /* 0: one failure, then disarmed */
    int32_t partial;   /* a failing write first puts half of its bytes */
    int32_t hits;      /* failures so far */
    int32_t calls;     /* matching calls so far, armed or not */
};

static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1, broken;
static struct fault *fault;
static uint64_t tokens;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void start(void)
{
    const char *value = getenv("CRASH_ROOT");
    if (value == NULL) return;
    snprintf(root, sizeof root, "%s", value);
    root_length = strlen(root);
    broken = getenv("CRASH_NOSYNC") != NULL;
    if ((value = getenv("CRASH_LOG")) != NULL) {
        int fd = REAL(open64)(value, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 900);
        REAL(close)(fd);
    }
    if ((value = getenv("CRASH_FAULT")) != NULL) {
        int fd = REAL(open64)(value, O_RDWR | O_CLOEXEC);
        void *map = REAL(mmap64)(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) fault = map;
        REAL(close)(fd);
    }
}

static int inside(const char *path)
{
    return root_length > 0 && strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

/* The path of an open file when it is below the root, otherwise 0. */
static int fd_path(int fd, char *path)
{
    char link[64];
    ssize_t length;
    int saved = errno;
    if (root_length == 0 || fd < 0 || fd == log_fd) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, PATH_MAX - 1);
    errno = saved;
    if (length <= 0) return 0;
    path[length] = 0;
    return inside(path);
}

/* The canonical path of a name that may not exist yet, when it is below the root, otherwise 0. */
static int name_path(int directory, const char *name, char *path)
{
    char joined[PATH_MAX * 2], base[PATH_MAX], parent[PATH_MAX];
    char *slash;
    int saved = errno;
    if (root_length == 0 || name == NULL) return 0;
    if (name[0] == '/') {
        snprintf(joined, sizeof joined, "%s", name);
    } else if (directory == AT_FDCWD) {
        if (getcwd(base, sizeof base) == NULL) return 0;
        snprintf(joined, sizeof joined, "%s/%s", base, name);
    } else {
        if (!fd_path(directory, base)) return 0;
        snprintf(joined, sizeof joined, "%s/%s", base, name);
    }
    slash = strrchr(joined, '/');
    if (slash == joined || slash == NULL) return 0;
    *slash = 0;
    if (realpath(joined, parent) == NULL) {
        errno = saved;
        return 0;
    }
    errno = saved;
    if (snprintf(path, PATH_MAX, "%s/%s", parent, slash + 1) >= PATH_MAX) return 0;
    return inside(path);
}

static uint64_t object_of(int fd)
{
    struct stat st;
    int saved = errno;
    if (fstat(fd, &st) != 0) st.st_ino = 0;
    errno = saved;
    return st.st_ino;
}

static void put(uint32_t kind, uint64_t object, uint64_t offset, uint64_t token, const struct iovec *parts, int count)
{
    struct header header = {0x4c514e41, kind, object, offset, 0, token};
    struct iovec all[1025];
    int saved = errno;
    if (log_fd < 0) return;
    all[0].iov_base = &header;
    all[0].iov_len = sizeof header;
    for (int i = 0; i < count; i++) {
        all[i + 1] = parts[i];
        header.length += parts[i].iov_len;
    }
    if (REAL(writev)(log_fd, all, count + 1) != (ssize_t)(sizeof header + header.length)) abort();
    errno = saved;
}

static void put_text(uint32_t kind, uint64_t object, const char *text, const char *more)
{
    struct iovec parts[2] = {{(void *)text, strlen(text) + (more != NULL)}, {(void *)more, more ? strlen(more) : 0}};
    put(kind, object, 0, 0, parts, more ? 2 : 1);
}

/* Count a call; return the errno with which it shall fail, or 0. The mutex is held. */
static int fails(int kind)
{
    if (fault == NULL || !(fault->kinds & (1 << kind))) return 0;
    fault->calls++;
    if (!fault->armed) return 0;
    if (fault->countdown > 0) {
        fault->countdown--;
        return 0;
    }
    if (!fault->sticky) fault->armed = 0;
    fault->hits++;
    return fault->number;
}

typedef ssize_t (*writer)(int fd, const struct iovec *parts, int count, off64_t offset);

static ssize_t at_offset(int fd, const struct iovec *parts, int count, off64_t offset)
{
    return REAL(pwritev64)(fd, parts, count, offset);
}

static ssize_t at_position(int fd, const struct iovec *parts, int count, off64_t offset)
{
    (void)offset;
    return REAL(writev)(fd, parts, count);
}

static ssize_t logged(int fd, const struct iovec *parts, int count, off64_t offset, writer call)
{
    char path[PATH_MAX];
    int flags, durable, number;
    uint64_t object, token;
    ssize_t result;
    if (!fd_path(fd, path)) return call(fd, parts, count, offset);
    pthread_mutex_lock(&mutex);
    if ((number = fails(WRITE)) != 0) {
        if (fault->partial && parts[0].iov_len > 1) {
            struct iovec half = {parts[0].iov_base, parts[0].iov_len / 2};
            result = call(fd, &half, 1, offset);
            pthread_mutex_unlock(&mutex);
            return result;
        }
        pthread_mutex_unlock(&mutex);
        errno = number;
        return -1;
    }
    flags = fcntl(fd, F_GETFL);
    if (call == at_position) offset = flags & O_APPEND ? lseek64(fd, 0, SEEK_END) : lseek64(fd, 0, SEEK_CUR);
    durable = !broken && (flags & O_DSYNC) != 0;
    if (durable && (number = fails(WRITTEN)) != 0) {
        pthread_mutex_unlock(&mutex);
        errno = number;
        return -1;
    }
    object = object_of(fd);
    token = ++tokens;
    put(WRITE, object, (uint64_t)offset, token, parts, count);
    result = call(fd, parts, count, offset);
    if (durable && result >= 0) put(WRITTEN, object, 0, token, NULL, 0);
    pthread_mutex_unlock(&mutex);
    return result;
}

ssize_t write(int fd, const void *data, size_t size)
{
    struct iovec part = {(void *)data, size};
    char path[PATH_MAX];
    if (!fd_path(fd, path)) return REAL(write)(fd, data, size);
    return logged(fd, &part, 1, 0, at_position);
}

ssize_t writev(int fd, const struct iovec *parts, int count) { return logged(fd, parts, count, 0, at_position); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) { return logged(fd, parts, count, offset, at_offset); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return logged(fd, parts, count, offset, at_offset); }
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
{
    if (flags != 0) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return logged(fd, parts, count, offset, at_offset);
}
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    return pwritev64v2(fd, parts, count, offset, flags);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    struct iovec part = {(void *)data, size};
    return logged(fd, &part, 1, offset, at_offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

static int resized(int fd, off64_t size)
{
    char path[PATH_MAX];
    int result, number;
    if (!fd_path(fd, path)) return REAL(ftruncate64)(fd, size);
    pthread_mutex_lock(&mutex);
    if ((number = fails(TRUNCATE)) != 0) {
        pthread_mutex_unlock(&mutex);
        errno = number;
        return -1;
    }
    put(TRUNCATE, object_of(fd), (uint64_t)size, 0, NULL, 0);
    result = REAL(ftruncate64)(fd, size);
    pthread_mutex_unlock(&mutex);
    return result;
}

static int resized_by_name(const char *name, off64_t size)
{
    char path[PATH_MAX];
    struct stat st;
    int result;
    if (!name_path(AT_FDCWD, name, path) || stat(name, &st) != 0) return REAL(truncate64)(name, size);
    pthread_mutex_lock(&mutex);
    put(TRUNCATE, st.st_ino, (uint64_t)size, 0, NULL, 0);
    result = REAL(truncate64)(name, size);
    pthread_mutex_unlock(&mutex);
    return result;
}

int truncate(const char *name, off_t size) { return resized_by_name(name, size); }
int truncate64(const char *name, off64_t size) { return resized_by_name(name, size); }
int ftruncate(int fd, off_t size) { return resized(fd, size); }
int ftruncate64(int fd, off64_t size) { return resized(fd, size); }

static int allocated(int fd, int mode, off64_t offset, off64_t size)
{
    char path[PATH_MAX];
    int result;
    if (!fd_path(fd, path)) return REAL(fallocate64)(fd, mode, offset, size);
    pthread_mutex_lock(&mutex);
    put(ALLOCATE, object_of(fd), (uint64_t)(offset + size), (uint64_t)mode, NULL, 0);
    result = REAL(fallocate64)(fd, mode, offset, size);
    pthread_mutex_unlock(&mutex);
    return result;
}

int fallocate(int fd, int mode, off_t offset, off_t size) { return allocated(fd, mode, offset, size); }
int fallocate64(int fd, int mode, off64_t offset, off64_t size) { return allocated(fd, mode, offset, size); }
int posix_fallocate(int fd, off_t offset, off_t size) { return allocated(fd, 0, offset, size) == 0 ? 0 : errno; }
int posix_fallocate64(int fd, off64_t offset, off64_t size) { return allocated(fd, 0, offset, size) == 0 ? 0 : errno; }

typedef int (*syncer)(int fd);

static int synced(int fd, syncer call)
{
    char path[PATH_MAX];
    uint64_t object, token;
    int result, number;
    if (!fd_path(fd, path)) return call(fd);
    if (broken) return 0;
    pthread_mutex_lock(&mutex);
    number = fails(SYNC_BEGIN);
    object = object_of(fd);
    token = ++tokens;
    if (number == 0) put(SYNC_BEGIN, object, 0, token, NULL, 0);
    pthread_mutex_unlock(&mutex);
    if (number != 0) {
        errno = number;
        return -1;
    }
    result = call(fd);
    pthread_mutex_lock(&mutex);
    if (result == 0) put(SYNC_END, object, 0, token, NULL, 0);
    pthread_mutex_unlock(&mutex);
    return result;
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }
/* A sync of a part, or of a map, is made but is no barrier in the log: nothing may rely on it. */

static void opened(int fd, const char *path, int flags, int existed)
{
    if (fd < 0) return;
    if (!existed) put_text(CREATE, object_of(fd), path, NULL);
    else if (flags & O_TRUNC) put(TRUNCATE, object_of(fd), 0, 0, NULL, 0);
}

static int open_at(int directory, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    int fd, existed, number, saved;
    if (!(flags & (O_CREAT | O_TRUNC)) || !name_path(directory, name, path)) {
        if (broken && name_path(directory, name, path)) flags &= ~O_SYNC;
        return REAL(openat64)(directory, name, flags, mode);
    }
    if (broken) flags &= ~O_SYNC;
    pthread_mutex_lock(&mutex);
    if ((number = fails(CREATE)) != 0) {
        pthread_mutex_unlock(&mutex);
        errno = number;
        return -1;
    }
    saved = errno;
    existed = faccessat(directory, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    errno = saved;
    fd = REAL(openat64)(directory, name, flags, mode);
    opened(fd, path, flags, existed);
    pthread_mutex_unlock(&mutex);
    return fd;
}

#define OPEN(directory) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list list; \
        va_start(list, flags); \
        mode = va_arg(list, mode_t); \
        va_end(list); \
    } \
    return open_at(directory, name, flags, mode)

int open(const char *name, int flags, ...) { OPEN(AT_FDCWD); }
int open64(const char *name, int flags, ...) { OPEN(AT_FDCWD); }
int openat(int directory, const char *name, int flags, ...) { OPEN(directory); }
int openat64(int directory, const char *name, int flags, ...) { OPEN(directory); }
int creat(const char *name, mode_t mode) { return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int renameat(int old_directory, const char *old_name, int new_directory, const char *new_name)
{
    char old_path[PATH_MAX], new_path[PATH_MAX];
    int result, number;
    if (!name_path(old_directory, old_name, old_path) || !name_path(new_directory, new_name, new_path))
        return REAL(renameat)(old_directory, old_name, new_directory, new_name);
    pthread_mutex_lock(&mutex);
    if ((number = fails(RENAME)) != 0) {
        pthread_mutex_unlock(&mutex);
        errno = number;
        return -1;
    }
    result = REAL(renameat)(old_directory, old_name, new_directory, new_name);
    if (result == 0) put_text(RENAME, 0, old_path, new_path);
    pthread_mutex_unlock(&mutex);
    return result;
}

int rename(const char *old_name, const char *new_name) { return renameat(AT_FDCWD, old_name, AT_FDCWD, new_name); }

int unlinkat(int directory, const char *name, int flags)
{
    char path[PATH_MAX];
    int result;
    if (!name_path(directory, name, path)) return REAL(unlinkat)(directory, name, flags);
    pthread_mutex_lock(&mutex);
    result = REAL(unlinkat)(directory, name, flags);
    if (result == 0) put_text(flags & AT_REMOVEDIR ? RMDIR : UNLINK, 0, path, NULL);
    pthread_mutex_unlock(&mutex);
    return result;
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int directory, const char *name, mode_t mode)
{
    char path[PATH_MAX];
    int result;
    if (!name_path(directory, name, path)) return REAL(mkdirat)(directory, name, mode);
    pthread_mutex_lock(&mutex);
    result = REAL(mkdirat)(directory, name, mode);
    if (result == 0) {
        struct stat st;
        if (fstatat(directory, name, &st, 0) == 0) put_text(MKDIR, st.st_ino, path, NULL);
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

static void *mapped(void *address, size_t size, int protection, int flags, int fd, off64_t offset)
{
    char path[PATH_MAX];
    if ((protection & PROT_WRITE) && (flags & MAP_SHARED) && fd >= 0 && fd_path(fd, path)) {
        pthread_mutex_lock(&mutex);
        put_text(SHARED_MAP, object_of(fd), path, NULL);
        pthread_mutex_unlock(&mutex);
    }
    return REAL(mmap64)(address, size, protection, flags, fd, offset);
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    return mapped(address, size, protection, flags, fd, offset);
}
void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset)
{
    return mapped(address, size, protection, flags, fd, offset);
}

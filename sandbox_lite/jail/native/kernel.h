/* What first.c and nest.c ask of the kernel, without a C library. */

typedef unsigned int u32;
typedef int i32;
typedef unsigned long ulong;

#if defined(__x86_64__)
enum {
    SYS_write = 1, SYS_close = 3, SYS_mmap = 9, SYS_munmap = 11, SYS_ioctl = 16, SYS_dup3 = 292, SYS_sendmsg = 46,
    SYS_recvmsg = 47, SYS_clone = 56, SYS_execve = 59, SYS_exit_group = 231, SYS_wait4 = 61,
    SYS_kill = 62, SYS_umask = 95, SYS_chdir = 80, SYS_setpgid = 109, SYS_setsid = 112,
    SYS_prctl = 157, SYS_openat = 257, SYS_ppoll = 271, SYS_signalfd4 = 289,
    SYS_rt_sigprocmask = 14, SYS_rt_sigaction = 13, SYS_read = 0, SYS_lseek = 8, SYS_fcntl = 72,
    SYS_mount = 165, SYS_mkdirat = 258, SYS_getpid = 39, SYS_getppid = 110, SYS_close_range = 436,
    SYS_clone3 = 435, SYS_capget = 125, SYS_setns = 308, SYS_fork = 57, SYS_vfork = 58,
    SYS_execveat = 322
};
static long call(long n, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call serve\n");
#elif defined(__aarch64__)
enum {
    SYS_write = 64, SYS_close = 57, SYS_mmap = 222, SYS_munmap = 215, SYS_ioctl = 29, SYS_dup3 = 24, SYS_sendmsg = 211,
    SYS_recvmsg = 212, SYS_clone = 220, SYS_execve = 221, SYS_exit_group = 94, SYS_wait4 = 260,
    SYS_kill = 129, SYS_umask = 166, SYS_chdir = 49, SYS_setpgid = 154, SYS_setsid = 157,
    SYS_prctl = 167, SYS_openat = 56, SYS_ppoll = 73, SYS_signalfd4 = 74,
    SYS_rt_sigprocmask = 135, SYS_rt_sigaction = 134, SYS_read = 63, SYS_lseek = 62, SYS_fcntl = 25,
    SYS_mount = 40, SYS_mkdirat = 34, SYS_getpid = 172, SYS_getppid = 173, SYS_close_range = 436,
    SYS_clone3 = 435, SYS_capget = 90, SYS_setns = 268, SYS_fork = SYS_clone, SYS_vfork = SYS_clone,
    SYS_execveat = 281
};
static long call(long n, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x30, #0\n mov x0, sp\n bl serve\n");
#else
#error "which architecture is this?"
#endif

#define CALL1(n, a) call(n, (long)(a), 0, 0, 0, 0, 0)
#define CALL2(n, a, b) call(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define CALL3(n, a, b, c) call(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define CALL4(n, a, b, c, d) call(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

enum { EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, E2BIG = 7, ENOEXEC = 8, ECHILD = 10, EAGAIN = 11,
       ENOMEM = 12, EACCES = 13, ENOTDIR = 20, EISDIR = 21, EINVAL = 22, ENAMETOOLONG = 36,
       ELOOP = 40 };
enum { CONTROL = 3, SIGNAL = 4, FDS = 48, READY = 'R', NO_VERB = '?' };
enum { AT_FDCWD = -100, O_RDWR = 2, O_WRONLY = 1, O_CLOEXEC = 02000000, O_PATH = 010000000 };
enum { SIGCHLD = 17, SIGNALS = 64, SIG_BLOCK = 0, SIG_SETMASK = 2 };
enum { PR_SET_PDEATHSIG = 1, PR_SET_DUMPABLE = 4, PR_SET_NAME = 15, TIOCSCTTY = 0x540e,
       MSG_CMSG_CLOEXEC = 0x40000000, MSG_NOSIGNAL = 0x4000, SOL_SOCKET = 1, SCM_RIGHTS = 1,
       POLLIN = 1, WNOHANG = 1, CLONE_PIDFD = 0x1000 };

void *memset(void *to, int value, ulong count)
{
    for (ulong n = 0; n < count; n++)
        ((volatile char *)to)[n] = (char)value;
    return to;
}

static ulong length(const char *text)
{
    ulong n = 0;
    while (text[n])
        n++;
    return n;
}

static const char *after(const char *text) { return text + length(text) + 1; }

static void say(const char *text) { CALL3(SYS_write, 2, text, length(text)); }

static const char *reason(long error)
{
    switch (-error) {
    case ENOENT: return "No such file or directory";
    case EACCES: return "Permission denied";
    case EPERM: return "Operation not permitted";
    case ENOTDIR: return "Not a directory";
    case EISDIR: return "Is a directory";
    case E2BIG: return "Argument list too long";
    case ENOEXEC: return "Exec format error";
    case ENAMETOOLONG: return "File name too long";
    case ELOOP: return "Too many levels of symbolic links";
    case ENOMEM: return "Cannot allocate memory";
    default: return "cannot be used";
    }
}

static void fail(const char *what, const char *name, long error, int code)
{
    say(what);
    say(name);
    say(": ");
    say(reason(error));
    say("\n");
    CALL1(SYS_exit_group, code);
}

/* A request, and its answer. */
struct message { u32 verb, number, key; i32 value; };

/* The descriptors that came with the last request. */
static i32 given[FDS];

static void leave(int count)
{
    for (int n = 0; n < count; n++)
        CALL1(SYS_close, given[n]);
}

static void default_signals(void)
{
    struct { ulong handler, flags, restorer, mask; } by_default = {0, 0, 0, 0};
    for (int number = 1; number <= SIGNALS; number++)
        CALL4(SYS_rt_sigaction, number, &by_default, 0, 8);
    ulong none = 0;
    CALL4(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, 8);
}

/* What a memory file holds, as memory of our own; we end where there is less than expected. */
static long content(i32 fd, ulong least)
{
    long size = CALL3(SYS_lseek, fd, 0, 2);
    long at = call(SYS_mmap, 0, size, 3, 2, fd, 0); /* read and write; private */
    if (size < (long)least || (at < 0 && at > -4096))
        CALL1(SYS_exit_group, 126);
    return at;
}

static int take(struct message *asked)
{
    struct { void *base; ulong size; } vector = {asked, sizeof *asked};
    struct { ulong length; i32 level, kind; i32 fds[FDS]; } rights;
    struct {
        void *name; u32 name_size; void *vector; ulong vectors; void *control; ulong control_size;
        i32 flags;
    } header = {0, 0, &vector, 1, &rights, sizeof rights, 0};
    long got = CALL3(SYS_recvmsg, CONTROL, &header, MSG_CMSG_CLOEXEC);
    if (got == 0 || (got < 0 && got != -EINTR && got != -EAGAIN))
        CALL1(SYS_exit_group, 0);
    int count = 0;
    if (got > 0 && header.control_size > 16 && rights.level == SOL_SOCKET
        && rights.kind == SCM_RIGHTS)
        for (; count < (int)(rights.length - 16) / 4; count++)
            given[count] = rights.fds[count];
    if (got != sizeof *asked)
        asked->verb = NO_VERB;
    return count;
}

/* `fd` is given with it, unless it is below zero. */
static void send(u32 verb, u32 number, u32 key, i32 value, i32 fd)
{
    struct message said = {verb, number, key, value};
    struct { void *base; ulong size; } vector = {&said, sizeof said};
    struct { ulong length; i32 level, kind; i32 fd, end; } rights = {20, SOL_SOCKET, SCM_RIGHTS,
                                                                     fd, 0};
    struct {
        void *name; u32 name_size; void *vector; ulong vectors; void *control; ulong control_size;
        i32 flags;
    } header = {0, 0, &vector, 1, fd < 0 ? 0 : &rights, fd < 0 ? 0 : sizeof rights, 0};
    CALL3(SYS_sendmsg, CONTROL, &header, MSG_NOSIGNAL);
}

/* From the start's descriptors to those of a server, which says that it is ready. */
static void begin(void)
{
    ulong waited = 1ul << (SIGCHLD - 1);
    CALL4(SYS_rt_sigprocmask, SIG_SETMASK, &waited, 0, 8);
    CALL3(SYS_dup3, 0, CONTROL, O_CLOEXEC);
    long ends = CALL4(SYS_signalfd4, -1, &waited, 8, O_CLOEXEC);
    if (ends != SIGNAL)
        CALL3(SYS_dup3, ends, SIGNAL, O_CLOEXEC);
    if (CALL3(SYS_close_range, SIGNAL + 1, ~0u, 0) < 0)
        for (int n = SIGNAL + 1; n < 65536; n++) /* before Linux 5.9 */
            CALL1(SYS_close, n);
    long null = CALL4(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
    for (int n = 0; n < 3; n++)
        CALL3(SYS_dup3, null, n, 0);
    CALL1(SYS_close, null);
    send(READY, 0, 0, (i32)CALL1(SYS_getpid, 0), -1);
}

/* Wait for a request, or for the end of a child: whether there was one of those. */
static int next(struct message *asked, int *count)
{
    struct { i32 fd; short wanted, found; } looked[2] = {{CONTROL, POLLIN, 0}, {SIGNAL, POLLIN, 0}};
    CALL4(SYS_ppoll, looked, 2, 0, 0);
    if (looked[1].found) {
        char info[128];
        CALL3(SYS_read, SIGNAL, info, sizeof info);
    }
    if (looked[0].found)
        *count = take(asked);
    return looked[1].found;
}

/* What `ps` shows of us: the kernel has us started by a number. */
static void rename(char *words, const char *name)
{
    CALL2(SYS_prctl, PR_SET_NAME, name);
    ulong room = length(words), wanted = length(name);
    for (ulong n = 0; n < room; n++)
        words[n] = n < wanted ? name[n] : 0;
}

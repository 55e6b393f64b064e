/* Process 1 of a sandbox: starts shells and programs, says how they ended, reaps orphans.
 *
 * Requests come on a SOCK_SEQPACKET socket, standard input, whose other end the host holds; end of
 * file ends the sandbox, for with process 1 the kernel ends all of a pid namespace. Each request
 * has one answer with its number. A program comes as a `plan` in a memory file: see `struct plan`.
 *
 * No C library: one that is started in a virtual machine executes CPUID dozens of times, each of
 * which traps, and that took a tenth of a whole start. `scripts/make-first` compiles it.
 */

typedef unsigned int u32;
typedef int i32;
typedef unsigned long ulong;

#if defined(__x86_64__)
enum {
    SYS_write = 1, SYS_close = 3, SYS_mmap = 9, SYS_ioctl = 16, SYS_dup3 = 292, SYS_sendto = 44,
    SYS_recvmsg = 47, SYS_clone = 56, SYS_execve = 59, SYS_exit_group = 231, SYS_wait4 = 61,
    SYS_kill = 62, SYS_umask = 95, SYS_chdir = 80, SYS_setpgid = 109, SYS_setsid = 112,
    SYS_prctl = 157, SYS_openat = 257, SYS_ppoll = 271, SYS_signalfd4 = 289,
    SYS_rt_sigprocmask = 14, SYS_rt_sigaction = 13, SYS_read = 0, SYS_lseek = 8,
    SYS_close_range = 436
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
    SYS_write = 64, SYS_close = 57, SYS_mmap = 222, SYS_ioctl = 29, SYS_dup3 = 24, SYS_sendto = 206,
    SYS_recvmsg = 212, SYS_clone = 220, SYS_execve = 221, SYS_exit_group = 94, SYS_wait4 = 260,
    SYS_kill = 129, SYS_umask = 166, SYS_chdir = 49, SYS_setpgid = 154, SYS_setsid = 157,
    SYS_prctl = 167, SYS_openat = 56, SYS_ppoll = 73, SYS_signalfd4 = 74,
    SYS_rt_sigprocmask = 135, SYS_rt_sigaction = 134, SYS_read = 63, SYS_lseek = 62,
    SYS_close_range = 436
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

enum { EPERM = 1, ENOENT = 2, ESRCH = 3, E2BIG = 7, ENOEXEC = 8, ECHILD = 10, EAGAIN = 11,
       ENOMEM = 12, EACCES = 13, ENOTDIR = 20, EISDIR = 21, EINVAL = 22, ENAMETOOLONG = 36,
       ELOOP = 40 };
enum { AT_FDCWD = -100, O_RDWR = 2, O_WRONLY = 1, O_CLOEXEC = 02000000 };
enum { SIGCHLD = 17, SIGNALS = 64, SIG_BLOCK = 0, SIG_SETMASK = 2 };
enum { PR_SET_DUMPABLE = 4, PR_SET_NAME = 15, TIOCSCTTY = 0x540e, MSG_CMSG_CLOEXEC = 0x40000000, MSG_NOSIGNAL = 0x4000,
       MSG_DONTWAIT = 0x40, SOL_SOCKET = 1, SCM_RIGHTS = 1, POLLIN = 1, WNOHANG = 1 };

enum { START = 'S', KILL = 'K', WAIT = 'W', FORGET = 'F', READY = 'R' };
enum { TERMINAL = 1, ANYWHERE = 2 }; /* of a plan: lead a terminal; never mind the directory */
enum { CONTROL = 3, SIGNAL = 4, MOST = 1024, FDS = 4, NOT_FOUND = 127, NOT_RUN = 126 };

struct message { u32 verb, number, key; i32 value; };

/* Behind it: two directories to enter in turn, empty for none, words, variables, each with a NUL. */
struct plan { u32 flags, words, variables, unused; };

struct child { u32 key; i32 pid, status; };

static struct child children[MOST]; /* pid 0: free; below 0: has ended, was -pid */
static int used; /* places beyond it were never taken */
static i32 given[FDS];
static char **environment;

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

/* What has no #! line is a shell's, as bash has it. */
static long execute(char *path, char **words)
{
    long error = CALL3(SYS_execve, path, words, environment);
    if (error == -ENOEXEC) {
        words[0] = path;
        words[-1] = "bash";
        CALL3(SYS_execve, "/bin/bash", words - 1, environment);
    }
    return error;
}

static long search(char *name, char **words)
{
    static char path[8192];
    const char *where = "";
    long found = -ENOENT;
    for (ulong n = 0; environment[n]; n++) {
        const char *one = environment[n];
        if (one[0] == 'P' && one[1] == 'A' && one[2] == 'T' && one[3] == 'H' && one[4] == '=')
            where = one + 5;
    }
    ulong wanted = length(name);
    for (;;) {
        ulong n = 0, end = 0;
        while (where[end] && where[end] != ':')
            end++;
        if (end + wanted + 2 < sizeof path) {
            for (; n < end; n++)
                path[n] = where[n];
            if (n)
                path[n++] = '/';
            for (ulong m = 0; m <= wanted; m++)
                path[n++] = name[m];
            long error = execute(path, words);
            if (error == -EACCES)
                found = error;
            else if (error != -ENOENT && error != -ENOTDIR)
                return error;
        }
        if (!where[end])
            return found;
        where += end + 1;
    }
}

static void enter(const char *directory, u32 flags)
{
    long error = *directory ? CALL1(SYS_chdir, directory) : 0;
    if (error < 0 && !(flags & ANYWHERE))
        fail("cd: ", directory, error, NOT_RUN);
}

static void become(int count)
{
    struct { ulong handler, flags, restorer, mask; } by_default = {0, 0, 0, 0};
    for (int number = 1; number <= SIGNALS; number++)
        CALL4(SYS_rt_sigaction, number, &by_default, 0, 8);
    ulong none = 0;
    CALL4(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, 8);
    for (int n = 1; n < count; n++)
        CALL3(SYS_dup3, given[n], n - 1, 0);
    long size = CALL3(SYS_lseek, given[0], 0, 2);
    long at = call(SYS_mmap, 0, size, 3, 2, given[0], 0); /* read and write; private */
    if (size < (long)sizeof(struct plan) || (at < 0 && at > -4096))
        CALL1(SYS_exit_group, NOT_RUN);
    struct plan *plan = (struct plan *)at;
    ulong room = (plan->words + plan->variables + 3) * sizeof(char *);
    long list = call(SYS_mmap, 0, room, 3, 0x22, -1, 0); /* private; of no file */
    if (list < 0 && list > -4096)
        CALL1(SYS_exit_group, NOT_RUN);
    char **words = (char **)list + 1; /* one before them, see `execute` */
    environment = words + plan->words + 1;
    const char *first = (char *)(plan + 1), *second = after(first), *text = after(second);
    for (u32 n = 0; n < plan->words; n++, text = after(text))
        words[n] = (char *)text;
    for (u32 n = 0; n < plan->variables; n++, text = after(text))
        environment[n] = (char *)text;
    /* Until now nobody inside could touch us; what a program may write of its own, it may. */
    CALL2(SYS_prctl, PR_SET_DUMPABLE, 1);
    /* Inherited by all that it starts: before process 1, and before anything of the host's, the
     * kernel kills these where memory runs short. Raising it needs no privilege. */
    long adjust = CALL4(SYS_openat, AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC, 0);
    if (adjust >= 0)
        CALL3(SYS_write, adjust, "500", 3);
    if (plan->flags & TERMINAL) {
        CALL1(SYS_setsid, 0);
        CALL3(SYS_ioctl, 0, TIOCSCTTY, 0);
    } else {
        CALL2(SYS_setpgid, 0, 0); /* a process group of its own, to be ended as one */
    }
    enter(first, plan->flags);
    enter(second, plan->flags);
    char *name = words[0];
    int path = 0;
    for (const char *letter = name; *letter; letter++)
        path |= *letter == '/';
    long error = path ? execute(name, words) : *name ? search(name, words) : -ENOENT;
    if (error == -ENOENT && !path) {
        say("exec: ");
        say(name);
        say(": not found\n");
        CALL1(SYS_exit_group, NOT_FOUND);
    }
    fail("exec: ", name, error, error == -ENOENT ? NOT_FOUND : NOT_RUN);
}

static struct child *known(u32 key)
{
    for (int n = 0; n < used; n++)
        if (children[n].pid && children[n].key == key)
            return &children[n];
    return 0;
}

static struct child *free_place(void)
{
    for (int n = 0; n < used; n++)
        if (!children[n].pid)
            return &children[n];
    return used < MOST ? &children[used++] : 0;
}

static i32 start(u32 key, int count)
{
    if (!count || !key || known(key))
        return -EINVAL;
    struct child *place = free_place();
    if (!place)
        return -EAGAIN;
    long pid = call(SYS_clone, SIGCHLD, 0, 0, 0, 0, 0);
    if (pid == 0)
        become(count);
    if (pid > 0) {
        place->key = key;
        place->pid = (i32)pid;
    }
    return (i32)pid;
}

/* Orphans are reaped as well, and forgotten. */
static void reap(void)
{
    i32 status = 0;
    long pid;
    while ((pid = CALL4(SYS_wait4, -1, &status, WNOHANG, 0)) > 0)
        for (int n = 0; n < used; n++)
            if (children[n].pid == pid) {
                children[n].pid = -(i32)pid;
                children[n].status = status;
                if (children[n].key == 0)
                    children[n].pid = 0;
            }
}

static i32 answer_to(const struct message *asked, int count)
{
    struct child *child = asked->verb == START ? 0 : known(asked->key);
    if (asked->verb == START)
        return start(asked->key, count);
    if (!child)
        return -ECHILD;
    i32 pid = child->pid < 0 ? -child->pid : child->pid;
    long error;
    switch (asked->verb) {
    case KILL: /* the group outlives its leader; one that just begins has none yet */
        error = CALL2(SYS_kill, -pid, asked->value);
        return (i32)(error == -ESRCH && child->pid > 0 ? CALL2(SYS_kill, pid, asked->value) : error);
    case WAIT:
        reap();
        if (child->pid > 0)
            return -EAGAIN;
        child->pid = 0;
        return child->status;
    case FORGET:
        child->key = 0;
        if (child->pid < 0)
            child->pid = 0;
        return 0;
    default:
        return -EINVAL;
    }
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
    if (got == 0)
        CALL1(SYS_exit_group, 0);
    int count = 0;
    if (got > 0 && header.control_size > 16 && rights.level == SOL_SOCKET
        && rights.kind == SCM_RIGHTS)
        for (; count < (int)(rights.length - 16) / 4; count++)
            given[count] = rights.fds[count];
    if (got != sizeof *asked)
        asked->verb = 0;
    return count;
}

static void send(u32 verb, u32 number, u32 key, i32 value)
{
    struct message said = {verb, number, key, value};
    call(SYS_sendto, CONTROL, (long)&said, sizeof said, MSG_NOSIGNAL, 0, 0);
}

/* What `ps` shows of us: the kernel has us started by a number. */
static void rename(char *words)
{
    static const char name[] = "sandbox-lite";
    CALL2(SYS_prctl, PR_SET_NAME, name);
    ulong room = length(words);
    for (ulong n = 0; n < room; n++)
        words[n] = n < sizeof name - 1 ? name[n] : 0;
}

/* `stack` is as the kernel leaves it: the number of words, and where they are. */
void serve(ulong *stack)
{
    rename((char *)stack[1]);
    /* Neither /proc/1/fd nor /proc/1/mem opens for anybody inside, nor can it be traced. */
    CALL2(SYS_prctl, PR_SET_DUMPABLE, 0);
    CALL1(SYS_umask, 022);
    ulong waited = 1ul << (SIGCHLD - 1);
    CALL4(SYS_rt_sigprocmask, SIG_SETMASK, &waited, 0, 8);
    CALL3(SYS_dup3, 0, CONTROL, O_CLOEXEC);
    long ends = CALL4(SYS_signalfd4, -1, &waited, 8, O_CLOEXEC);
    if (ends != SIGNAL)
        CALL3(SYS_dup3, ends, SIGNAL, O_CLOEXEC);
    if (CALL3(SYS_close_range, SIGNAL + 1, ~0u, 0) < 0)
        for (int n = SIGNAL + 1; n < 1024; n++) /* before Linux 5.9 */
            CALL1(SYS_close, n);
    long null = CALL4(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
    for (int n = 0; n < 3; n++)
        CALL3(SYS_dup3, null, n, 0);
    CALL1(SYS_close, null);
    send(READY, 0, 0, 0);
    for (;;) {
        struct { i32 fd; short wanted, found; } looked[2] = {{CONTROL, POLLIN, 0},
                                                             {SIGNAL, POLLIN, 0}};
        CALL4(SYS_ppoll, looked, 2, 0, 0);
        if (looked[1].found) {
            char info[128];
            CALL3(SYS_read, SIGNAL, info, sizeof info);
            reap();
        }
        if (looked[0].found) {
            struct message asked = {0, 0, 0, 0};
            int count = take(&asked);
            i32 value = answer_to(&asked, count);
            for (int n = 0; n < count; n++)
                CALL1(SYS_close, given[n]);
            send(asked.verb, asked.number, asked.key, value);
        }
    }
}

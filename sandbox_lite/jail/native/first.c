/* Process 1 of a sandbox: starts shells and programs, says how they ended, reaps orphans.
 *
 * Requests come on a SOCK_SEQPACKET socket, standard input, whose other end the host holds; end of
 * file ends the sandbox, for with process 1 the kernel ends all of a pid namespace. Each request
 * has one answer with its number. A program comes as a `plan` in a memory file: see `struct plan`.
 *
 * No C library: one that is started in a virtual machine executes CPUID dozens of times, each of
 * which traps, and that took a tenth of a whole start. `scripts/make-native` compiles it.
 */

#include "kernel.h"

enum { START = 'S', KILL = 'K', WAIT = 'W', FORGET = 'F' };
enum { TERMINAL = 1, ANYWHERE = 2 }; /* of a plan: lead a terminal; never mind the directory */
enum { PR_CAPBSET_DROP = 24, MOST = 1024, NOT_FOUND = 127, NOT_RUN = 126 };
enum { PR_SET_SECCOMP = 22, SECCOMP_MODE_FILTER = 2 };

/* Behind it: two directories to enter in turn, empty for none, words, variables, each with a NUL. */
struct plan { u32 flags, words, variables, unused; };

struct child { u32 key; i32 pid, status; };

static struct child children[MOST]; /* pid 0: free; below 0: has ended, was -pid */
static int used; /* places beyond it were never taken */
static char **environment;

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
    default_signals();
    for (int n = 1; n < count; n++)
        CALL3(SYS_dup3, given[n], n - 1, 0);
    long at = content(given[0], sizeof(struct plan));
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
    /* Up to here nobody inside can look at us; from here on what we hold is theirs to take. */
    CALL1(SYS_close, CONTROL);
    CALL1(SYS_close, SIGNAL);
    CALL1(SYS_close, given[0]);
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

static i32 start(u32 key, int count, i32 *pidfd)
{
    if (!count || !key || known(key))
        return -EINVAL;
    struct child *place = free_place();
    if (!place)
        return -EAGAIN;
    long pid = call(SYS_clone, SIGCHLD | CLONE_PIDFD, 0, (long)pidfd, 0, 0, 0);
    if (pid == 0)
        become(count);
    if (pid < 0)
        *pidfd = -1;
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

static i32 answer_to(const struct message *asked, int count, i32 *pidfd)
{
    struct child *child = asked->verb == START ? 0 : known(asked->key);
    if (asked->verb == START)
        return start(asked->key, count, pidfd);
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

/* No child can ever hold more than we do. None could gain it under no-new-privs either, but bwrap
 * leaves the bound as it was where it makes no user namespace, and an audit from inside reads it. */
static void bound_capabilities(void)
{
    struct { u32 version; i32 pid; } header = {0x20080522, 0};
    struct { u32 effective, permitted, inheritable; } held[2] = {{0, 0, 0}, {0, 0, 0}};
    CALL2(SYS_capget, &header, held);
    for (int n = 0; n < 64; n++)
        if (!(held[n / 32].permitted >> n % 32 & 1))
            CALL2(SYS_prctl, PR_CAPBSET_DROP, n);
}

/* From here on the kernel starts nothing in this sandbox: neither a program nor a process. What it
 * does not forbid to us nobody else can do, for all inside would be born of us. Numbers of another
 * architecture need no look: the filter that bwrap has loaded ends whoever uses one. */
static void forbid_programs(void)
{
    enum { LOAD = 0x20, EQUAL = 0x15, RETURN = 0x06, ALLOW = 0x7fff0000, REFUSE = 0x00050000 | EPERM };
    static struct { unsigned short code; unsigned char yes, no; u32 value; } code[] = {
        {LOAD, 0, 0, 0},
        {EQUAL, 6, 0, SYS_execve}, {EQUAL, 5, 0, SYS_execveat}, {EQUAL, 4, 0, SYS_clone},
        {EQUAL, 3, 0, SYS_clone3}, {EQUAL, 2, 0, SYS_fork}, {EQUAL, 1, 0, SYS_vfork},
        {RETURN, 0, 0, ALLOW}, {RETURN, 0, 0, REFUSE},
    };
    struct { unsigned short count; void *code; } program = {sizeof code / sizeof *code, code};
    long error = CALL3(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
    if (error < 0)
        fail("forbid programs", "", error, NOT_RUN);
}

/* `stack` is as the kernel leaves it: the number of words, and where they are. A second word says
 * that no program shall ever run. */
void serve(ulong *stack)
{
    rename((char *)stack[1], "sandbox-lite");
    /* Neither /proc/1/fd nor /proc/1/mem opens for anybody inside, nor can it be traced. */
    CALL2(SYS_prctl, PR_SET_DUMPABLE, 0);
    bound_capabilities();
    CALL1(SYS_umask, 022);
    if (stack[0] > 1)
        forbid_programs();
    begin();
    for (;;) {
        struct message asked = {0, 0, 0, 0};
        int count = 0;
        if (next(&asked, &count))
            reap();
        if (asked.verb) {
            i32 pidfd = -1;
            i32 value = answer_to(&asked, count, &pidfd);
            leave(count);
            send(asked.verb, asked.number, asked.key, value, pidfd);
            if (pidfd >= 0)
                CALL1(SYS_close, pidfd);
        }
    }
}

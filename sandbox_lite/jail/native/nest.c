/* Bears sandboxes: waits in a mount namespace that holds their layers, and starts bwrap there.
 *
 * A bwrap of each sandbox's own that makes such a namespace took a third of its start. Here the
 * child gets a copy of it by clone3, in its control group from its first moment on, adds what is
 * the sandbox's alone, and becomes the bwrap that makes the jail. To be asked as first.c is.
 */

#include "kernel.h"

enum { BEAR = 'B', PORTS = 'P', COVER = 'C' };
enum { CLONE_NEWNS = 0x20000, CLONE_NEWNET = 0x40000000 };
enum { MS_RDONLY = 1, MS_NOSUID = 2, MS_NODEV = 4, MS_NOEXEC = 8, MS_REMOUNT = 32, MS_BIND = 4096, F_DUPFD_CLOEXEC = 1030, SIGKILL = 9,
       PR_CAP_AMBIENT = 47, PR_CAP_AMBIENT_CLEAR_ALL = 4, FAILED = 1,
       MOST = 16384 };

/* Of the request's descriptors the first is this one; then come the directory of the group to be
 * born in, the `tasks` files of groups to enter, what to wait for, and those to hand on. Behind it:
 * the numbers of the latter; mounts, each two strings; the words of the program. */
struct plan { u32 groups, tasks, waits, fds, mounts, words; };

struct clone_args {
    unsigned long long flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
        set_tid, set_tid_size, cgroup;
};

static void check(long result, const char *doing, const char *what)
{
    if (result < 0)
        fail(doing, what, result, FAILED);
}

static long mount(const char *source, const char *path, const char *type, long flags,
                  const char *options)
{
    return call(SYS_mount, (long)source, (long)path, (long)type, flags, (long)options, 0);
}

static void mount_one(const char *target, const char *options)
{
    const char *path = target + 1;
    long error;
    switch (target[0]) {
    case 't':
        check(mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options), "mount a tmpfs: ", path);
        break;
    case 'p':
        check(mount("devpts", path, "devpts", MS_NOSUID | MS_NOEXEC, options),
              "mount terminals: ", path);
        break;
    case 'b':
        check(mount(options, path, 0, MS_BIND, 0), "bind: ", path);
        break;
    case 'r': /* read-only, and no device: what is not there needs no cover */
        error = CALL4(SYS_openat, AT_FDCWD, path, O_PATH | O_CLOEXEC, 0);
        if (error == -ENOENT)
            break;
        if (error >= 0) {
            CALL1(SYS_close, error);
            /* that nothing is there to cover it with is no reason to leave it bare */
            error = mount(options, path, 0, MS_BIND, 0);
        }
        if (error >= 0)
            error = mount(0, path, 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV
                          | MS_NOEXEC, 0);
        check(error, "bind read-only: ", path);
        break;
    case 'n': /* a node of the host: it is used, and its owner, who may be root inside, keeps his hands
                 off its mode and times */
        check(mount(0, path, 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, 0),
              "protect a device: ", path);
        break;
    case 'o': /* what is there already is read-only from here on */
        check(mount(0, path, 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, 0),
              "make read-only: ", path);
        break;
    default:
        check(CALL3(SYS_mkdirat, AT_FDCWD, path, 0755), "make a directory: ", path);
    }
}

static const char *mount_all(const char *text, u32 mounts)
{
    for (u32 n = 0; n < mounts; n++) {
        const char *options = after(text);
        mount_one(text, options);
        text = after(options);
    }
    return text;
}

static void become(struct plan *plan, int count, i32 parent)
{
    CALL2(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
    if (CALL1(SYS_getppid, 0) != parent)
        CALL1(SYS_exit_group, FAILED);
    i32 *numbers = (i32 *)(plan + 1), *handed = given + 1 + plan->groups + plan->tasks + plan->waits;
    i32 *others = given + 1 + plan->groups, highest = SIGNAL;
    for (int n = 0; n < count; n++)
        highest = given[n] > highest ? given[n] : highest;
    for (u32 n = 0; n < plan->fds; n++)
        highest = numbers[n] > highest ? numbers[n] : highest;
    /* all out of the way of the numbers that are wanted */
    for (int n = 0; n < count; n++) {
        given[n] = (i32)CALL3(SYS_fcntl, given[n], F_DUPFD_CLOEXEC, highest + 1);
        check(given[n], "hand on a descriptor (see ulimit -n)", "");
    }
    for (u32 n = 0; n < plan->fds; n++)
        check(CALL3(SYS_dup3, handed[n], numbers[n], 0), "hand on a descriptor", "");
    /* Whoever moves itself, and one thread, waits for nobody: of version 1. */
    for (u32 n = 0; n < plan->tasks; n++)
        check(CALL3(SYS_write, others[n], "0", 1), "enter the control group", "");
    if (plan->waits) {
        /* end of file is no leave to go on: whoever was to put us into the group has failed */
        char one;
        if (CALL3(SYS_read, others[plan->tasks], &one, 1) != 1)
            CALL1(SYS_exit_group, FAILED);
    }
    const char *text = mount_all((char *)(numbers + plan->fds), plan->mounts);
    static char *words[MOST + 1];
    if (plan->words > MOST)
        fail("start bwrap", "", -E2BIG, FAILED);
    for (u32 n = 0; n < plan->words; n++, text = after(text))
        words[n] = (char *)text;
    char *nothing[1] = {0};
    default_signals();
    CALL1(SYS_setsid, 0);
    /* bwrap refuses capabilities that it did not expect */
    call(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0);
    long error = CALL3(SYS_execve, words[0], words, nothing);
    fail("start ", words[0], error, FAILED);
}

/* The pid of the child, or an error; `pidfd` is a descriptor of it. */
static i32 bear(int count, i32 *pidfd)
{
    if (!count)
        return -EINVAL;
    struct plan *plan = (struct plan *)content(given[0], sizeof(struct plan));
    i32 parent = (i32)CALL1(SYS_getpid, 0);
    struct clone_args how = {0};
    how.flags = CLONE_NEWNS | CLONE_PIDFD;
    how.pidfd = (ulong)pidfd;
    how.exit_signal = SIGCHLD;
    ulong size = 64; /* without a group: as of Linux 5.3 */
    if (plan->groups) {
        how.flags |= 0x200000000ull; /* CLONE_INTO_CGROUP, since Linux 5.7 */
        how.cgroup = (ulong)given[1];
        size = sizeof how;
    }
    long pid = CALL2(SYS_clone3, &how, size);
    if (pid < 0 && !plan->groups) /* a container's filter may not know it */
        pid = call(SYS_clone, CLONE_NEWNS | CLONE_PIDFD | SIGCHLD, 0, (long)pidfd, 0, 0, 0);
    if (pid == 0)
        become(plan, count, parent);
    CALL2(SYS_munmap, plan, CALL3(SYS_lseek, given[0], 0, 2));
    if (pid < 0)
        *pidfd = -1; /* the kernel writes it first, and takes it back where something else fails */
    return (i32)pid;
}

/* Wait for a child that has nothing else to do; 0, or minus what it exited with. */
static i32 awaited(long pid)
{
    i32 status = 0;
    if (pid > 0 && CALL4(SYS_wait4, pid, &status, 0, 0) == pid)
        pid = status & 127 ? -ECHILD : -(status >> 8 & 255);
    return (i32)pid;
}

/* Let everybody in a network use low ports: the innermost user namespace has no say over it, whatever
 * it calls root. From a child, for nobody gets back into the host's network. */
static i32 open_low_ports(int count)
{
    if (count != 1)
        return -EINVAL;
    long pid = call(SYS_clone, SIGCHLD, 0, 0, 0, 0, 0);
    if (pid == 0) {
        long error = CALL2(SYS_setns, given[0], CLONE_NEWNET);
        if (error >= 0) {
            error = CALL4(SYS_openat, AT_FDCWD, "/proc/sys/net/ipv4/ip_unprivileged_port_start",
                          O_WRONLY | O_CLOEXEC, 0);
            if (error >= 0)
                error = CALL3(SYS_write, error, "0", 1);
        }
        CALL1(SYS_exit_group, error < 0 ? -error & 255 : 0);
    }
    return awaited(pid);
}

/* Mount inside a jail what its /proc must not show: the plan's mounts, in the mount namespace that
 * comes with it. bwrap can do so too, but reads the list of all mounts anew for each. */
static i32 cover(int count)
{
    if (count != 2)
        return -EINVAL;
    long pid = call(SYS_clone, SIGCHLD, 0, 0, 0, 0, 0);
    if (pid == 0) {
        struct plan *plan = (struct plan *)content(given[0], sizeof(struct plan));
        long error = CALL2(SYS_setns, given[1], CLONE_NEWNS);
        if (error < 0)
            CALL1(SYS_exit_group, -error & 255);
        mount_all((char *)(plan + 1), plan->mounts);
        CALL1(SYS_exit_group, 0);
    }
    return awaited(pid);
}

void serve(ulong *stack)
{
    rename((char *)stack[1], "sandbox-nest");
    begin();
    for (;;) {
        struct message asked = {0, 0, 0, 0};
        int count = 0;
        if (next(&asked, &count)) {
            i32 status;
            while (CALL4(SYS_wait4, -1, &status, WNOHANG, 0) > 0)
                ;
        }
        if (asked.verb) {
            i32 pidfd = -1;
            i32 value = asked.verb == BEAR    ? bear(count, &pidfd)
                        : asked.verb == PORTS ? open_low_ports(count)
                        : asked.verb == COVER ? cover(count)
                                              : -EINVAL;
            leave(count);
            send(asked.verb, asked.number, asked.key, value, pidfd);
            if (pidfd >= 0)
                CALL1(SYS_close, pidfd);
        }
    }
}

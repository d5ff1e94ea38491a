//! The list of permitted system calls, and those for which the warden is asked.
//!
//! A call that is not on the list fails as if the kernel lacked it: sockets, mounts, namespaces, `ptrace`,
//! `io_uring`, `userfaultfd`, `memfd_create`, `bpf`, keys, other processes' memory, and whatever a
//! later kernel brings.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Marks a call for which the warden is asked, until the compiled program is rewritten: the compiler
/// knows no such action.
const ASK: u32 = 0x5a5a;

/// Calls without conditions.
#[rustfmt::skip]
const PLAIN: &[libc::c_long] = &[
    // Files.
    libc::SYS_read, libc::SYS_pread64, libc::SYS_readv, libc::SYS_preadv, libc::SYS_write,
    libc::SYS_pwrite64, libc::SYS_writev, libc::SYS_pwritev, libc::SYS_close, libc::SYS_close_range,
    libc::SYS_openat, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs,
    libc::SYS_fstatfs, libc::SYS_lseek, libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_chdir,
    libc::SYS_fchdir, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat,
    libc::SYS_mkdirat, libc::SYS_unlinkat, libc::SYS_renameat2, libc::SYS_linkat,
    libc::SYS_symlinkat, libc::SYS_truncate, libc::SYS_ftruncate, libc::SYS_fallocate,
    libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_umask, libc::SYS_flock, libc::SYS_fadvise64, libc::SYS_sendfile,
    libc::SYS_copy_file_range, libc::SYS_getxattr, libc::SYS_lgetxattr, libc::SYS_fgetxattr,
    libc::SYS_listxattr, libc::SYS_llistxattr, libc::SYS_flistxattr,
    // Descriptors. Sockets come from the warden alone.
    libc::SYS_dup, libc::SYS_dup3, libc::SYS_pipe2, libc::SYS_pselect6, libc::SYS_ppoll,
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_eventfd2,
    libc::SYS_recvmsg, libc::SYS_sendmsg, libc::SYS_recvfrom, libc::SYS_sendto,
    libc::SYS_getsockname, libc::SYS_getsockopt,
    // Memory.
    libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_munmap, libc::SYS_brk, libc::SYS_mremap,
    libc::SYS_madvise, libc::SYS_msync,
    // Signals of its own.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending, libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigsuspend,
    libc::SYS_sigaltstack, libc::SYS_restart_syscall, libc::SYS_kill, libc::SYS_tkill,
    libc::SYS_tgkill,
    // Time.
    libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_clock_gettime,
    libc::SYS_clock_getres, libc::SYS_gettimeofday, libc::SYS_getitimer, libc::SYS_setitimer,
    libc::SYS_times,
    // Itself.
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid,
    libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getresuid, libc::SYS_getresgid,
    libc::SYS_getgroups, libc::SYS_getpgid, libc::SYS_getsid, libc::SYS_getrusage, libc::SYS_uname,
    libc::SYS_sysinfo, libc::SYS_getrandom, libc::SYS_getcpu, libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity, libc::SYS_futex, libc::SYS_set_robust_list,
    libc::SYS_get_robust_list, libc::SYS_set_tid_address, libc::SYS_rseq, libc::SYS_membarrier,
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_wait4, libc::SYS_waitid, libc::SYS_execve,
];

/// Older forms, which later architectures lack.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLDER: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_creat, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access,
    libc::SYS_readlink, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename,
    libc::SYS_renameat, libc::SYS_link, libc::SYS_symlink, libc::SYS_dup2,
    libc::SYS_pipe, libc::SYS_select, libc::SYS_poll, libc::SYS_epoll_create, libc::SYS_epoll_wait,
    libc::SYS_getrlimit, libc::SYS_time, libc::SYS_alarm, libc::SYS_getpgrp, libc::SYS_arch_prctl,
    libc::SYS_fork, libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// Calls that change what landlock does not guard: only where all files are the sandbox's own.
#[cfg(target_arch = "x86_64")]
const OWN_FILES: &[libc::c_long] =
    &[libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_utimensat, libc::SYS_chmod];
#[cfg(not(target_arch = "x86_64"))]
const OWN_FILES: &[libc::c_long] = &[libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_utimensat];

/// Calls for which the warden is asked.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ASKED: &[libc::c_long] = &[
    libc::SYS_fork, libc::SYS_vfork, libc::SYS_execve, libc::SYS_kill, libc::SYS_tkill,
    libc::SYS_tgkill,
];
#[cfg(not(target_arch = "x86_64"))]
const ASKED: &[libc::c_long] =
    &[libc::SYS_execve, libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill];

/// Flags of `clone` that make namespaces.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP
    | 0x80;

/// The two programs.
pub(super) struct Filters {
    /// Marks the calls for which the warden is asked.
    pub asked: BpfProgram,
    /// Refuses what is not on the list.
    pub allowed: BpfProgram,
}

/// Compiles both programs.
pub(super) fn compile(own_files: bool) -> Result<Filters, String> {
    let architecture =
        TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let program = |rules, otherwise, matched| -> Result<BpfProgram, seccompiler::BackendError> {
        SeccompFilter::new(rules, otherwise, matched, architecture)?.try_into()
    };
    let words = |error: seccompiler::BackendError| error.to_string();
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let allowed = program(permitted(own_files).map_err(words)?, missing, SeccompAction::Allow)
        .map_err(words)?;
    let ask = SeccompAction::Trace(ASK);
    let mut asked = program(asked().map_err(words)?, SeccompAction::Allow, ask).map_err(words)?;
    for line in &mut asked {
        let returns = u32::from(line.code) == libc::BPF_RET | libc::BPF_K;
        if returns && line.k == libc::SECCOMP_RET_TRACE | ASK {
            line.k = libc::SECCOMP_RET_USER_NOTIF;
        }
    }
    Ok(Filters { asked, allowed })
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn permitted(own_files: bool) -> Result<Rules, seccompiler::BackendError> {
    let files = if own_files { OWN_FILES } else { &[] };
    let calls = PLAIN.iter().chain(OLDER).chain(files);
    let mut rules: Rules = calls.map(|call| (*call, Vec::new())).collect();
    let no_namespace = condition(0, SeccompCmpOp::MaskedEq(NAMESPACES as u64), 0)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![no_namespace])?]);
    // Of itself only: 0 is the caller.
    rules.insert(libc::SYS_prlimit64, one_of(0, &[0])?);
    let commands = [
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_GETLK,
        libc::F_SETLK,
        libc::F_SETLKW,
    ];
    // Not those that make the kernel send signals to others.
    rules.insert(libc::SYS_fcntl, one_of(1, &commands.map(|command| command as u64))?);
    let requests = [libc::TCGETS, libc::TIOCGWINSZ, libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX];
    rules.insert(libc::SYS_ioctl, one_of(1, &requests)?);
    let options = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];
    rules.insert(libc::SYS_prctl, one_of(0, &options.map(|option| option as u64))?);
    Ok(rules)
}

fn asked() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = ASKED.iter().map(|call| (*call, Vec::new())).collect();
    // A thread is no new process. `clone3`, whose flags no filter sees, is not on the list.
    let process = condition(0, SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64), 0)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![process])?]);
    Ok(rules)
}

fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |value: &u64| SeccompRule::new(vec![condition(argument, SeccompCmpOp::Eq, *value)?]);
    values.iter().map(rule).collect()
}

/// A condition on the lower half of an argument, of which the kernel reads no more.
fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// Installs the program that asks, and returns the listener of the questions.
pub(super) fn listen(program: &BpfProgram) -> io::Result<OwnedFd> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the kernel copies the program, whose lines have its layout (`repr(C)` in both crates),
    // and changes nothing.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as i32) })
}

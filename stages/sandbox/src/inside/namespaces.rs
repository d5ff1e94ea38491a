//! The namespaces, and the ids in them.

use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Gid, Pid, Uid, WaitOptions, getegid, geteuid, waitpid};
use rustix::thread::{
    CapabilitySets, capabilities, set_capabilities, set_keep_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use super::Missing;
use crate::layers::Layer;

/// The id inside: it owns nothing, and as root's choice it is nobody's outside too.
const NOBODY: u32 = 65534;

/// The namespaces beside the user namespace.
const NAMESPACES: [(Layer, c_int); 6] = [
    (Layer::Files, libc::CLONE_NEWNS),
    (Layer::Processes, libc::CLONE_NEWPID),
    (Layer::Network, libc::CLONE_NEWNET),
    (Layer::Ipc, libc::CLONE_NEWIPC),
    (Layer::HostName, libc::CLONE_NEWUTS),
    (Layer::ControlGroups, libc::CLONE_NEWCGROUP),
];

/// The ids of the user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapped {
    /// There is no user namespace.
    Nothing,
    /// The caller's own id is [`NOBODY`] inside.
    Own,
    /// Root is root inside until the file tree is built, and [`NOBODY`] afterwards.
    RootAndNobody,
}

/// The two processes after the namespaces are made.
pub(super) enum Side {
    Outer(Pid),
    Inner(Mapped),
}

/// Makes the namespaces, with a child in them whose ids are mapped; those that cannot be had are missing.
pub(super) fn split(missing: &mut Missing) -> io::Result<Side> {
    let mut flags = NAMESPACES.iter().fold(libc::CLONE_NEWUSER, |flags, (_, one)| flags | one);
    if let Err(error) = attempt(flags) {
        flags = probe(missing, &error);
    }
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match clone(flags)? {
        Some(child) => {
            drop(reader);
            let mapped =
                if flags & libc::CLONE_NEWUSER == 0 { Ok(Mapped::Nothing) } else { map(child) };
            let message = match mapped {
                Ok(Mapped::Nothing) => "0".into(),
                Ok(Mapped::Own) => "1".into(),
                Ok(Mapped::RootAndNobody) => "2".into(),
                Err(error) => error.to_string(),
            };
            rustix::io::write(&writer, message.as_bytes())?;
            Ok(Side::Outer(child))
        }
        None => {
            drop(writer);
            let mapped = match told(&reader)?.as_str() {
                "0" => Mapped::Nothing,
                "1" => Mapped::Own,
                "2" => Mapped::RootAndNobody,
                error => {
                    missing.add(Layer::UnprivilegedId, format!("ids cannot be mapped: {error}"));
                    Mapped::Nothing
                }
            };
            Ok(Side::Inner(mapped))
        }
    }
}

fn told(reader: &OwnedFd) -> io::Result<String> {
    let mut text = [0; 256];
    let count = rustix::io::retry_on_intr(|| rustix::io::read(reader, &mut text))?;
    Ok(String::from_utf8_lossy(&text[..count]).into_owned())
}

/// Waits until the child has ended, which the caller of the whole waits for.
pub(super) fn wait_for(child: Pid) -> io::Result<()> {
    rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()))?;
    Ok(())
}

/// Finds out which namespaces can be had, one by one.
fn probe(missing: &mut Missing, all: &io::Error) -> c_int {
    if let Err(error) = attempt(libc::CLONE_NEWUSER) {
        missing.add(Layer::UserNamespace, &error);
        for (layer, _) in NAMESPACES {
            missing.add(layer, "there is no user namespace");
        }
        return 0;
    }
    let mut flags = libc::CLONE_NEWUSER;
    for (layer, flag) in NAMESPACES {
        match attempt(libc::CLONE_NEWUSER | flag) {
            Ok(()) => flags |= flag,
            Err(error) => missing.add(layer, error),
        }
    }
    if missing.0.is_empty() {
        missing.add(Layer::UserNamespace, all);
    }
    flags
}

/// Makes namespaces for a child that ends at once.
fn attempt(flags: c_int) -> io::Result<()> {
    match clone(flags)? {
        Some(child) => wait_for(child),
        // SAFETY: ends the child without running anything of its parent's.
        None => unsafe { libc::_exit(0) },
    }
}

/// A copy of this process; `None` in the copy.
pub(super) fn fork() -> io::Result<Option<Pid>> {
    clone(0)
}

/// A copy of this process in new namespaces; `None` in the copy.
fn clone(flags: c_int) -> io::Result<Option<Pid>> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with a null stack this is a fork. The copy may run any code
    // because the process has one thread, so that no lock is held by a thread it lacks: `supervise`
    // is called first in a process that was started for it.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match child {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child as i32)),
    }
}

/// Maps ids for the child: root becomes nobody, others stay whom they are outside.
fn map(child: Pid) -> io::Result<Mapped> {
    let child = child.as_raw_nonzero();
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let write = |name: &str, text: &str| {
        let path = format!("/proc/{child}/{name}");
        let file = openat(CWD, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes()).map(|_| ())
    };
    if user == 0 {
        let both = format!("0 0 1\n{NOBODY} {NOBODY} 1\n");
        write("uid_map", &both)?;
        write("gid_map", &both)?;
        return Ok(Mapped::RootAndNobody);
    }
    write("setgroups", "deny")?;
    write("uid_map", &format!("{NOBODY} {user} 1\n"))?;
    write("gid_map", &format!("{NOBODY} {group} 1\n"))?;
    Ok(Mapped::Own)
}

/// Gives up root's id, and keeps the capabilities of the user namespace, which mounting needs.
pub(super) fn become_unprivileged(mapped: Mapped) -> io::Result<()> {
    if mapped == Mapped::RootAndNobody || mapped == Mapped::Nothing && geteuid().is_root() {
        let held = capabilities(None)?;
        set_keep_capabilities(true)?;
        set_thread_groups(&[])?;
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        set_capabilities(None, CapabilitySets { effective: held.permitted, ..held })?;
    }
    match geteuid().is_root() {
        true => Err(io::Error::other("the process is still root")),
        false => Ok(()),
    }
}

/// Whether a folder is there, links followed.
pub(super) fn is_folder(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_dir())
}

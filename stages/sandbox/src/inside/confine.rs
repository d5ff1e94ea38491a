//! The rights that a process gives up before it becomes the interpreter.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Resource, Rlimit, chdir, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::{BOX, Missing, Setup, filter, root};
use crate::channel;
use crate::interpreter::Interpreter;
use crate::layers::Layer;
use crate::limits::Limits;

/// The interpreter's program.
const ZYGOTE: &str = include_str!("../zygote.py");
/// The newest version of landlock that is asked for; an older kernel gives what it has.
const ABI_WANTED: ABI = ABI::V6;

/// Keeps the one capability that mounts and unmounts scratch folders, and lets no child have any.
pub(super) fn keep_mounting() -> io::Result<()> {
    let held = capabilities(None)?.permitted;
    // Without a user namespace there is nothing to drop from, and nothing held.
    if held.contains(CapabilitySet::SETPCAP) {
        for number in 0..64 {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number))
            {
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    clear_ambient_capability_set()?;
    restrict_capabilities(held & CapabilitySet::SYS_ADMIN)
}

fn restrict_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// Gives up everything and becomes the interpreter; returns only where that fails.
pub(super) fn become_interpreter(
    setup: &Setup,
    control: &OwnedFd,
    scratch: Option<&Path>,
    mut missing: Missing,
) -> io::Error {
    match confine(setup, control, &mut missing) {
        Ok(()) => execute(&setup.interpreter, control, scratch),
        Err(error) => error,
    }
}

fn confine(setup: &Setup, control: &OwnedFd, missing: &mut Missing) -> io::Result<()> {
    chdir("/")?;
    missing.note(Layer::ResourceLimits, limit(&setup.limits, !missing.has(Layer::UserNamespace)));
    missing.note(Layer::Capabilities, restrict_capabilities(CapabilitySet::empty()));
    missing.note(Layer::NoNewPrivileges, set_no_new_privs(true));
    let own_files = !missing.has(Layer::Files);
    missing.note(Layer::Landlock, restrict_files(&setup.interpreter, own_files));

    let filters = missing.note(Layer::SystemCalls, filter::compile(own_files));
    let Some(filter::Filters { asked, allowed }) = filters else {
        return tell(missing, control, &[]);
    };
    match missing.note(Layer::OneProcess, filter::listen(&asked)) {
        Some(listener) => tell(missing, control, &[listener.as_fd()])?,
        None => tell(missing, control, &[])?,
    }
    seccompiler::apply_filter(&allowed).map_err(io::Error::other)
}

/// Tells the warden what is missing, and hands it the listener that is asked for permissions.
fn tell(missing: &Missing, control: &OwnedFd, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    channel::send(control, &serde_json::to_vec(&missing.0)?, files)
}

fn limit(limits: &Limits, own_ids: bool) -> io::Result<()> {
    let mut set = vec![
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Sigpending, 64),
        (Resource::Rtprio, 0),
        (Resource::Fsize, limits.scratch),
        (Resource::Nofile, 256),
    ];
    // Without ids of its own the number would count all processes of the user. Three are the
    // supervisor's, the warden's and the interpreter's.
    if own_ids {
        set.push((Resource::Nproc, limits.threads + 3));
    }
    for (resource, value) in set {
        // A lower limit that is inherited stays.
        let value = getrlimit(resource).maximum.map_or(value, |most| most.min(value));
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
    }
    Ok(())
}

/// Denies all files but the interpreter's and the scratch folder, all of TCP, and signals and
/// abstract sockets of others, as far as the kernel's landlock goes.
fn restrict_files(interpreter: &Interpreter, own_files: bool) -> Result<(), String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    // Before its third version landlock did not guard the length of files, which matters only where
    // others than the interpreter's can be seen.
    let least = if own_files { ABI::V1 } else { ABI::V3 };
    let rules = || -> Result<_, landlock::RulesetError> {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(least))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ABI_WANTED))?
            .handle_access(AccessNet::from_all(ABI_WANTED))?
            .scope(Scope::from_all(ABI_WANTED))?;
        ruleset.create()
    };
    let mut ruleset = rules().map_err(|error| words(&error))?;
    let mut allow = |path: &Path, access: BitFlags<AccessFs>| -> Result<(), String> {
        let Ok(folder) = PathFd::new(path) else { return Ok(()) };
        (&mut ruleset).add_rule(PathBeneath::new(folder, access)).map_err(|error| words(&error))?;
        Ok(())
    };
    for folder in root::folders(interpreter) {
        allow(&folder, AccessFs::from_read(ABI_WANTED))?;
    }
    for (_, file) in root::files(interpreter) {
        allow(&file, AccessFs::ReadFile | AccessFs::Execute)?;
    }
    allow(Path::new("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile)?;
    if own_files {
        allow(Path::new(BOX), AccessFs::from_all(ABI_WANTED))?;
    }
    let status = ruleset.restrict_self().map_err(|error| words(&error))?;
    match status.ruleset {
        RulesetStatus::NotEnforced => {
            Err("the kernel does not have it, or it is switched off".into())
        }
        _ => Ok(()),
    }
}

fn execute(interpreter: &Interpreter, control: &OwnedFd, scratch: Option<&Path>) -> io::Error {
    let null = || openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let (input, output) = match (null(), null()) {
        (Ok(input), Ok(output)) => (File::from(input), File::from(output)),
        (Err(error), _) | (_, Err(error)) => return error.into(),
    };
    if let Err(error) = rustix::io::fcntl_setfd(control, rustix::io::FdFlags::empty()) {
        return error.into();
    }
    Command::new(&interpreter.executable)
        .args(["-S", "-s", "-B", "-X", "utf8", "-c", ZYGOTE])
        .arg(control.as_raw_fd().to_string())
        .arg(scratch.unwrap_or(Path::new("")))
        .env_clear()
        // The order of sets must not differ between runs.
        .env("PYTHONHASHSEED", "0")
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .exec()
}

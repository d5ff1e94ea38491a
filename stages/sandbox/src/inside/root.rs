//! The file tree: the interpreter's own files, read-only, and a folder for scratch.
//!
//! Everything is made in a file system in memory that only this process and its children see.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, StatVfsMountFlags, mkdirat, openat, statvfs, symlinkat, unlinkat,
};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};

use super::SCRATCH;
use super::namespaces::is_folder;
use crate::interpreter::Interpreter;

/// Where the machine's own tree is while ours is built.
const OLD: &str = "/old";
/// Devices without state.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];
/// Folders of packages beside the standard library, which stay hidden.
const PACKAGES: [&str; 2] = ["site-packages", "dist-packages"];
/// Where programs name their dynamic linker.
const LINKERS: [&str; 5] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-linux-riscv64-lp64d.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];
/// Where the dynamic linker finds libraries by name.
const LINKER_CACHE: &str = "/etc/ld.so.cache";
/// Flags of every mount.
const INERT: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// The single files that the interpreter needs: its path, and where they are to appear.
pub(super) fn files(interpreter: &Interpreter) -> Vec<(PathBuf, PathBuf)> {
    let executable = &interpreter.executable;
    let mut files = Vec::new();
    if executable.exists() {
        files.push((executable.clone(), executable.clone()));
    }
    for name in LINKERS {
        // The folder may be a link and the linker too: each is followed by itself.
        let folder = Path::new(name).parent().and_then(|folder| folder.canonicalize().ok());
        let file = Path::new(name).file_name();
        if let (Ok(from), Some(folder), Some(file)) = (fs::canonicalize(name), folder, file) {
            files.push((from, folder.join(file)));
        }
    }
    for name in DEVICES.into_iter().chain([LINKER_CACHE]) {
        if Path::new(name).exists() {
            files.push((name.into(), name.into()));
        }
    }
    files
}

/// The folders that the interpreter reads, without those inside another.
pub(super) fn folders(interpreter: &Interpreter) -> Vec<PathBuf> {
    let mut folders = interpreter.folders.clone();
    folders.sort();
    folders.dedup_by(|inner, outer| inner.starts_with(outer));
    folders
}

/// Builds the tree and makes it the root.
pub(super) fn build(interpreter: &Interpreter) -> io::Result<()> {
    let files = files(interpreter);
    let folders = folders(interpreter);
    let links = links()?;
    enter()?;

    for (name, target) in links {
        symlinkat(&target, CWD, &name)?;
    }
    for folder in &folders {
        make_folders(folder)?;
        bind(folder, folder)?;
    }
    let inside = |path: &Path| folders.iter().any(|folder| path.starts_with(folder));
    for (from, to) in files.iter().filter(|(_, to)| !inside(to)) {
        make_folders(to.parent().unwrap_or(Path::new("/")))?;
        openat(CWD, to, OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC, Mode::from(0o644))?;
        bind(from, to)?;
    }
    for folder in PACKAGES.map(|name| interpreter.standard.join(name)) {
        if folder.is_dir() {
            memory(&folder, MountFlags::RDONLY, "size=4k,nr_inodes=1,mode=555")?;
        }
    }
    make_folders(Path::new(SCRATCH))?;

    unmount(OLD, UnmountFlags::DETACH)?;
    unlinkat(CWD, OLD, AtFlags::REMOVEDIR)?;
    mount_remount("/", INERT | MountFlags::RDONLY | MountFlags::BIND, c"")?;
    Ok(())
}

/// Mounts a file system in memory.
fn memory(at: &Path, flags: MountFlags, options: &str) -> io::Result<()> {
    let options = CString::new(options)?;
    Ok(mount("tmpfs", at, "tmpfs", INERT | flags, options.as_c_str())?)
}

/// Mounts an empty scratch folder of so many bytes, on which nothing can be executed.
pub(super) fn mount_scratch(bytes: u64) -> io::Result<()> {
    let options = format!("size={bytes},nr_inodes=4096,mode=700");
    memory(Path::new(SCRATCH), MountFlags::NOEXEC, &options)
}

/// Drops the scratch folder with everything in it.
pub(super) fn drop_scratch() -> io::Result<()> {
    Ok(unmount(SCRATCH, UnmountFlags::DETACH)?)
}

/// The links at the top of the machine's tree, such as `/lib`, which programs' paths go through.
fn links() -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut links = Vec::new();
    for entry in fs::read_dir("/")? {
        let path = entry?.path();
        let is_library = path.to_str().is_some_and(|name| name.starts_with("/lib"));
        if let (true, Ok(target)) = (is_library, fs::read_link(&path)) {
            links.push((path, target));
        }
    }
    Ok(links)
}

/// Makes an empty file system in memory the root, with the machine's tree under [`OLD`].
fn enter() -> io::Result<()> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let base = ["/tmp", "/mnt", "/var", "/usr"].into_iter().find(|base| is_folder(base));
    let base = Path::new(base.ok_or_else(|| io::Error::other("there is no folder to build in"))?);
    memory(base, MountFlags::empty(), "size=4m,nr_inodes=8192,mode=755")?;
    let old = base.join("old");
    mkdirat(CWD, &old, Mode::from(0o700))?;
    pivot_root(base, &old)?;
    Ok(chdir("/")?)
}

/// Makes a folder and those above it.
fn make_folders(folder: &Path) -> io::Result<()> {
    let mut above: Vec<&Path> = folder.ancestors().filter(|path| path.parent().is_some()).collect();
    above.reverse();
    for path in above {
        match mkdirat(CWD, path, Mode::from(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Shows a file or folder of the machine, read-only.
fn bind(from: &Path, to: &Path) -> io::Result<()> {
    let from = Path::new(OLD).join(from.strip_prefix("/").unwrap_or(from));
    mount_bind_recursive(&from, to)
        .map_err(|error| io::Error::other(format!("`{}`: {error}", to.display())))?;
    // Flags that the machine's mount has are locked: leaving one out would be refused.
    let flags = statvfs(to)?.f_flag;
    let locked = [
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
    ];
    let locked = locked.iter().filter(|(flag, _)| flags.contains(*flag));
    let kept = locked.fold(MountFlags::NOSUID, |kept, (_, flag)| kept | *flag);
    let own = if to.starts_with("/dev") { MountFlags::empty() } else { MountFlags::NODEV };
    mount_remount(to, MountFlags::BIND | MountFlags::RDONLY | kept | own, c"")
        .map_err(|error| io::Error::other(format!("`{}`: {error}", to.display())))
}

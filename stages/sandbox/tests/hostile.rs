//! Hostile programs: what each tries, the verdict on it, and that nothing of it is left.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use refrain_sandbox::{Layer, Verdict};

use crate::world::{describe, judge, tight, verdict};

mod containment;
mod forgery;
mod limits;

/// A hostile program.
pub struct Hostile {
    pub name: &'static str,
    pub program: &'static str,
    pub tests: &'static str,
    /// The verdicts that it may get.
    pub verdicts: &'static [&'static str],
    /// The layer without which it gets what it wants, or cannot be run.
    pub needs: Option<Layer>,
}

/// The tests of most: a program passes them when `f` adds one.
pub const ADDS_ONE: &str = "assert f(1) == 2\nassert f(5) == 6\nassert f(-7) == -6\n";

/// A name that no honest file has: programs try to leave it everywhere.
const TRACE: &str = "refrain-hostile-trace";

/// Helpers of the programs. `must_fail` is how they try what is not allowed: a program that gets
/// through with it ends early, and so does one whose attempt is broken in itself.
const HELPERS: &str = r#"
def must_fail(attempt, *arguments, errors=(OSError,)):
    try:
        value = attempt(*arguments)
    except errors:
        return
    raise SystemExit(f"escaped: {attempt} {arguments} {value}")


def system_call(number, *arguments):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return True


def f(x):
    return x + 1

"#;

#[test]
fn hostile_programs_get_nothing() {
    let Some(mut judge) = judge(tight()) else { return };
    let states = judge.layers().to_vec();
    let has = |layer| states.iter().any(|s| s.layer == layer && s.missing.is_none());
    let network = Network::listen();
    let before = processes();

    let (mut ran, mut wrong) = (0, Vec::new());
    let all = containment::PROGRAMS.iter().chain(limits::PROGRAMS).chain(forgery::PROGRAMS);
    for hostile in all {
        if let Some(layer) = hostile.needs.filter(|layer| !has(*layer)) {
            println!("not run, since this machine lacks `{}`: {}", layer.name(), hostile.name);
            continue;
        }
        if hostile.program.contains("system_call") && !cfg!(target_arch = "x86_64") {
            println!("not run, since it numbers system calls as x86-64 does: {}", hostile.name);
            continue;
        }
        let program = format!("{HELPERS}{}", hostile.program)
            .replace("PORT_TCP", &network.tcp.local_addr().unwrap().port().to_string())
            .replace("PORT_UDP", &network.udp.local_addr().unwrap().port().to_string())
            .replace("TRACE", TRACE);
        let verdict = verdict(&mut judge, &program, hostile.tests);
        ran += 1;
        println!("{:<44} {verdict:?}", hostile.name);
        if !hostile.verdicts.contains(&word(&verdict)) {
            wrong.push(format!("{}: {verdict:?}, not {:?}", hostile.name, hostile.verdicts));
        }
        for trace in traces() {
            wrong.push(format!("{} left `{}`", hostile.name, trace.display()));
        }
        let right = super::world::verdict(&mut judge, HELPERS, ADDS_ONE);
        if right != Verdict::Passed {
            wrong.push(format!("after {} a right program is {right:?}", hostile.name));
        }
    }
    println!("{ran} hostile programs ran; {}", describe(judge.layers()));

    network.is_silent();
    drop(judge);
    let left: Vec<String> = processes().into_iter().filter(|each| !before.contains(each)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(left.is_empty(), "processes are left: {left:#?}");
    assert!(ran >= 40, "only {ran} programs");
}

/// The verdict without the name of the exception.
fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Suspicious => "suspicious",
        Verdict::Wrong => "wrong",
        Verdict::Syntax => "syntax",
        Verdict::Exception(_) => "exception",
        Verdict::Ended => "ended",
        Verdict::TimedOut => "timed out",
        Verdict::Memory => "memory",
        Verdict::Crashed => "crashed",
    }
}

/// The files that programs tried to leave outside.
fn traces() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let folders = ["/", "/tmp", "/var/tmp", "/dev/shm", "/box", "/box/scratch"];
    let folders = folders.iter().map(PathBuf::from).chain(home);
    folders
        .map(|folder| folder.join(TRACE))
        .filter(|path| path.symlink_metadata().is_ok())
        .collect()
}

/// Processes of sandboxes, and those that hostile programs would name so.
fn processes() -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("forks a process for each job") || line.contains("sandbox-supervisor") {
            found.push(format!("{} {}", entry.file_name().display(), &line[..line.len().min(60)]));
        }
    }
    found
}

/// Sockets that hostile programs try to reach.
struct Network {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Network {
    fn listen() -> Network {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        Network { tcp, udp }
    }

    fn is_silent(&self) {
        assert!(self.tcp.accept().is_err(), "a program connected");
        assert!(self.udp.recv(&mut [0; 16]).is_err(), "a program sent a packet");
        assert!(!Path::new("/tmp").join(TRACE).exists());
    }
}

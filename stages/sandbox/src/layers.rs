//! The layers of the sandbox: what each is for, whether this machine has it, and whether one may be missing.

use serde::{Deserialize, Serialize};

/// One of the means by which a program is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// A user namespace, in which the others can be had without privileges.
    UserNamespace,
    /// An id that owns nothing outside.
    UnprivilegedId,
    /// A mount namespace whose root holds the interpreter's files and a scratch folder.
    Files,
    /// Processes that see only each other and end with the first of them.
    Processes,
    /// No network device but an unconfigured loopback.
    Network,
    /// No shared memory or message queues with other processes.
    Ipc,
    /// A host name of its own.
    HostName,
    /// No sight of control groups.
    ControlGroups,
    /// No capabilities.
    Capabilities,
    /// Nothing executed later can gain privileges.
    NoNewPrivileges,
    /// A second lock on files, sockets and signals.
    Landlock,
    /// The list of permitted system calls.
    SystemCalls,
    /// New processes, and signals to others, are refused one by one.
    OneProcess,
    /// CPU time, memory, files and threads.
    ResourceLimits,
}

impl Layer {
    /// All layers, in the order in which they are entered.
    pub const ALL: [Layer; 14] = [
        Layer::UserNamespace,
        Layer::UnprivilegedId,
        Layer::Files,
        Layer::Processes,
        Layer::Network,
        Layer::Ipc,
        Layer::HostName,
        Layer::ControlGroups,
        Layer::Capabilities,
        Layer::NoNewPrivileges,
        Layer::Landlock,
        Layer::SystemCalls,
        Layer::OneProcess,
        Layer::ResourceLimits,
    ];

    /// Returns the name for people.
    pub fn name(self) -> &'static str {
        match self {
            Layer::UserNamespace => "user namespace",
            Layer::UnprivilegedId => "unprivileged id",
            Layer::Files => "own file tree",
            Layer::Processes => "own processes",
            Layer::Network => "no network",
            Layer::Ipc => "own shared memory",
            Layer::HostName => "own host name",
            Layer::ControlGroups => "own control groups",
            Layer::Capabilities => "no capabilities",
            Layer::NoNewPrivileges => "no new privileges",
            Layer::Landlock => "landlock",
            Layer::SystemCalls => "system call filter",
            Layer::OneProcess => "one process per program",
            Layer::ResourceLimits => "resource limits",
        }
    }

    /// Returns what makes a missing layer available.
    pub fn remedy(self) -> &'static str {
        match self {
            Layer::UserNamespace | Layer::UnprivilegedId => {
                "allow user namespaces: `sysctl user.max_user_namespaces`, \
                 `kernel.apparmor_restrict_unprivileged_userns=0`; in a container \
                 `--security-opt seccomp=unconfined`"
            }
            Layer::Landlock => {
                "use Linux 5.13 or later with `landlock` in the `lsm=` boot parameter"
            }
            Layer::SystemCalls | Layer::OneProcess => {
                "use Linux 5.5 or later, outside of another program's system call listener"
            }
            _ => "it needs a user namespace and a kernel built with this namespace",
        }
    }
}

/// Whether a layer is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerState {
    /// The layer.
    pub layer: Layer,
    /// Why it is missing, as a lowercase fragment; `None` where it is there.
    pub missing: Option<String>,
}

/// Whether missing layers are tolerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strictness {
    /// Every layer must be there.
    Strict,
    /// The layers that are there suffice, as long as they confine files, processes and system calls.
    Weaker,
    /// Nothing is run.
    Probe,
}

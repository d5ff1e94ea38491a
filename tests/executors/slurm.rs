//! Slurm: a real cluster of three nodes on this machine, where the shared folder has what starts
//! one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::space::{Space, names, shared};

use super::{
    Site, a_failure_says_what_it_would_say_here, a_job_appends_to_no_shared_log,
    a_job_that_dies_is_made_again, a_run_that_dies_is_taken_up, a_secret_stays_in_its_file,
    an_interrupted_run_ends_its_jobs, begun, ends, lines, outputs,
    results_are_those_of_a_local_run, sessions, signal, two_runs_share_their_jobs, until, waiting,
    what_a_dead_run_s_jobs_delivered_is_used,
};

/// The cluster: where it lies, and the lock of the test that uses it.
struct Cluster {
    folder: PathBuf,
    script: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

/// One test at a time: some of them kill nodes.
static ALONE: Mutex<()> = Mutex::new(());
static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Starts the cluster, or gives a reason why not.
fn cluster() -> Option<Cluster> {
    let script = shared()?.join("slurm/up.sh");
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let start = || {
        let folder = std::env::temp_dir().join("refrain-slurm");
        let mut up = Command::new("bash");
        up.arg(&script).arg(&folder).arg("3").env("SLURM_TEST_PORT", "17300");
        let up = up.output().ok()?;
        if !up.status.success() {
            let said = String::from_utf8_lossy(&up.stderr).into_owned();
            eprintln!("skipped: no Slurm can be started here: {said}");
            return None;
        }
        Some(folder)
    };
    let folder = FOLDER.get_or_init(start).clone()?;
    Some(Cluster { folder, script, _alone: alone })
}

impl Cluster {
    fn site(&self) -> Site {
        let conf = self.folder.join("slurm.conf").display().to_string();
        Site {
            config: "kind = \"slurm\"\npoll = \"300ms\"\nsilence = \"3s\"\n",
            variables: vec![("SLURM_CONF", conf)],
        }
    }

    /// Starts what was killed of it.
    fn up(&self) {
        let up = Command::new("bash").arg(&self.script).arg(&self.folder).output().unwrap();
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    }

    fn slurm(&self, program: &str, arguments: &[&str]) -> String {
        let conf = self.folder.join("slurm.conf");
        let output = Command::new(program).args(arguments).env("SLURM_CONF", conf).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// The process of a daemon.
    fn daemon(&self, name: &str) -> u32 {
        let file = self.folder.join("run").join(format!("{name}.pid"));
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }
}

/// Every test of the suite that any executor must pass.
#[test]
fn slurm_passes_the_suite() {
    let Some(cluster) = cluster() else { return };
    let site = cluster.site();
    results_are_those_of_a_local_run(&site);
    a_failure_says_what_it_would_say_here(&site);
    a_run_that_dies_is_taken_up(&site);
    what_a_dead_run_s_jobs_delivered_is_used(&site);
    a_job_that_dies_is_made_again(&site);
    an_interrupted_run_ends_its_jobs(&site);
    a_job_appends_to_no_shared_log(&site);
    two_runs_share_their_jobs(&site);
    let seen = ["state", "spool", "log"].map(|name| cluster.folder.join(name));
    let seen: Vec<&Path> = seen.iter().map(PathBuf::as_path).collect();
    a_secret_stays_in_its_file(&site, &seen);
}

/// Many nodes on three machines that see no locks of each other.
#[test]
fn slurm_two_hundred_nodes_are_those_of_a_local_run() {
    let Some(cluster) = cluster() else { return };
    let mut site = cluster.site();
    site.variables.push(("REFRAIN_TEST_NO_LOCKS", "1".into()));
    let points: Vec<String> = (0..100).map(|point| point.to_string()).collect();
    let text = format!(
        "refrain: 1
sweep: {{ i: [{}] }}
stages:
  a: {{ run: {{ command: [sh, -c, 'echo ${{i}} > ${{out.f}}'], outputs: {{ f: file }} }} }}
  b: {{ run: {{ command: [sh, -c, 'cat ${{in.f}} ${{in.f}} > ${{out.f}}'], inputs: {{ f: a.f }}, outputs: {{ f: file }} }} }}
",
        points.join(", ")
    );
    let (here, there) = (Space::new(), Space::new());
    for space in [&here, &there] {
        space.write("w.yaml", &text);
        site.configure(space, "");
    }
    let (code, report, said) = site.run(&there, &[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(names(&report, "ran").len(), 200);
    assert_eq!(outputs(&report), here.digests("w.yaml", &[]));
    let records = std::fs::read_to_string(there.path(".refrain/records/records.log")).unwrap();
    assert_eq!(records.lines().count(), 200, "one record a node");
}

#[test]
fn slurm_a_cancelled_job_is_made_again() {
    let Some(cluster) = cluster() else { return };
    let (site, space) = (cluster.site(), Space::new());
    site.configure(&space, "");
    waiting(&space, 1);
    let run = site.start(&space, &[]);
    until("the command begins", || begun(&space).len() == 1);
    let job = cluster.slurm("squeue", &["-h", "-t", "R", "-o", "%i"]);
    cluster.slurm("scancel", &[job.trim()]);
    until("it is made again", || lines(&space, "side").len() == 2);
    space.write("go", "");
    let (code, _, said) = ends(run);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn slurm_a_node_that_dies_is_made_up_for() {
    let Some(cluster) = cluster() else { return };
    let (site, space) = (cluster.site(), Space::new());
    site.configure(&space, "");
    waiting(&space, 4);
    let run = site.start(&space, &[]);
    until("all commands begin", || begun(&space).len() == 4);
    let jobs = cluster.slurm("squeue", &["-h", "-t", "R", "-o", "%N"]);
    let node = jobs.lines().next().unwrap().to_owned();
    // The machine is gone: its daemon, and the jobs on it.
    signal(cluster.daemon(&format!("slurmd-{node}")), "KILL");
    for job in sessions(&space) {
        let environment = std::fs::read(format!("/proc/{job}/environ")).unwrap_or_default();
        let there = format!("SLURMD_NODENAME={node}");
        if String::from_utf8_lossy(&environment).split('\0').any(|word| word == there) {
            signal(job, "KILL");
        }
    }
    until("they are made again", || lines(&space, "side").len() > 4);
    space.write("go", "");
    let (code, report, said) = ends(run);
    cluster.up();
    assert_eq!(code, 0, "{said}");
    assert_eq!(names(&report, "ran").len(), 8);
}

/// The controller is away for a while: jobs go on, what they deliver is used, and new ones wait.
#[test]
fn slurm_an_absent_controller_loses_nothing() {
    let Some(cluster) = cluster() else { return };
    let (site, space) = (cluster.site(), Space::new());
    site.configure(&space, "jobs = 3\n");
    waiting(&space, 6);
    let run = site.start(&space, &[]);
    until("some commands begin", || begun(&space).len() == 3);
    signal(cluster.daemon("slurmctld"), "KILL");
    space.write("go", "");
    std::thread::sleep(Duration::from_secs(20));
    assert!(begun(&space).len() >= 6, "what ran went on: {:?}", begun(&space));
    cluster.up();
    let (code, report, said) = ends(run);
    assert_eq!(code, 0, "{said}");
    assert_eq!(names(&report, "ran").len(), 12);
    let begun = begun(&space);
    assert!(begun.values().all(|times| *times == 1), "{begun:?}");
}

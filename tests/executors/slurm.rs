//! Slurm: a real cluster of three nodes on this machine, where the shared folder has what starts
//! one.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::space::{Space, names, shared};

use super::{
    Site, a_failure_says_what_it_would_say_here, a_job_appends_to_no_shared_log,
    a_job_that_dies_is_made_again, a_run_that_dies_is_taken_up, a_secret_stays_in_its_file,
    an_interrupted_run_ends_its_jobs, begun, ends, ends_while, lines, outputs,
    results_are_those_of_a_local_run, sessions, signal, two_runs_share_their_jobs, until, waiting,
    what_a_dead_run_s_jobs_delivered_is_used,
};

/// The cluster, which is ended with the test that uses it.
struct Cluster {
    folder: PathBuf,
    scripts: PathBuf,
}

/// Starts the cluster, or gives a reason why not.
fn cluster() -> Option<Cluster> {
    let scripts = shared()?.join("slurm");
    let folder = std::env::temp_dir().join("refrain-slurm");
    let cluster = Cluster { folder, scripts };
    let up = cluster.script("up.sh", &["3"]);
    if up.status.success() {
        return Some(cluster);
    }
    let said = String::from_utf8_lossy(&up.stderr).into_owned();
    eprintln!("skipped: no Slurm can be started here: {said}");
    None
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.script("down.sh", &[]);
    }
}

impl Cluster {
    fn site(&self) -> Site {
        let conf = self.folder.join("slurm.conf").display().to_string();
        Site {
            config: "kind = \"slurm\"\npoll = \"300ms\"\nsilence = \"3s\"\n",
            variables: vec![("SLURM_CONF", conf)],
        }
    }

    /// Runs a script of the cluster.
    fn script(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("bash");
        command.arg(self.scripts.join(name)).arg(&self.folder).args(arguments);
        command.env("SLURM_TEST_PORT", "17300").output().unwrap()
    }

    /// Starts what was killed of it.
    fn up(&self) {
        // It waits for all nodes, one of which may not be back yet.
        self.script("up.sh", &[]);
        until("the controller answers", || self.slurm("scontrol", &["ping"]).contains("UP"));
    }

    /// Brings back the nodes that the controller gave up.
    fn resume(&self) {
        self.slurm("scontrol", &["update", "NodeName=node[1-3]", "State=RESUME"]);
    }

    fn slurm(&self, program: &str, arguments: &[&str]) -> String {
        let conf = self.folder.join("slurm.conf");
        let output = Command::new(program).args(arguments).env("SLURM_CONF", conf).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// Waits until so many nodes are free.
    fn ready(&self, nodes: usize) {
        until("nodes are free", || {
            let free = self.slurm("sinfo", &["--noheader", "-N", "-t", "idle", "-o", "%N"]);
            let is_ready = free.lines().count() >= nodes;
            if !is_ready {
                self.resume();
                std::thread::sleep(Duration::from_secs(1));
            }
            is_ready
        });
    }

    /// The process of a daemon.
    fn daemon(&self, name: &str) -> u32 {
        let file = self.folder.join("run").join(format!("{name}.pid"));
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }
}

/// One cluster for all cases, one after the other: some of them kill nodes.
#[test]
fn a_real_cluster_passes_every_case() {
    let Some(cluster) = cluster() else { return };
    passes_the_suite(&cluster);
    two_hundred_nodes_are_those_of_a_local_run(&cluster);
    a_cancelled_job_is_made_again(&cluster);
    a_job_that_never_starts_is_taken_back(&cluster);
    cluster.ready(3);
    a_node_that_dies_is_made_up_for(&cluster);
    // The node that died takes its time to come back, and two have room enough.
    cluster.ready(2);
    an_absent_controller_loses_nothing(&cluster);
}

/// Every case of the suite that any executor must pass.
fn passes_the_suite(cluster: &Cluster) {
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
fn two_hundred_nodes_are_those_of_a_local_run(cluster: &Cluster) {
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

fn a_cancelled_job_is_made_again(cluster: &Cluster) {
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

/// More threads than any node has: Slurm would let the job wait for ever.
fn a_job_that_never_starts_is_taken_back(cluster: &Cluster) {
    let (site, space) = (cluster.site(), Space::new());
    site.configure(&space, "threads = 64\n");
    waiting(&space, 1);
    let (code, _, said) = site.run(&space, &[]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("`long[i=0]` failed: it will never start: PartitionConfig"), "{said}");
    assert!(said.contains("= help: change `resources` of the stage, or `options`"), "{said}");
    let left = cluster.slurm("squeue", &["--noheader", "--states=pending"]);
    assert!(left.is_empty(), "{left}");
}

fn a_node_that_dies_is_made_up_for(cluster: &Cluster) {
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
            signal(parent_of(job), "KILL");
            signal(job, "KILL");
        }
    }
    until("they are made again", || lines(&space, "side").len() > 4);
    space.write("go", "");
    let (code, report, said) = ends(run);
    assert_eq!(code, 0, "{said}");
    assert_eq!(names(&report, "ran").len(), 8);
}

/// The process that started another one: the daemon of a job's step.
fn parent_of(process: u32) -> u32 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let behind = text.rsplit_once(')').unwrap().1;
    behind.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The controller is away for a while: jobs go on, what they deliver is used, and new ones wait.
fn an_absent_controller_loses_nothing(cluster: &Cluster) {
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
    // The controller gives up the nodes of jobs that it does not remember.
    let (code, report, said) = ends_while(run, || cluster.resume());
    assert_eq!(code, 0, "{said}");
    assert_eq!(names(&report, "ran").len(), 12);
    let begun = begun(&space);
    assert!(begun.values().all(|times| *times == 1), "{begun:?}");
}

//! The thread that talks with executors while the deciding one goes on: it submits jobs, notices
//! what they deliver and how they end, and cancels them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use refrain_cache::write::{remove_file, write_atomic};
use refrain_cache::{Key, SessionWatch, Stored};

use crate::plan::state::StateError;
use crate::run::WorkerMessage;
use crate::store::Store;

use super::events::{EventReader, JobEvent};
use super::job_file::{JobReport, STOP_FILE, read_session};
use super::{
    ExecutorError, JOB_FILE, Job, JobResources, JobState, LOG_FILE, OTHER_RESOURCES, Placement,
};

/// Time between two looks for deliveries and reports.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time after which an executor that takes no jobs is asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// Time within which the report of an ended job may come into sight.
const GRACE: Duration = Duration::from_secs(3);
/// Lines of a job's log that are told when it is lost.
const LOG_LINES: usize = 3;
/// Bytes at the end of a log in which they are looked for.
const LOG_BYTES: u64 = 4096;

/// A request of the deciding thread.
pub(super) enum Order {
    /// Start a job.
    Submit { placement: usize, job: Job, resources: JobResources },
    /// Watch a job that an earlier run started.
    Adopt { placement: usize, job: Job },
    /// End these jobs, without further notice of them.
    Cancel(Vec<String>),
    /// End all jobs that have not begun; each is told as withdrawn.
    Withdraw,
    /// Go on after a job was refused.
    GoOn,
}

/// News for the deciding thread.
pub(in crate::run) enum Notice {
    /// Records arrived, under these keys.
    Delivered(Vec<(Key, Stored)>),
    /// A job is over.
    Ended(String, JobEnd),
    /// Something happened to a node of a job.
    Event(String, JobEvent),
    /// So many jobs of a placement run at this moment.
    Running(usize, usize),
    /// Nothing that jobs deliver can be taken over.
    Broken(StateError),
}

/// The end of a job.
pub(in crate::run) enum JobEnd {
    /// It reported, after all of its deliveries.
    Reported(Box<JobReport>),
    /// It is gone without a report; why.
    Lost(String),
    /// Its executor does not take it; its words.
    Refused(ExecutorError),
    /// It was ended before it began.
    Withdrawn,
}

/// A job that is watched.
struct Watched {
    placement: usize,
    job: Job,
    state: JobState,
    session: Option<SessionWatch>,
    events: EventReader,
    /// When it was first seen to be over, without a report; and the words for it.
    over: Option<(Instant, String)>,
}

/// A job that its executor did not take yet.
struct Unsubmitted {
    placement: usize,
    job: Job,
    resources: JobResources,
    next: Instant,
}

/// The thread's state.
pub(super) struct Watcher<'a> {
    placements: &'a [Placement],
    store: &'a Store,
    notices: Sender<WorkerMessage>,
    watched: Vec<Watched>,
    unsubmitted: Vec<Unsubmitted>,
    /// For each placement when it is asked next, and whether it answered.
    asked: Vec<(Instant, bool)>,
    /// Whether jobs are held back: a refusal may end the run, which takes the others back, so that
    /// not all of them need be refused.
    is_held: bool,
}

impl<'a> Watcher<'a> {
    pub fn new(
        placements: &'a [Placement],
        store: &'a Store,
        notices: Sender<WorkerMessage>,
    ) -> Watcher<'a> {
        let asked = vec![(Instant::now(), true); placements.len()];
        let (watched, unsubmitted, is_held) = (Vec::new(), Vec::new(), false);
        Watcher { placements, store, notices, watched, unsubmitted, asked, is_held }
    }

    /// Watches until nobody gives orders any more.
    pub fn run(mut self, orders: &Receiver<Order>) {
        loop {
            match orders.recv_timeout(LOOK_EVERY) {
                Ok(order) => {
                    self.obey(order);
                    // Orders that wait come first: each look takes a moment.
                    while let Ok(order) = orders.try_recv() {
                        self.obey(order);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.submit_again();
            for placement in 0..self.placements.len() {
                self.ask(placement);
            }
            if let Err(error) = self.look() {
                self.tell(Notice::Broken(error));
                return;
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Submit { placement, job, resources } => self.submit(placement, job, resources),
            Order::Adopt { placement, job } => self.watch(placement, job),
            Order::Cancel(names) => {
                let is_named = |job: &Job| names.contains(&job.name);
                self.unsubmitted.retain(|job| !is_named(&job.job));
                let (named, others) =
                    self.watched.drain(..).partition(|watched| is_named(&watched.job));
                self.watched = others;
                self.cancel(&named);
            }
            Order::GoOn => self.is_held = false,
            Order::Withdraw => {
                self.is_held = false;
                for job in std::mem::take(&mut self.unsubmitted) {
                    self.tell(Notice::Ended(job.job.name, JobEnd::Withdrawn));
                }
                // The state may be that of a while ago.
                let waits = |job: &Watched| {
                    job.state == JobState::Waiting && read_session(&job.job.folder).is_none()
                };
                let (waiting, others): (Vec<Watched>, _) =
                    self.watched.drain(..).partition(|job| waits(job));
                self.watched = others;
                self.cancel(&waiting);
                for job in waiting {
                    self.tell(Notice::Ended(job.job.name, JobEnd::Withdrawn));
                }
            }
        }
    }

    /// Asks jobs to end: by a file, which works wherever the folder is seen, and by their executor.
    fn cancel(&self, jobs: &[Watched]) {
        for job in jobs {
            // Its executor ends it too.
            let _unseen = write_atomic(&job.job.folder.join(STOP_FILE), b"stop\n");
        }
        for (number, placement) in self.placements.iter().enumerate() {
            let there: Vec<&Job> =
                jobs.iter().filter(|job| job.placement == number).map(|job| &job.job).collect();
            if there.is_empty() {
                continue;
            }
            if let Err(error) = placement.executor.cancel(&there) {
                warn!(
                    name: "executor",
                    "`{}` did not end {} jobs: {error}",
                    placement.name,
                    there.len()
                );
            }
        }
    }

    fn watch(&mut self, placement: usize, job: Job) {
        self.watched.push(Watched {
            placement,
            job,
            state: JobState::Waiting,
            session: None,
            events: EventReader::default(),
            over: None,
        });
    }

    fn submit(&mut self, number: usize, job: Job, resources: JobResources) {
        if self.is_held {
            let next = Instant::now();
            return self.unsubmitted.push(Unsubmitted { placement: number, job, resources, next });
        }
        let placement = &self.placements[number];
        let mut words = placement.command.clone();
        words.push(OsString::from(job.folder.join(JOB_FILE)));
        match placement.executor.submit(&job, &words, &resources) {
            Ok(()) => {
                debug!(name: "submitted", job = job.name, "submitted to `{}`", placement.name);
                self.answered(number, None);
                self.watch(number, job);
            }
            Err(error @ ExecutorError::Refused { .. }) => {
                self.is_held = true;
                self.tell(Notice::Ended(job.name, JobEnd::Refused(error)));
            }
            Err(ExecutorError::Unreachable(message)) => {
                self.answered(number, Some(&message));
                let next = Instant::now() + AGAIN;
                self.unsubmitted.push(Unsubmitted { placement: number, job, resources, next });
            }
        }
    }

    fn submit_again(&mut self) {
        if self.is_held {
            return;
        }
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.unsubmitted)
            .into_iter()
            .partition(|job: &Unsubmitted| job.next <= now);
        self.unsubmitted = later;
        for Unsubmitted { placement, job, resources, .. } in due {
            self.submit(placement, job, resources);
        }
    }

    /// Notes whether an executor answers, and says it where that changed.
    fn answered(&mut self, number: usize, failure: Option<&str>) {
        let answered = &mut self.asked[number].1;
        let name = &self.placements[number].name;
        match failure {
            Some(message) if *answered => {
                warn!(name: "executor", "`{name}` does not answer; its jobs go on: {message}");
            }
            None if !*answered => warn!(name: "executor", "`{name}` answers again"),
            _ => {}
        }
        *answered = failure.is_none();
    }

    /// Asks an executor for the states of its jobs, when it is time.
    fn ask(&mut self, number: usize) {
        let is_there = |watched: &&Watched| watched.placement == number;
        if Instant::now() < self.asked[number].0 || !self.watched.iter().any(|w| is_there(&w)) {
            return;
        }
        self.pass_on(|_, watched| watched.placement == number);

        let placement = &self.placements[number];
        let jobs: Vec<&Job> = self.watched.iter().filter(is_there).map(|w| &w.job).collect();
        let states = placement.executor.states(&jobs);
        self.asked[number].0 = Instant::now() + placement.executor.poll_every();
        match states {
            Ok(states) => {
                self.answered(number, None);
                let there = self.watched.iter_mut().filter(|w| w.placement == number);
                let mut running = 0;
                for (watched, state) in there.zip(states) {
                    running += usize::from(state == JobState::Running);
                    watched.state = state;
                }
                self.tell(Notice::Running(number, running));
            }
            Err(error) => self.answered(number, Some(&error.to_string())),
        }
    }

    /// Passes on what happened to the nodes of jobs, chosen by position and job.
    fn pass_on(&mut self, is_chosen: impl Fn(usize, &Watched) -> bool) {
        for (at, watched) in self.watched.iter_mut().enumerate() {
            if !is_chosen(at, watched) {
                continue;
            }
            for event in watched.events.read(&watched.job.folder) {
                let notice = Notice::Event(watched.job.name.clone(), event);
                let _ended = self.notices.send(WorkerMessage::Elsewhere(notice));
            }
        }
    }

    /// Takes over what was delivered, and finds the jobs that are over.
    fn look(&mut self) -> Result<(), StateError> {
        // A report follows all deliveries of its job, so it is read before they are collected.
        let reports: Vec<Option<JobReport>> =
            self.watched.iter().map(|watched| JobReport::read(&watched.job.folder)).collect();
        let over = reports.iter().map(Option::is_some).collect::<Vec<bool>>();
        self.pass_on(|at, _| over[at]);
        let stored = self.store.collect()?;
        if !stored.is_empty() {
            self.tell(Notice::Delivered(stored));
        }

        for (mut watched, report) in std::mem::take(&mut self.watched).into_iter().zip(reports) {
            let end = match report {
                Some(report) => Some(JobEnd::Reported(Box::new(report))),
                None => self.end_without_report(&mut watched),
            };
            match end {
                Some(end) => {
                    // It may wait, or live where nobody sees it.
                    if matches!(end, JobEnd::Lost(_) | JobEnd::Refused(_)) {
                        self.cancel(std::slice::from_ref(&watched));
                    }
                    self.tell(Notice::Ended(watched.job.name, end));
                }
                None => self.watched.push(watched),
            }
        }
        Ok(())
    }

    /// Finds whether a job is over although it left no report.
    fn end_without_report(&self, watched: &mut Watched) -> Option<JobEnd> {
        let why = match &watched.state {
            JobState::Waiting => None,
            JobState::Stuck(reason) => {
                let message = format!("it will never start: {reason}");
                let hint = Some(OTHER_RESOURCES.into());
                return Some(JobEnd::Refused(ExecutorError::Refused { message, hint }));
            }
            JobState::Running => self.silence(watched),
            JobState::Ended(words) => Some(format!("the job ended as {words}")),
            JobState::Unknown => Some("the job is not known any more".to_owned()),
        };
        let Some(why) = why else {
            watched.over = None;
            return None;
        };
        if watched.over.is_none() {
            // On a network file system a change of ours makes the machine read the folders anew.
            for folder in [&watched.job.folder, &self.store.cache().deliveries_dir()] {
                let probe = folder.join(format!("probe-{}", watched.job.name));
                let _unseen = write_atomic(&probe, b"").and_then(|_| remove_file(&probe));
            }
        }
        let (since, why) = watched.over.get_or_insert_with(|| (Instant::now(), why));
        if since.elapsed() < GRACE {
            return None;
        }
        let log = last_lines(&watched.job);
        Some(JobEnd::Lost(if log.is_empty() { why.clone() } else { format!("{why}: {log}") }))
    }

    /// Says why a running job seems to be dead, if it does.
    fn silence(&self, watched: &mut Watched) -> Option<String> {
        if watched.session.is_none() {
            let name = read_session(&watched.job.folder)?;
            watched.session = Some(self.store.cache().watch(&name));
        }
        let silence = self.placements[watched.placement].config.silence;
        let session = watched.session.as_mut()?;
        let lives = self.store.cache().session_lives(session, silence);
        (!lives).then(|| "its program is gone".to_owned())
    }

    fn tell(&self, notice: Notice) {
        // The deciding thread has ended where nobody listens.
        let _ended = self.notices.send(WorkerMessage::Elsewhere(notice));
    }
}

/// Returns the last lines of a job's log, in one.
fn last_lines(job: &Job) -> String {
    let mut end = Vec::new();
    let read = || {
        let mut file = File::open(job.folder.join(LOG_FILE))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
        file.take(LOG_BYTES).read_to_end(&mut end)
    };
    // A job whose log cannot be read left no words.
    let _unreadable: io::Result<usize> = { read }();
    let text = String::from_utf8_lossy(&end);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("; ")
}

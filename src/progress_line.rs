//! One line on stderr that says how far the bytes of a command are.

use std::io::IsTerminal;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::human::{self, time};
use crate::output;

/// The longest that a command takes without a line.
const PATIENCE: Duration = Duration::from_secs(2);
/// Shortest time between two lines where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Shortest time between two changes of the line on a terminal.
const REDRAW_EVERY: Duration = Duration::from_millis(200);

/// Bytes that are done, and bytes in all.
type SoFar<'a> = &'a (dyn Fn() -> (u64, u64) + Sync);

/// Does the work of a command, with the line beside it should it take long.
pub fn beside<T>(so_far: SoFar<'_>, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (stop, stopped) = mpsc::channel::<()>();
        scope.spawn(move || show(&stopped, so_far));
        let result = work();
        drop(stop);
        result
    })
}

fn show(stopped: &Receiver<()>, so_far: SoFar<'_>) {
    let begin = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut wait = PATIENCE;
    while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        wait = if terminal { REDRAW_EVERY } else { LINE_EVERY };
        let (done, total) = so_far();
        let rate = done as f64 / begin.elapsed().as_secs_f64();
        let left =
            Duration::from_secs_f64((total.saturating_sub(done) as f64 / rate.max(1.0)).min(1e9));
        let (done, total, rate) = (human::size(done), human::size(total), human::size(rate as u64));
        let line = format!("{done} of {total}, {rate}/s, {} left", time(left));
        output::progress(&if terminal { format!("\r\x1b[K{line}") } else { format!("{line}\n") });
    }
    if terminal && wait != PATIENCE {
        output::progress("\r\x1b[K");
    }
}

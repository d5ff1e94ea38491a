//! When a failed request is sent again: exponential pauses with jitter, `Retry-After` obeyed.

use std::time::{Duration, SystemTime};

use refrain_lm::random::Stream;

/// Pause before the second attempt.
const FIRST: Duration = Duration::from_millis(250);
/// Longest pause that is of our own choice.
const LONGEST: Duration = Duration::from_secs(30);
/// Limit on the attempts of one request: about two minutes of pauses.
pub(super) const ATTEMPTS: u32 = 10;

/// Returns the pause after the failed attempt of that number, from 1.
///
/// `wait` is what the server asks for. The jitter keeps requests that failed together from coming
/// back together; it is a function of `request` and the attempt.
pub(super) fn pause(attempt: u32, wait: Option<Duration>, request: u64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST);
    let jitter = Stream::named(0, "retry", &[request]).uniform(u64::from(attempt));
    let own = doubled.mul_f64(0.5 + jitter / 2.0);
    // The time that was asked for is the least: all that were refused together have heard the same.
    wait.map_or(own, |wait| wait + own.min(FIRST))
}

/// Reads the value of `Retry-After`: seconds, or the time of day at which to come back.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let then = chrono::DateTime::parse_from_rfc2822(value).ok()?.timestamp();
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(u64::try_from(then).ok()?.saturating_sub(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_hold_what_the_server_asks() {
        for attempt in 1..ATTEMPTS {
            let own = pause(attempt, None, 7);
            let most = FIRST.saturating_mul(1 << (attempt - 1)).min(LONGEST);
            assert!(own >= most / 2 && own <= most, "attempt {attempt}: {own:?}");
            let asked = pause(attempt, Some(Duration::from_secs(60)), 7);
            assert!(asked >= Duration::from_secs(60) && asked < Duration::from_secs(61));
        }
        assert_eq!(pause(3, None, 7), pause(3, None, 7));
        assert_ne!(pause(3, None, 7), pause(3, None, 8));
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_470);
        let read = |value: &str| retry_after(value, now).map(|wait| wait.as_secs_f64());
        assert_eq!(read("3"), Some(3.0));
        assert_eq!(read(" 0.5 "), Some(0.5));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(10.0));
        assert_eq!(read("Wed, 21 Oct 2015 07:27:00 GMT"), Some(0.0));
        for wrong in ["", "-1", "soon", "inf"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}

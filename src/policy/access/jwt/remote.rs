//! A key set that is somewhere else: when it is to be fetched, and who waits for that.
//!
//! It fetches nothing itself. Always holds: one fetch at a time, and never two within `refresh_min`,
//! however many tokens name keys that nobody knows.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Jwks;

/// Beyond the time-out of the fetch, for who waits for it.
const MARGIN: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Debug, Default)]
struct State {
    /// When the last fetch began.
    tried: Option<Instant>,
    /// Whether that was good.
    was_good: bool,
    is_under_way: bool,
    /// Somebody showed a token of a key that is not known.
    is_wanted: bool,
}

#[derive(Debug)]
pub(super) struct Remote {
    pub(super) jwks: Jwks,
    state: Mutex<State>,
    ended: watch::Sender<u64>,
}

/// Somebody who waits for the next fetch to end.
#[derive(Debug)]
pub(super) struct Waiting(watch::Receiver<u64>);

impl Remote {
    pub(super) fn new(jwks: Jwks) -> Self {
        Self { jwks, state: Mutex::default(), ended: watch::Sender::new(0) }
    }

    /// Whether it is to be fetched now; if so, that has begun.
    pub(super) fn begin(&self, now: Instant) -> bool {
        let mut state = self.state();
        let is_due = match state.tried {
            None => true,
            Some(tried) => {
                let usual = if state.was_good { self.jwks.refresh } else { self.jwks.refresh_min };
                let pause = if state.is_wanted { self.jwks.refresh_min } else { usual };
                now.saturating_duration_since(tried) >= pause
            }
        };
        if state.is_under_way || !is_due {
            return false;
        }
        *state = State { tried: Some(now), is_under_way: true, ..*state };
        state.is_wanted = false;
        true
    }

    /// The fetch has ended.
    pub(super) fn end(&self, is_good: bool) {
        let mut state = self.state();
        state.is_under_way = false;
        state.was_good = is_good;
        drop(state);
        self.ended.send_modify(|ended| *ended = ended.wrapping_add(1));
    }

    /// Asks for it, since a key is not known; none if that was asked for only just now.
    pub(super) fn ask(&self, now: Instant) -> Option<Waiting> {
        let mut state = self.state();
        let is_early =
            |tried: Instant| now.saturating_duration_since(tried) < self.jwks.refresh_min;
        if !state.is_under_way && state.tried.is_some_and(is_early) {
            return None;
        }
        state.is_wanted = true;
        // Within the lock: an end behind it is heard.
        Some(Waiting(self.ended.subscribe()))
    }

    /// Until the fetch that was asked for has ended, or takes too long.
    pub(super) async fn wait(&self, mut waiting: Waiting) {
        // Its sender lives as long as the API.
        let _ended = tokio::time::timeout(self.jwks.timeout + MARGIN, waiting.0.changed()).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Url;
    use super::*;
    use crate::base::authority::Authority;
    use crate::base::clock;

    const SECOND: Duration = Duration::from_secs(1);

    fn remote() -> Remote {
        let authority = Authority::parse("a.test:443", None).unwrap();
        let url = Url { tls: true, authority, path: "/keys".to_owned() };
        Remote::new(Jwks { timeout: SECOND, ..Jwks::at(url) })
    }

    #[test]
    fn it_is_fetched_at_first_each_so_often_and_sooner_if_that_failed() {
        let (remote, now) = (remote(), clock::now());
        assert!(remote.begin(now));
        assert!(!remote.begin(now + 700 * SECOND), "one is under way");
        remote.end(true);
        assert!(!remote.begin(now + 599 * SECOND));
        assert!(remote.begin(now + 600 * SECOND));
        remote.end(false);
        assert!(!remote.begin(now + 609 * SECOND));
        assert!(remote.begin(now + 610 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_keys_have_it_fetched_but_not_without_end() {
        let (remote, now) = (remote(), clock::now());
        // Before the first fetch, and while one is under way, all wait for it.
        assert!(remote.ask(now).is_some());
        assert!(remote.begin(now));
        let waiting = remote.ask(now).unwrap();
        remote.end(true);
        remote.wait(waiting).await;
        assert_eq!(clock::now(), now, "it was told");
        assert!(remote.ask(now + 9 * SECOND).is_none());
        assert!(!remote.begin(now + 9 * SECOND));
        let waiting = remote.ask(now + 10 * SECOND).unwrap();
        assert!(remote.begin(now + 10 * SECOND));
        // Whoever waits for one that hangs waits no longer than it may take.
        remote.wait(waiting).await;
        assert_eq!(clock::now() - now, SECOND + MARGIN);
    }
}

//! `narrows bench limiter`: what the limiter costs, here and now.
//!
//! Four parts: [`memory`] one process, [`cost`] what each message costs Redis, [`rate`] how many of
//! them it does in a second, [`fleet`] whole limiters that share one Redis. Each figure stands in a
//! [`Report`] beside a baseline of the same run, and beside its target where it has one. It is no
//! part of the proxy and nothing uses it; it uses what the proxy uses.
//!
//! Invariants: all that is compared is measured in turns, round after round, and the best of each
//! counts: whatever else the machine does makes figures worse, never better. A part takes rounds
//! for as long as its time lasts, so that a slow machine does not make a long run.

mod cost;
mod fleet;
mod memory;
mod place;
mod rate;
mod report;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use redis::RedisError;
use thiserror::Error;
use tokio::time::Instant;

pub use self::memory::in_memory;
pub use self::report::Baseline;
pub use self::report::Report;
pub use self::report::Row;
pub use self::report::Target;

use self::place::Place;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::store;

/// What is measured, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which Redis; none is a private one that ends with the run.
    pub store: Option<store::Settings>,
    /// Whether a coarse result soon is better than a good one later.
    pub is_quick: bool,
}

/// Why nothing was measured.
#[derive(Debug, Error)]
pub enum Failure {
    /// Redis answered a message as it never should.
    #[error("redis gave an unexpected answer: {0}")]
    Answer(String),
    /// The private Redis has ended.
    #[error("the private redis-server ended: {0}")]
    Ended(String),
    /// There is no place for the private Redis.
    #[error("cannot make the folder {} for a private redis-server", path.display())]
    Folder {
        /// Where it was to be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No limiter came to terms with Redis.
    #[error("the limiters did not get through to redis: {0}")]
    Limiter(&'static str),
    /// There is no Redis to start.
    #[error("cannot start redis-server: install it, or name a Redis with --redis-addr")]
    NoServer(#[source] io::Error),
    /// Redis failed.
    #[error("redis failed")]
    Redis(#[from] RedisError),
    /// It was told to stop.
    #[error("stopped")]
    Stopped,
    /// Keys could not be removed.
    #[error("keys that begin with {prefix} could not be removed; they expire within a day")]
    Unclean {
        /// Of all that were written.
        prefix: String,
    },
}

/// Measures everything, or until `stop` completes; `tell` hears what is measured next. Needs a
/// runtime of one thread for itself.
pub async fn run(
    settings: &Settings,
    tell: impl Fn(&str),
    stop: impl Future<Output = ()>,
) -> Result<Report, Failure> {
    let place = Place::find(settings.store.as_ref()).await?;
    let measured = tokio::select! {
        measured = measure(&place, settings.is_quick, &tell) => measured,
        () = stop => Err(Failure::Stopped),
    };
    // Also what a failed run has written is removed.
    let cleaned = place.clean().await;
    let report = measured?;
    cleaned?;
    Ok(report)
}

async fn measure(place: &Place, is_quick: bool, tell: &impl Fn(&str)) -> Result<Report, Failure> {
    let redis = Some(place.meter().await?.version().await?);
    tell("the limiter in memory");
    let mut rows = in_memory(is_quick).rows;
    tell("what each message costs Redis");
    rows.extend(cost::measure(place, is_quick).await?);
    tell("how many messages Redis does in a second");
    rows.extend(rate::measure(place, is_quick).await?);
    tell("whole limiters on one Redis");
    rows.extend(fleet::measure(place, is_quick).await?);
    Ok(Report { redis, is_quick, rows })
}

/// One of many hosts.
fn host(number: usize) -> HostKey {
    HostKey::recalled(&format!("host{number}.example.com"))
}

/// Rounds for as long as the time lasts, and two at least.
#[derive(Debug)]
struct Rounds {
    until: Instant,
    taken: u32,
}

impl Rounds {
    fn new(lasting: Duration) -> Self {
        Self { until: clock::now() + lasting, taken: 0 }
    }

    /// Whether there is to be one more.
    fn next(&mut self) -> bool {
        self.taken += 1;
        self.taken <= 2 || clock::now() < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_are_rounds_until_the_time_is_over_but_two_at_least() {
        let mut rounds = Rounds::new(Duration::from_secs(3));
        let mut taken = 0;
        while rounds.next() {
            taken += 1;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(taken, 3);
        let mut rounds = Rounds::new(Duration::ZERO);
        assert_eq!([rounds.next(), rounds.next(), rounds.next()], [true, true, false]);
    }
}

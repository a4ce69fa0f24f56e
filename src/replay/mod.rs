//! `narrows replay`: what other settings would have decided of the requests in a decision log.
//!
//! The recorded requests meet the very deciders that a proxy has, at the recorded time, and what these
//! say is compared with what was recorded. What was recorded of their attempts (answers, how long they
//! took) is what the deciders hear, as far as they let the attempt pass. What the log does not say is
//! not guessed: it is told.
//!
//! Nothing is opened but the logs, and nobody is asked: no Redis, no upstream. Logs of any length are
//! read in bounded memory. Nothing uses this module but the program; it could be deleted.

mod merge;
mod report;
mod world;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use self::merge::Merged;
pub use self::report::Report;
use self::world::World;
use crate::policy::api;
use crate::policy::breaker;

/// What is replayed, and by which settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The logs: of one instance or of several, in any order.
    pub logs: Vec<PathBuf>,
    /// The APIs whose rules are asked.
    pub apis: Vec<api::Settings>,
    /// The breaker of CONNECT.
    pub connects: Option<breaker::Settings>,
}

/// Why there is no report.
#[derive(Debug, Error)]
pub enum Error {
    /// A log cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no line that is one of a decision log.
    #[error("there is no line of a decision log: {bad} others")]
    Nothing {
        /// Lines that are something else.
        bad: u64,
    },
}

/// Replays it. `complain` is told of lines that are none of a decision log, some of them.
pub fn run(settings: &Settings, complain: impl FnMut(&str)) -> Result<Report, Error> {
    let mut lines = Merged::open(&settings.logs, complain)?;
    let mut world: Option<World> = None;
    while let Some(read) = lines.next()? {
        let world = world.get_or_insert_with(|| World::new(settings, read.moment()));
        world.hear(&read);
    }
    let bad = lines.bad();
    let Some(world) = world else { return Err(Error::Nothing { bad }) };
    Ok(world.end(lines.read(), bad))
}

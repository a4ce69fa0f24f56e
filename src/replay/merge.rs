//! The lines of several logs, in the order of their time.
//!
//! Each log is read from its beginning to its end, and of all lines that are next in their logs the
//! earliest comes first: so lines of one log keep their order, and no more than one of each log is in
//! memory. What is no line of a decision log is told, counted and left out.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use tokio::time::Instant;

use super::Error;
use crate::base::clock;
use crate::base::clock::Moment;
use crate::telemetry::decisions::Line;
use crate::telemetry::rfc3339;

/// The longest line, in bytes; longer ones are none of a decision log.
const LONGEST: u64 = 64 * 1024;
/// Instances whose clocks are remembered; of more, each line is believed by itself.
const MOST: usize = 10_000;
/// Bad lines that are told one by one.
const TOLD: u64 = 20;
/// What is later than every moment of a log that is replayed.
const AHEAD: Duration = Duration::from_hours(24 * 365 * 100);

/// A line, and when it was written.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) line: Line<'static>,
    wall: SystemTime,
    now: Instant,
    /// The instance's clock at zero.
    zero: Instant,
}

impl Read {
    /// When it was written: on one clock for all instances, which never goes back.
    pub(super) fn moment(&self) -> Moment {
        Moment { now: self.now, wall: self.wall }
    }

    /// What `at` counts, as a moment of that clock.
    pub(super) fn instant(&self, at: u64) -> Instant {
        self.zero + Duration::from_micros(at)
    }
}

/// Some logs.
pub(super) struct Merged<C> {
    logs: Vec<Log>,
    complain: C,
    /// What moments since 1970 are counted from.
    base: Instant,
    /// When the clocks of instances were at zero, as moments since 1970.
    zeros: HashMap<Box<str>, Duration>,
    read: u64,
    bad: u64,
}

struct Log {
    path: PathBuf,
    input: BufReader<File>,
    number: u64,
    /// The line that is next, and its time.
    next: Option<(SystemTime, Line<'static>)>,
}

impl<C: FnMut(&str)> Merged<C> {
    pub(super) fn open(paths: &[PathBuf], complain: C) -> Result<Self, Error> {
        let open = |path: &PathBuf| match File::open(path) {
            Ok(file) => {
                Ok(Log { path: path.clone(), input: BufReader::new(file), number: 0, next: None })
            }
            Err(source) => Err(Error::Read { path: path.clone(), source }),
        };
        let logs = paths.iter().map(open).collect::<Result<_, _>>()?;
        // Deciders subtract times: before the first moment there is to be room.
        let base = clock::now() + AHEAD;
        let mut merged = Self { logs, complain, base, zeros: HashMap::new(), read: 0, bad: 0 };
        for at in 0..merged.logs.len() {
            merged.advance(at)?;
        }
        Ok(merged)
    }

    /// Lines of decision logs so far.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Other lines so far.
    pub(super) fn bad(&self) -> u64 {
        self.bad
    }

    pub(super) fn next(&mut self) -> Result<Option<Read>, Error> {
        let times = self.logs.iter().enumerate();
        let times = times.filter_map(|(at, log)| Some((log.next.as_ref()?.0, at)));
        let Some((_, at)) = times.min() else { return Ok(None) };
        let Some((wall, line)) = self.logs[at].next.take() else { return Ok(None) };
        self.advance(at)?;
        self.read += 1;
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let instance = line.id.split('-').next().unwrap_or_default();
        let passed = Duration::from_micros(line.at);
        let known = self.zeros.get(instance).copied();
        let zero = known.unwrap_or_else(|| {
            let zero = since.saturating_sub(passed);
            if self.zeros.len() < MOST {
                self.zeros.insert(instance.into(), zero);
            }
            zero
        });
        // Since the first line of all, so that the numbers stay small.
        let first = *self.zeros.entry(Box::default()).or_insert(zero);
        let zero = (self.base + zero).checked_sub(first).unwrap_or(self.base);
        Ok(Some(Read { now: zero + passed, zero, wall, line }))
    }

    /// Reads on, to the next good line of this log.
    fn advance(&mut self, at: usize) -> Result<(), Error> {
        let log = &mut self.logs[at];
        loop {
            let text =
                log.line().map_err(|source| Error::Read { path: log.path.clone(), source })?;
            let Some(text) = text else { return Ok(()) };
            match parse(&text) {
                Ok(next) => {
                    log.next = Some(next);
                    return Ok(());
                }
                Err(why) => {
                    self.bad += 1;
                    if self.bad <= TOLD {
                        let (path, number) = (log.path.display(), log.number);
                        (self.complain)(&format!("{path}:{number}: {why}"));
                    } else if self.bad == TOLD + 1 {
                        (self.complain)("there are more such lines; they are counted");
                    }
                }
            }
        }
    }
}

impl Log {
    /// The next line that is not empty; of one that is too long its beginning.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let mut bytes = Vec::new();
            let read = io::Read::take(&mut self.input, LONGEST).read_until(b'\n', &mut bytes)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if bytes.last() != Some(&b'\n') {
                self.skip()?;
            }
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    /// The rest of a line.
    fn skip(&mut self) -> io::Result<()> {
        loop {
            let part = self.input.fill_buf()?;
            if part.is_empty() {
                return Ok(());
            }
            if let Some(end) = part.iter().position(|byte| *byte == b'\n') {
                self.input.consume(end + 1);
                return Ok(());
            }
            let all = part.len();
            self.input.consume(all);
        }
    }
}

fn parse(text: &[u8]) -> Result<(SystemTime, Line<'static>), String> {
    if text.len() as u64 >= LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    let line: Line<'_> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let wall = rfc3339::parse(&line.time).ok_or("time: is no time as RFC 3339 has it, in UTC")?;
    Ok((wall, line.into_owned()))
}

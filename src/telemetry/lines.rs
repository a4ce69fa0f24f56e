//! Lines for a file or a stream, handed to a thread that writes them.
//!
//! Nothing on a request's way waits for a disk or a reader. When the thread falls behind by [`BACKLOG`]
//! lines, further ones are dropped and counted, so that a full disk costs lines and not requests.
//!
//! What the lines say, [`super::access`] and [`super::decisions`] know.

use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;
use tracing_appender::non_blocking::ErrorCounter;
use tracing_appender::non_blocking::NonBlocking;
use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_appender::non_blocking::WorkerGuard;

/// Lines that may wait for the writing thread.
const BACKLOG: usize = 65_536;

/// Where lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// To a file, appended.
    File(PathBuf),
    /// Nowhere.
    #[default]
    Off,
    /// To standard error.
    Stderr,
    /// To standard output.
    Stdout,
}

#[derive(Debug)]
struct Writer {
    to: NonBlocking,
    dropped: ErrorCounter,
    guard: Mutex<Option<WorkerGuard>>,
    /// Whether the file is to be opened anew before the next line.
    reopens: Arc<AtomicBool>,
}

/// Where lines are handed over. Cheap to clone; all clones write to the same place.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    writer: Option<Arc<Writer>>,
}

impl Lines {
    /// Opens it; a file is created if there is none, and appended to. `thread` is the name of the
    /// thread that writes.
    pub(super) fn open(target: &Target, thread: &str) -> io::Result<Self> {
        let reopens = Arc::<AtomicBool>::default();
        Ok(match target {
            Target::File(path) => {
                let (path, reopens) = (path.clone(), Arc::clone(&reopens));
                let file = Reopened { file: append(&path)?, path, reopens: Arc::clone(&reopens) };
                Self::to(file, reopens, thread)
            }
            Target::Off => Self::default(),
            Target::Stderr => Self::to(io::stderr(), reopens, thread),
            Target::Stdout => Self::to(io::stdout(), reopens, thread),
        })
    }

    fn to(writer: impl Write + Send + 'static, reopens: Arc<AtomicBool>, thread: &str) -> Self {
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(BACKLOG);
        let (to, guard) = builder.thread_name(thread).finish(writer);
        let dropped = to.error_counter();
        let guard = Mutex::new(Some(guard));
        Self { writer: Some(Arc::new(Writer { to, dropped, guard, reopens })) }
    }

    pub(super) fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Writes a line of JSON, or drops and counts it; never waits.
    pub(super) fn write(&self, line: &impl Serialize) {
        let Some(writer) = &self.writer else { return };
        let mut bytes = Vec::with_capacity(384);
        let mut to = writer.to.clone();
        let written = serde_json::to_writer(&mut bytes, line).map_err(io::Error::from);
        bytes.push(b'\n');
        if let Err(error) = written.and_then(|()| to.write_all(&bytes)) {
            tracing::warn!(%error, "a line of a log was lost");
        }
    }

    /// Lines dropped because the writing thread was behind.
    pub(super) fn dropped(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.dropped.dropped_lines() as u64)
    }

    /// Opens a file of this name anew before the next line is written: the former one was moved away.
    pub(super) fn reopen(&self) {
        if let Some(writer) = &self.writer {
            writer.reopens.store(true, Relaxed);
        }
    }

    /// Writes what is waiting and ends the writing thread, within about a second; what is written
    /// to any clone afterwards is lost.
    pub(super) fn close(&self) {
        if let Some(writer) = &self.writer {
            drop(writer.guard.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// A file that may be moved away while it is written.
struct Reopened {
    path: PathBuf,
    file: File,
    reopens: Arc<AtomicBool>,
}

impl Write for Reopened {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.reopens.swap(false, Relaxed) {
            match append(&self.path) {
                Ok(file) => self.file = file,
                // What is open is still better than nothing.
                Err(error) => {
                    tracing::error!(%error, path = %self.path.display(), "cannot open a log anew");
                }
            }
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_when_it_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let lines = Lines::open(&Target::File(path.clone()), "test").unwrap();
        lines.write(&"one");
        while fs::read(&path).unwrap().is_empty() {
            std::thread::yield_now();
        }
        fs::rename(&path, &moved).unwrap();
        lines.reopen();
        lines.write(&"two");
        lines.close();
        assert_eq!(fs::read_to_string(moved).unwrap(), "\"one\"\n");
        assert_eq!(fs::read_to_string(path).unwrap(), "\"two\"\n");
    }
}

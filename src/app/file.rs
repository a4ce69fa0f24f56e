//! Has the settings read again when their file changes.
//!
//! What is watched are the folder that the file is in and the one of the file that it leads to by
//! links, not the file: editors put another in its place, and Kubernetes swaps a link beside it.
//! When there is quiet after a change, the bytes are compared with those that were read last. A file
//! that is gone or empty may be on its way, and is given some time. Where the system tells of no
//! change (some network file systems), the file is looked at every few seconds.
//!
//! It runs on a thread of its own, which ends with the app.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use notify::RecommendedWatcher;
use notify::RecursiveMode;
use notify::Watcher;

use super::App;
use super::Error;
use super::build::set_up;
use super::reload::Reloader;
use crate::base::clock;

/// No event for so long, and whoever writes is done.
const QUIET: Duration = Duration::from_millis(50);
/// Who writes without end is not waited for any longer.
const LONGEST: Duration = Duration::from_secs(1);
/// How often it is looked at though nothing was told.
const LOOK: Duration = Duration::from_secs(3);

/// A thread that watches; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    events: Sender<Event>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Event {
    Changed,
    Over,
}

impl App {
    /// Has the settings read again ([`App::reread`]) when this file changes, for as long as the app
    /// lives. A second call watches the other file in the place of the first.
    pub fn watch(&self, file: &Path) -> Result<(), Error> {
        let watch = Watch::begin(file, Arc::clone(&self.reloader))?;
        let mut watched = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        *watched = Some(watch);
        Ok(())
    }
}

impl Watch {
    fn begin(file: &Path, reloader: Arc<Reloader>) -> Result<Self, Error> {
        let (events, told) = mpsc::channel();
        let seen = fs::read(file).ok();
        let mut eye = Eye::new(file.to_owned(), events.clone(), seen);
        let thread = std::thread::Builder::new().name("narrows-settings".to_owned());
        let thread = thread.spawn(move || {
            while eye.wait(&told) {
                if eye.has_changed() {
                    // Whatever is wrong has been told.
                    let _told = reloader.reread();
                }
            }
        });
        let thread = Some(thread.map_err(set_up("a thread that watches the settings"))?);
        Ok(Self { events, thread })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.events.send(Event::Over);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that watches the settings panicked");
        }
    }
}

/// What is seen of the file.
struct Eye {
    file: PathBuf,
    events: Sender<Event>,
    /// What it held when it was read last; none if it could not be read.
    seen: Option<Vec<u8>>,
    watched: Vec<PathBuf>,
    /// None where the system cannot tell of changes.
    watcher: Option<RecommendedWatcher>,
}

impl Eye {
    fn new(file: PathBuf, events: Sender<Event>, seen: Option<Vec<u8>>) -> Self {
        let mut eye = Self { file, events, seen, watched: Vec::new(), watcher: None };
        eye.look_there();
        eye
    }

    /// Watches the folders in which the file could change now.
    fn look_there(&mut self) {
        let folder = |path: &Path| match path.parent() {
            Some(folder) if folder != OsStr::new("") => folder.to_owned(),
            Some(_) | None => PathBuf::from("."),
        };
        let mut folders = vec![folder(&self.file)];
        folders.extend(fs::canonicalize(&self.file).ok().map(|real| folder(&real)));
        folders.dedup();
        if folders == self.watched && self.watcher.is_some() {
            return;
        }
        self.watched = folders;
        let events = self.events.clone();
        let tell = move |event: notify::Result<notify::Event>| {
            let is_reading = event.is_ok_and(|event| event.kind.is_access());
            if !is_reading {
                // The thread may have ended.
                let _gone = events.send(Event::Changed);
            }
        };
        self.watcher = notify::recommended_watcher(tell)
            .and_then(|mut watcher| {
                for folder in &self.watched {
                    watcher.watch(folder, RecursiveMode::NonRecursive)?;
                }
                Ok(watcher)
            })
            .inspect_err(|error| {
                tracing::debug!(%error, "the system tells of no change of the settings' file");
            })
            .ok();
    }

    /// Until there may be a change, and whoever makes it is done; false when it is over.
    fn wait(&mut self, told: &Receiver<Event>) -> bool {
        match told.recv_timeout(LOOK) {
            Ok(Event::Over) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => return true,
            Ok(Event::Changed) => {}
        }
        let end = clock::now() + LONGEST;
        loop {
            let rest = end.saturating_duration_since(clock::now());
            match told.recv_timeout(rest.min(QUIET)) {
                Ok(Event::Over) | Err(RecvTimeoutError::Disconnected) => return false,
                Ok(Event::Changed) if !rest.is_zero() => {}
                Err(RecvTimeoutError::Timeout) if !rest.is_zero() && self.is_on_its_way() => {}
                Ok(Event::Changed) | Err(RecvTimeoutError::Timeout) => return true,
            }
        }
    }

    /// Whether it is gone or empty, as a file is that is about to be written.
    fn is_on_its_way(&self) -> bool {
        fs::metadata(&self.file).map_or(true, |file| file.len() == 0)
    }

    /// Whether it holds something else than when it was read last.
    fn has_changed(&mut self) -> bool {
        self.look_there();
        let now = fs::read(&self.file).ok();
        let changed = now != self.seen;
        self.seen = now;
        changed
    }
}

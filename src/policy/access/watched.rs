//! A file of keys that may change at any time: its text, when it is another than it was.

use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use super::digest::Digest;

/// The longest file, in bytes.
const LONGEST: u64 = 16 * 1024 * 1024;

/// What a look at it found: its text, or why there was none.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(Digest),
    Unreadable(io::ErrorKind),
}

/// A file that is looked at again and again.
#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    seen: Mutex<Option<Seen>>,
}

impl Watched {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its text, or why it cannot be read; none if that is as it was at the look before.
    pub(super) fn look(&self) -> Option<io::Result<String>> {
        let text = read(&self.path);
        let now = match &text {
            Ok(text) => Seen::Text(Digest::of(text.as_bytes())),
            Err(error) => Seen::Unreadable(error.kind()),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.as_ref() == Some(&now) {
            return None;
        }
        *seen = Some(now);
        Some(text)
    }
}

/// The text of a file of keys.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if length as u64 > LONGEST {
        return Err(io::Error::other("it is longer than 16 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_once_for_each_time_that_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let watched = Watched::new(&path);
        assert!(watched.look().is_some_and(|text| text.is_err()));
        assert!(watched.look().is_none());
        std::fs::write(&path, "a").unwrap();
        assert_eq!(watched.look().map(Result::unwrap), Some("a".to_owned()));
        assert!(watched.look().is_none());
        std::fs::write(&path, "b").unwrap();
        assert_eq!(watched.look().map(Result::unwrap), Some("b".to_owned()));
    }
}

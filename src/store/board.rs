//! What instances tell each other about APIs: scripts that change a few words in Redis, and a
//! channel on which all hear of it.
//!
//! A seam: so far it is always [`Board::alone`].

use std::fmt::Debug;
use std::sync::Weak;

use thiserror::Error;

/// Redis is not there, or does not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("redis is away")]
pub(crate) struct Away;

/// A file of `lua/`. Its keys and its channel are the board's to make.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) code: &'static str,
}

/// The way to the board. Cheap to clone; used on every thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {}

/// Who hears what instances say about a topic, its own instance's words too.
pub(crate) trait Listener: Debug + Send + Sync {
    /// Somebody said this of a key. Called on the control thread; must be quick.
    fn heard(&self, key: &str, words: &[&str]);

    /// Redis is there, for the first time or again: what was said meanwhile was not heard.
    fn back(&self) {}
}

impl Board {
    /// The board of an instance that is alone.
    pub(crate) fn alone() -> Self {
        Self::default()
    }

    /// Whether there are, or could be, other instances.
    pub(crate) fn is_shared(&self) -> bool {
        false
    }

    /// Runs a script on the key of this topic, and waits for its words: no longer than a call to
    /// Redis may take, and not at all while Redis is known to be away.
    #[expect(clippy::unused_async, reason = "a seam")]
    pub(crate) async fn ask(
        &self,
        _script: &'static Script,
        _topic: &'static str,
        _key: &str,
        _words: &[&str],
    ) -> Result<Vec<String>, Away> {
        Err(Away)
    }

    /// Runs a script, and waits for nothing.
    pub(crate) fn tell(
        &self,
        _script: &'static Script,
        _topic: &'static str,
        _key: &str,
        _words: &[&str],
    ) {
    }

    /// Lets somebody hear, for as long as they live.
    pub(crate) fn listen(&self, _topic: &'static str, _listener: Weak<dyn Listener>) {}
}

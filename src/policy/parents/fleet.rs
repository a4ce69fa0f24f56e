//! What the instances of a fleet tell each other of parents: bans, and that they are over.
//!
//! A ban is told when it is made; who hears it has it too, less the time that it took. All that are
//! in force are asked for when Redis is there, for the first time or again. Nobody waits for any of
//! this, and without Redis each instance has its own bans alone.

use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

use tokio::time::Instant;

use super::memory::Memory;
use super::memory::Told;
use super::memory::Why;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::store::board::Board;
use crate::store::board::Listener;
use crate::store::scripts::PARENTS;

const TOPIC: &str = "parents";
/// What stands for all hosts; no host is called so.
const ALL: &str = "*";

/// The memory of an API's parents, and who else has it.
#[derive(Debug)]
pub(super) struct Fleet {
    api: Arc<str>,
    memory: Memory,
    board: Board,
    /// Itself, for a task of its own.
    own: Weak<Self>,
}

impl Fleet {
    pub(super) fn new(api: &Arc<str>, board: &Board) -> Arc<Self> {
        let fleet = Arc::new_cyclic(|own| Self {
            api: Arc::clone(api),
            memory: Memory::default(),
            board: board.clone(),
            own: Weak::clone(own),
        });
        let listener: Weak<Self> = Arc::downgrade(&fleet);
        board.listen(TOPIC, listener);
        fleet
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// A way to a host was no good; whether that is news.
    pub(super) fn ban(
        &self,
        way: (&Arc<str>, &HostKey),
        why: Why,
        base: Duration,
        now: Instant,
    ) -> bool {
        let told = self.memory.ban(way, why, base, now);
        for ban in &told {
            let host = ban.host.as_ref().map(HostKey::as_str);
            let (parent, left) = (&*ban.id, ban.left);
            let why = ban.why.as_str();
            tracing::warn!(api = &*self.api, parent, host, why, ?left, "parent not used");
            self.tell(ban);
        }
        !told.is_empty()
    }

    /// A way to a host that was gone `since` then is good.
    pub(super) fn clear(&self, id: &Arc<str>, host: &HostKey, since: Instant) {
        if self.memory.clear(id, host, since) {
            tracing::info!(
                api = &*self.api,
                parent = &**id,
                host = host.as_str(),
                "parent used again"
            );
            for host in [host.as_str(), ALL] {
                self.board.tell(&PARENTS, TOPIC, &self.api, &["free", &field(id, host)]);
            }
        }
    }

    fn tell(&self, ban: &Told) {
        if !self.board.is_shared() {
            return;
        }
        let field = field(&ban.id, ban.host.as_ref().map_or(ALL, HostKey::as_str));
        let (left, length) = (ban.left.as_millis().to_string(), ban.length.as_millis().to_string());
        let words = ["ban", &field, ban.why.as_str(), &left, &length];
        self.board.tell(&PARENTS, TOPIC, &self.api, &words);
    }

    /// Takes over what stands in Redis: for each ban its field, why, and how long.
    fn learn(&self, words: &[String]) {
        let now = clock::now();
        for ban in words.as_chunks::<4>().0 {
            let [field, why, left, length] = ban.each_ref().map(String::as_str);
            if let Some(told) = read(field, why, left, length) {
                self.memory.heard(&told, now);
            }
        }
    }
}

/// A way and a host in one word.
fn field(id: &str, host: &str) -> String {
    [id, " ", host].concat()
}

fn read_field(field: &str) -> Option<(Arc<str>, Option<HostKey>)> {
    let (id, host) = field.split_once(' ')?;
    let host = if host == ALL { None } else { Some(HostKey::parse(host).ok()?) };
    Some((id.into(), host))
}

fn read(field: &str, why: &str, left: &str, length: &str) -> Option<Told> {
    let (id, host) = read_field(field)?;
    let millis = |text: &str| text.parse().ok().map(Duration::from_millis);
    Some(Told { id, host, why: Why::of(why)?, left: millis(left)?, length: millis(length)? })
}

impl Listener for Fleet {
    fn heard(&self, key: &str, words: &[&str]) {
        if key != &*self.api {
            return;
        }
        match words {
            ["ban", field, why, left, length] => {
                if let Some(told) = read(field, why, left, length) {
                    self.memory.heard(&told, clock::now());
                }
            }
            ["free", field] => {
                if let Some((id, host)) = read_field(field) {
                    self.memory.freed(&id, host.as_ref());
                }
            }
            _ => {}
        }
    }

    fn back(&self) {
        let Some(fleet) = self.own.upgrade() else { return };
        // What is asked ends with the control thread's runtime, or by the board's time-out.
        tokio::spawn(async move {
            let asked = fleet.board.ask(&PARENTS, TOPIC, &fleet.api, &["all"]).await;
            if let Ok(words) = asked {
                fleet.learn(&words);
            }
        });
    }
}

//! The sentinels: which Redis is the master, and when it is another.
//!
//! All are asked at once, and the newest answer is believed: each change of the master has a higher
//! number, the epoch, so that a sentinel that was cut off cannot lead back to an old master.
//!
//! A master that was replaced while it was well goes on answering for some seconds, until the
//! sentinels make it a replica. Who stayed there meanwhile would be forgotten by the new one when
//! that has learnt, so [`Sentinels::watch`] looks every [`LOOK`].

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::ConnectionInfo;
use redis::ErrorKind;
use redis::RedisError;
use redis::aio::MultiplexedConnection;

use super::Node;
use super::nodes::connect;
use super::nodes::quiet;
use super::nodes::refusal;

/// How often each sentinel is asked whether the master is another. Less than a lease.
const LOOK: Duration = Duration::from_secs(1);
/// How long the other sentinels have once one has answered.
const GRACE: Duration = Duration::from_millis(20);

/// All sentinels of one master.
#[derive(Clone)]
pub(super) struct Sentinels {
    pub(super) places: Vec<ConnectionInfo>,
    pub(super) master: String,
}

/// The master, and the number of the change that made it one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Master {
    pub(super) node: Node,
    epoch: u64,
}

impl Sentinels {
    /// The newest master that a sentinel knows. Has no time-out.
    pub(super) async fn ask(&self) -> Result<Master, RedisError> {
        let asked = self.places.iter().map(async |place| {
            let mut connection = connect(place.clone(), quiet()).await?;
            self.tell(&mut connection).await
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut newest = Err(refusal(ErrorKind::EmptySentinelList, "no sentinel to ask"));
        loop {
            let told = match &newest {
                Ok(_) => tokio::time::timeout(GRACE, asked.next()).await.unwrap_or_default(),
                Err(_) => asked.next().await,
            };
            match (told, &newest) {
                (None, _) => return newest,
                (Some(Ok(told)), Ok(Master { epoch, .. })) if told.epoch <= *epoch => {}
                (Some(Err(_)), Ok(_)) => {}
                (Some(told), _) => newest = told,
            }
        }
    }

    /// Ends when a sentinel knows a newer master than this one.
    pub(super) async fn watch(&self, known: &Master) {
        let watching = self.places.iter().map(async |place| {
            loop {
                if let Ok(()) = self.follow(place, known).await {
                    return;
                }
                // It is down, or does not answer; the others look too.
                tokio::time::sleep(LOOK).await;
            }
        });
        let mut watching: FuturesUnordered<_> = watching.collect();
        watching.next().await;
    }

    /// Errs when this sentinel does not tell any more.
    async fn follow(&self, place: &ConnectionInfo, known: &Master) -> Result<(), RedisError> {
        let in_time = |elapsed| RedisError::from(std::io::Error::from(elapsed));
        let connecting = tokio::time::timeout(LOOK, connect(place.clone(), quiet()));
        let mut connection = connecting.await.map_err(in_time)??;
        loop {
            let told = tokio::time::timeout(LOOK, self.tell(&mut connection));
            let now = told.await.map_err(in_time)??;
            if now.epoch > known.epoch && now.node != known.node {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn tell(&self, connection: &mut MultiplexedConnection) -> Result<Master, RedisError> {
        let mut questions = redis::pipe();
        questions.cmd("SENTINEL").arg("master").arg(&self.master);
        // During a failover this one knows the next master before the other does.
        questions.cmd("SENTINEL").arg("get-master-addr-by-name").arg(&self.master);
        let (all, address): (HashMap<String, String>, Option<(String, u16)>) =
            questions.query_async(connection).await?;
        let epoch = all.get("config-epoch").and_then(|epoch| epoch.parse().ok());
        let unknown = || {
            let what = "the sentinels know no master of this name";
            refusal(ErrorKind::MasterNameNotFoundBySentinel, what)
        };
        let (host, port) = address.ok_or_else(unknown)?;
        Ok(Master { node: Node { host, port }, epoch: epoch.unwrap_or_default() })
    }
}

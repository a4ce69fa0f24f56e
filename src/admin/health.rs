//! Is it alive, is it ready?
//!
//! Liveness asks nothing but an answer. Readiness is a latch that only moves on: starting, serving,
//! draining. Redis away does not make an instance unready: all would be at once, and a load
//! balancer would take the whole fleet out of rotation for what each instance answers by itself.

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;

use super::Answer;
use super::RedisState;
use super::Sources;
use super::json;

/// How far a narrows has come. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It does not accept yet.
    Starting,
    /// It serves.
    Serving,
    /// It accepts no more and finishes what runs.
    Draining,
}

/// The latch.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

impl Readiness {
    /// All listeners accept.
    pub fn serving(&self) {
        self.reach(Phase::Serving);
    }

    /// The stop has begun.
    pub fn draining(&self) {
        self.reach(Phase::Draining);
    }

    /// How far it has come.
    pub fn phase(&self) -> Phase {
        [Phase::Starting, Phase::Serving]
            .into_iter()
            .find(|phase| *phase as u8 == self.0.load(Relaxed))
            .unwrap_or(Phase::Draining)
    }

    fn reach(&self, phase: Phase) {
        self.0.fetch_max(phase as u8, Relaxed);
    }
}

pub(super) fn live() -> Answer {
    json(StatusCode::OK, &serde_json::json!({ "status": "ok" }))
}

pub(super) fn ready(sources: &Sources, query: &str) -> Answer {
    let redis = sources.instances.redis();
    let (status, word) = match sources.readiness.phase() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        Phase::Serving => match redis {
            RedisState::Away | RedisState::Learning => (StatusCode::OK, "degraded"),
            RedisState::Off | RedisState::Up => (StatusCode::OK, "ready"),
        },
    };
    let verbose = query.split('&').any(|pair| pair.split('=').next() == Some("verbose"));
    let (is_current, since) = sources.metrics.config();
    let told = if verbose {
        serde_json::json!({
            "status": word,
            "redis": redis.as_str(),
            "settings": { "current": is_current, "since": since },
            "version": env!("CARGO_PKG_VERSION"),
        })
    } else {
        serde_json::json!({ "status": word })
    };
    json(status, &told)
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::super::Held;
    use super::super::Instances;
    use super::super::tests::get;
    use super::super::tests::sources;
    use super::*;
    use crate::base::authority::HostKey;

    #[derive(Debug)]
    struct Far(RedisState);

    impl Instances for Far {
        fn redis(&self) -> RedisState {
            self.0
        }

        fn held(&self, _: Vec<HostKey>) -> BoxFuture<'_, Option<Vec<Held>>> {
            Box::pin(async { None })
        }
    }

    #[tokio::test]
    async fn it_is_ready_from_the_start_to_the_stop_and_never_again() {
        let sources = sources(1);
        let status = async || {
            let (status, _, text) = get(&sources, "/readyz").await;
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            (status, value["status"].as_str().unwrap().to_owned())
        };
        assert_eq!(status().await, (503, "starting".to_owned()));
        sources.readiness.serving();
        assert_eq!(status().await, (200, "ready".to_owned()));
        sources.readiness.draining();
        sources.readiness.serving();
        assert_eq!(status().await, (503, "draining".to_owned()));
        assert_eq!(get(&sources, "/healthz").await.0, 200);
    }

    #[tokio::test]
    async fn redis_away_is_degraded_and_still_ready() {
        let mut sources = sources(1);
        sources.readiness.serving();
        for (state, word, status) in [
            (RedisState::Off, "off", "ready"),
            (RedisState::Up, "up", "ready"),
            (RedisState::Away, "away", "degraded"),
            (RedisState::Learning, "learning", "degraded"),
        ] {
            sources.instances = Box::new(Far(state));
            let (code, _, text) = get(&sources, "/readyz?verbose").await;
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                (code, &value["redis"], &value["status"]),
                (200, &word.into(), &status.into())
            );
        }
    }
}

//! `/circuit-status`: how the circuits are, in the shape that resilient-proxy-out's tools read, and
//! an operator's word that one is to be closed.

use std::time::UNIX_EPOCH;

use http::StatusCode;
use serde_json::Value;
use serde_json::json;

use super::super::Answer;
use super::super::Sources;
use super::super::problem;
use super::timestamp;
use super::url;
use crate::base::authority::HostKey;
use crate::policy::api::Api;
use crate::policy::breaker::Breakers;
use crate::policy::breaker::Circuit;

/// All circuits: one for each API that has a breaker; where each host has its own, as for CONNECT
/// (`@connect`), those that have failed of late.
pub(in super::super) fn list(sources: &Sources) -> Answer {
    let apis = sources.apis.load();
    let connects = sources.connects.iter().flat_map(|connects| connects.snapshot());
    let mut circuits: Vec<Value> = connects.map(|circuit| told(None, &circuit)).collect();
    circuits.extend(apis.all().into_iter().flat_map(|api| of(api)));
    super::super::json(StatusCode::OK, &json!({ "timestamp": timestamp(), "circuits": circuits }))
}

fn of(api: &Api) -> Vec<Value> {
    let circuits = api.breakers.as_ref().map(Breakers::snapshot).unwrap_or_default();
    let target = api.settings.target.as_ref().map(url);
    circuits.iter().map(|circuit| told(target.as_deref(), circuit)).collect()
}

fn told(target: Option<&str>, circuit: &Circuit) -> Value {
    let host = circuit.host.as_ref().map(ToString::to_string);
    let target = target.or(host.as_deref());
    let failed = circuit.last_failure.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let mut told = json!({
        "api": circuit.api,
        "target": target.unwrap_or(&*circuit.api),
        "state": circuit.condition.as_str(),
        "failures": circuit.failures,
        "successes": circuit.successes,
        // 0 is never, as there.
        "last_failure_time": failed.unwrap_or_default().as_secs(),
        // Rounded up: nobody shall find it open when it says 0.
        "time_to_reset": circuit.left.as_millis().div_ceil(1000),
        "opened": circuit.trips,
        "refused": circuit.refused,
        "config": super::breaker(&circuit.settings),
    });
    if let Some(host) = host {
        told["host"] = host.into();
    }
    told
}

/// Closes the circuit of an API, or of one of its hosts, for the whole fleet.
pub(super) fn close(name: &str, breakers: Option<&Breakers>, host: Option<&str>) -> Answer {
    let host = match host.map(HostKey::parse).transpose() {
        Ok(host) => host,
        Err(why) => return problem(StatusCode::BAD_REQUEST, &format!("host: {why}")),
    };
    let closed = breakers.is_some_and(|breakers| breakers.reset(host.as_ref()));
    if !closed {
        return problem(StatusCode::NOT_FOUND, "there is no such circuit");
    }
    let host = host.map(|host| host.to_string());
    tracing::info!(api = name, host, "an operator has closed a circuit");
    super::super::json(StatusCode::OK, &json!({ "api": name, "host": host }))
}

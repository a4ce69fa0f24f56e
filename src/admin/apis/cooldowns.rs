//! `/cool-downs`: upstreams that are not asked for a while since they said so, and an operator's
//! word that one is to be forgotten.

use http::StatusCode;
use serde_json::Value;
use serde_json::json;

use super::super::Answer;
use super::super::Sources;
use super::super::problem;
use super::seconds;
use super::timestamp;
use crate::policy::api::Api;
use crate::policy::cooldown::CoolDowns;

/// All that hold, and those that are asked slowly again.
pub(in super::super) fn list(sources: &Sources) -> Answer {
    let apis = sources.apis.load();
    let all: Vec<Value> = apis.all().into_iter().flat_map(|api| of(api)).collect();
    super::super::json(StatusCode::OK, &json!({ "timestamp": timestamp(), "cool_downs": all }))
}

fn of(api: &Api) -> Vec<Value> {
    let seen = api.cooldowns.as_ref().map(CoolDowns::seen).unwrap_or_default();
    let told = seen.into_iter().map(|seen| {
        json!({
            "api": api.name(),
            "name": seen.name,
            "seconds_left": seconds(seen.left),
            "status": seen.status,
            "capped": seen.is_capped,
            "ramping": seen.left.is_zero(),
            "waiting": seen.waiting,
        })
    });
    told.collect()
}

/// Forgets one, on all instances.
pub(super) fn forget(api: &Api, name: Option<&str>) -> Answer {
    let forgotten =
        api.cooldowns.as_ref().zip(name).is_some_and(|(cooldowns, name)| cooldowns.forget(name));
    if !forgotten {
        let detail = "there is no such cool-down; /cool-downs lists them";
        return problem(StatusCode::NOT_FOUND, detail);
    }
    tracing::info!(api = %api.name(), name, "an operator has forgotten a cool-down");
    super::super::json(StatusCode::OK, &json!({ "api": api.name(), "name": name }))
}

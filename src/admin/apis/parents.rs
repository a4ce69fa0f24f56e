//! `/parents`: the proxies by which APIs are reached, and for which hosts they are not used now.

use http::StatusCode;
use serde_json::Value;
use serde_json::json;

use super::super::Answer;
use super::super::Sources;
use super::timestamp;
use crate::policy::api::Api;

pub(in super::super) fn list(sources: &Sources) -> Answer {
    let apis = sources.apis.load();
    let all: Vec<Value> = apis.all().into_iter().filter_map(|api| of(api)).collect();
    super::super::json(StatusCode::OK, &json!({ "timestamp": timestamp(), "apis": all }))
}

fn of(api: &Api) -> Option<Value> {
    let snapshot = api.parents.as_ref()?.snapshot();
    // It is made of numbers and text alone.
    let mut told = serde_json::to_value(snapshot).ok()?;
    told["api"] = api.name().to_string().into();
    Some(told)
}

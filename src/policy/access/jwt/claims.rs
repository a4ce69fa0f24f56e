//! What a token claims, once its signature is known to be right: whether it holds here and now, and whose it is.
//!
//! Pure (RFC 7519 §4.1, RFC 8725 §3.8 to §3.11).

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde_json::Map;
use serde_json::Value;

use super::Flaw;
use super::Settings;

/// Bytes of the name of an identity.
const LONGEST_NAME: usize = 255;

/// Whether claims hold now; until when.
pub(super) fn judge(
    claims: &Map<String, Value>,
    settings: &Settings,
    now: SystemTime,
) -> Result<Option<SystemTime>, Flaw> {
    let leeway = settings.leeway;
    let until = moment(claims, "exp")?.map(|at| at.checked_add(leeway).ok_or(Flaw::Claims));
    let until = until.transpose()?;
    if until.is_some_and(|until| now >= until) {
        return Err(Flaw::Expired);
    }
    if moment(claims, "nbf")?.is_some_and(|from| now + leeway < from) {
        return Err(Flaw::NotYet);
    }
    let _whenever = moment(claims, "iat")?;
    let missing = |name: &String| claims.get(name).is_none_or(Value::is_null);
    if settings.required_claims.iter().any(missing) {
        return Err(Flaw::Missing);
    }
    let is_issuer = |issuer: &str| settings.issuers.iter().any(|known| known == issuer);
    if !settings.issuers.is_empty()
        && !claims.get("iss").and_then(Value::as_str).is_some_and(is_issuer)
    {
        return Err(Flaw::Issuer);
    }
    let is_us = |name: &str| settings.audiences.iter().any(|known| known == name);
    let is_for_us = match claims.get("aud") {
        // Whoever is no audience must refuse a token that names one (RFC 7519 §4.1.3).
        None | Some(Value::Null) => settings.audiences.is_empty(),
        Some(Value::String(name)) => is_us(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(is_us),
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => false,
    };
    if !is_for_us {
        return Err(Flaw::Audience);
    }
    if !settings.required_scopes.iter().all(|scope| has_scope(claims, settings, scope)) {
        return Err(Flaw::Scope);
    }
    Ok(until)
}

/// A time of RFC 7519 §2, `NumericDate`; what is there must be one.
fn moment(claims: &Map<String, Value>, name: &str) -> Result<Option<SystemTime>, Flaw> {
    let seconds = match claims.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value.as_f64().filter(|seconds| *seconds >= 0.0).ok_or(Flaw::Claims)?,
    };
    let since = Duration::try_from_secs_f64(seconds).map_err(|_none| Flaw::Claims)?;
    UNIX_EPOCH.checked_add(since).map(Some).ok_or(Flaw::Claims)
}

/// Words with spaces between them (RFC 8693 §4.2), or a list.
fn has_scope(claims: &Map<String, Value>, settings: &Settings, scope: &str) -> bool {
    match claims.get(&settings.scope_claim) {
        Some(Value::String(words)) => words.split_ascii_whitespace().any(|word| word == scope),
        Some(Value::Array(words)) => words.iter().any(|word| word.as_str() == Some(scope)),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => false,
    }
}

/// A name that a claim has. One that no log should have, or of no sensible length, is a token that does not hold.
pub(super) fn name(claims: &Map<String, Value>, claim: &str) -> Result<Option<String>, Flaw> {
    let text = match claims.get(claim) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => return Err(Flaw::Claims),
    };
    let is_sound = (1..=LONGEST_NAME).contains(&text.len())
        && text.trim() == text
        && !text.chars().any(char::is_control);
    if is_sound { Ok(Some(text)) } else { Err(Flaw::Claims) }
}

//! The keys that tokens are verified with, and by which algorithms each may be: out of secrets, PEM and
//! key sets (RFC 7517).
//!
//! SECURITY: an algorithm belongs to a key, and never to a token (RFC 8725 §3.1): a public key of RSA is no
//! secret of HMAC, whatever a token says of itself; and there is no key for `none`.

use std::fmt;

use jsonwebtoken::Algorithm;
use jsonwebtoken::AlgorithmFamily;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::AlgorithmParameters;
use jsonwebtoken::jwk::EllipticCurve;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::jwk::KeyOperations;
use jsonwebtoken::jwk::PublicKeyUse;
use serde_json::Value;
use thiserror::Error;

/// The most keys of a set, and the most that one token is tried with.
const MOST_KEYS: usize = 100;
const MOST_TRIED: usize = 4;
/// Bytes of the modulus of the shortest key of RSA (RFC 7518 §3.3).
const SHORTEST_RSA: usize = 2048 / 8;
/// Bytes of a point of a curve, uncompressed.
const P256: usize = 65;
const P384: usize = 97;

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadKey {
    /// None that the allowed algorithms could use.
    #[error("there is no key in it that fits the algorithms")]
    None,
    /// No PEM, or none of a public key.
    #[error(
        "PEM with public keys (BEGIN PUBLIC KEY or BEGIN RSA PUBLIC KEY) of RSA, P-256, P-384 or Ed25519"
    )]
    Pem,
    /// A key that nobody should have put there.
    #[error("a private key is in it; what verifies is the public one")]
    Private,
    /// A set that is none.
    #[error("a JSON Web Key Set: {{\"keys\": [...]}}, of at most 100 keys")]
    Set,
    /// A secret that is too short for any of them.
    #[error(
        "a secret is at least as long as its hash: 32 bytes for HS256, 48 for HS384, 64 for HS512"
    )]
    ShortSecret,
    /// A key of RSA that is too short.
    #[error("a key of RSA has at least 2048 bits")]
    ShortRsa,
}

/// A key, what it is called, and what it verifies.
#[derive(Clone)]
pub(super) struct VerifyingKey {
    id: Option<Box<str>>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey").field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

/// Which keys a token may be verified with.
#[derive(Debug)]
pub(super) enum Fitting<'k> {
    Keys(Vec<&'k DecodingKey>),
    /// None that goes by its algorithm.
    NoAlgorithm,
    /// None of its name.
    NoName,
}

/// Those of these keys that a token of this algorithm, and perhaps of a key of this name, is tried with.
pub(super) fn fitting<'k>(
    keys: &'k [VerifyingKey],
    algorithm: Algorithm,
    id: Option<&str>,
) -> Fitting<'k> {
    let by_algorithm = || keys.iter().filter(|key| key.algorithms.contains(&algorithm));
    if by_algorithm().next().is_none() {
        return Fitting::NoAlgorithm;
    }
    let named = |id: &str| by_algorithm().any(|key| key.id.as_deref() == Some(id));
    let fits = |key: &&VerifyingKey| match id {
        None => true,
        Some(id) if named(id) => key.id.as_deref() == Some(id),
        // A key without a name may be any.
        Some(_) => key.id.is_none(),
    };
    let fitting: Vec<_> =
        by_algorithm().filter(fits).take(MOST_TRIED).map(|key| &key.key).collect();
    if fitting.is_empty() { Fitting::NoName } else { Fitting::Keys(fitting) }
}

/// The key of a secret; of `allowed` algorithms, or all that fit where there are none.
pub(super) fn of_secret(secret: &[u8], allowed: &[Algorithm]) -> Result<VerifyingKey, BadKey> {
    let fits = [(Algorithm::HS256, 32), (Algorithm::HS384, 48), (Algorithm::HS512, 64)];
    // RFC 7518 §3.2: a key as long as the hash, or longer.
    let long_enough = fits.iter().filter(|(_, bytes)| secret.len() >= *bytes);
    let algorithms = among(allowed, long_enough.map(|(algorithm, _)| *algorithm));
    if algorithms.is_empty() {
        let is_wanted = allowed.is_empty() || fits.iter().any(|(hs, _)| allowed.contains(hs));
        return Err(if is_wanted { BadKey::ShortSecret } else { BadKey::None });
    }
    Ok(VerifyingKey { id: None, algorithms, key: DecodingKey::from_secret(secret) })
}

/// The public keys of a text in PEM.
pub(super) fn of_pem(text: &str, allowed: &[Algorithm]) -> Result<Vec<VerifyingKey>, BadKey> {
    const BEGIN: &str = "-----BEGIN ";
    let mut keys = Vec::new();
    let mut is_any = false;
    for (at, _) in text.match_indices(BEGIN) {
        let rest = &text[at..];
        let label = rest[BEGIN.len()..].split("-----").next().unwrap_or_default();
        if label.ends_with("PRIVATE KEY") {
            return Err(BadKey::Private);
        }
        let end = format!("-----END {label}-----");
        let end = rest.find(&end).map(|found| found + end.len()).ok_or(BadKey::Pem)?;
        if !matches!(label, "PUBLIC KEY" | "RSA PUBLIC KEY") {
            return Err(BadKey::Pem);
        }
        is_any = true;
        keys.extend(one_of_pem(&rest.as_bytes()[..end], allowed)?);
    }
    match (is_any, keys.is_empty()) {
        (false, _) => Err(BadKey::Pem),
        (true, true) => Err(BadKey::None),
        (true, false) => Ok(keys),
    }
}

fn one_of_pem(pem: &[u8], allowed: &[Algorithm]) -> Result<Option<VerifyingKey>, BadKey> {
    let length = |key: &DecodingKey| key.try_get_as_bytes().map_or(0, <[u8]>::len);
    let (key, fits) = if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        (key, vec![Algorithm::EdDSA])
    } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        let fits = of_curve(length(&key)).ok_or(BadKey::Pem)?;
        (key, vec![fits])
    } else {
        let key = DecodingKey::from_rsa_pem(pem).map_err(|_not_one| BadKey::Pem)?;
        if length(&key) < SHORTEST_RSA {
            return Err(BadKey::ShortRsa);
        }
        (key, AlgorithmFamily::Rsa.algorithms().to_vec())
    };
    let algorithms = among(allowed, fits.into_iter());
    Ok((!algorithms.is_empty()).then_some(VerifyingKey { id: None, algorithms, key }))
}

fn of_curve(length: usize) -> Option<Algorithm> {
    match length {
        P256 => Some(Algorithm::ES256),
        P384 => Some(Algorithm::ES384),
        _ => None,
    }
}

/// The keys of a set. What nobody here could use is left out (RFC 7517 §5). A set that came by a `url` has no
/// secrets: what everybody may read keeps none.
pub(super) fn of_set(
    text: &str,
    allowed: &[Algorithm],
    is_of_url: bool,
) -> Result<Vec<VerifyingKey>, BadKey> {
    let set: Value = serde_json::from_str(text).map_err(|_none| BadKey::Set)?;
    let all = set.get("keys").and_then(Value::as_array).ok_or(BadKey::Set)?;
    if all.len() > MOST_KEYS {
        return Err(BadKey::Set);
    }
    let keys: Vec<_> = all.iter().filter_map(|key| one_of_set(key, allowed, is_of_url)).collect();
    if keys.is_empty() { Err(BadKey::None) } else { Ok(keys) }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "they may grow, and nothing of that is ours")]
fn one_of_set(key: &Value, allowed: &[Algorithm], is_of_url: bool) -> Option<VerifyingKey> {
    let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
    let common = &jwk.common;
    if common.public_key_use.as_ref().is_some_and(|of| *of != PublicKeyUse::Signature)
        || common.key_operations.as_ref().is_some_and(|all| !all.contains(&KeyOperations::Verify))
    {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let fits = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) if is_of_url => return None,
        AlgorithmParameters::OctetKey(_) => {
            of_secret(key.try_get_as_bytes().ok()?, allowed).ok()?.algorithms
        }
        AlgorithmParameters::RSA(rsa) => {
            // Base 64: four letters for three bytes.
            if rsa.n.len() / 4 * 3 < SHORTEST_RSA - 2 {
                return None;
            }
            AlgorithmFamily::Rsa.algorithms().to_vec()
        }
        AlgorithmParameters::EllipticCurve(ec) => {
            let by_length = of_curve(key.try_get_as_bytes().ok()?.len())?;
            let by_name = match ec.curve {
                EllipticCurve::P256 => Algorithm::ES256,
                EllipticCurve::P384 => Algorithm::ES384,
                _ => return None,
            };
            if by_length != by_name {
                return None;
            }
            vec![by_name]
        }
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        _ => return None,
    };
    let mut algorithms = among(allowed, fits.into_iter());
    if let Some(own) = common.key_algorithm {
        let own = Algorithm::try_from(own).ok()?;
        algorithms.retain(|algorithm| *algorithm == own);
    }
    let id = common.key_id.as_deref().map(Into::into);
    (!algorithms.is_empty()).then_some(VerifyingKey { id, algorithms, key })
}

fn among(allowed: &[Algorithm], fits: impl Iterator<Item = Algorithm>) -> Vec<Algorithm> {
    fits.filter(|algorithm| allowed.is_empty() || allowed.contains(algorithm)).collect()
}

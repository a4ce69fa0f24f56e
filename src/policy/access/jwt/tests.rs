//! Tokens of every algorithm, good and bad in each way, by keys that are made here.

use std::fs;
use std::net::Ipv4Addr;

use aws_lc_rs::signature::KeyPair;
use aws_lc_rs::signature::RsaKeyPair;
use jsonwebtoken::EncodingKey;
use jsonwebtoken::Header;
use serde_json::json;

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Keys of each kind: to sign with, and in PEM to verify with.
struct Pair {
    signs: EncodingKey,
    public: String,
    /// The same in a set.
    jwk: Value,
}

fn letters(bytes: &[u8]) -> String {
    super::super::keys::letters(bytes)
}

fn pair(algorithm: &'static rcgen::SignatureAlgorithm) -> Pair {
    let made = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let private = made.serialize_pem();
    let raw = made.public_key_raw().to_vec();
    let (signs, jwk) = if algorithm == &rcgen::PKCS_ED25519 {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": letters(&raw)});
        (EncodingKey::from_ed_pem(private.as_bytes()).unwrap(), jwk)
    } else {
        let curve = if raw.len() == 65 { "P-256" } else { "P-384" };
        let half = raw.len() / 2;
        let (x, y) = (letters(&raw[1..=half]), letters(&raw[half + 1..]));
        let jwk = json!({"kty": "EC", "crv": curve, "x": x, "y": y});
        (EncodingKey::from_ec_pem(private.as_bytes()).unwrap(), jwk)
    };
    Pair { signs, public: made.public_key_pem(), jwk }
}

fn rsa() -> Pair {
    let made = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
    let made = made.unwrap();
    let private = made.serialize_pem();
    let der = made.serialize_der();
    let key = RsaKeyPair::from_pkcs8(&der).unwrap();
    let public = key.public_key();
    let n = letters(public.modulus().big_endian_without_leading_zero());
    let e = letters(public.exponent().big_endian_without_leading_zero());
    Pair {
        signs: EncodingKey::from_rsa_pem(private.as_bytes()).unwrap(),
        public: made.public_key_pem(),
        jwk: json!({"kty": "RSA", "n": n, "e": e}),
    }
}

fn named(pair: &Pair, id: &str) -> Value {
    let mut jwk = pair.jwk.clone();
    jwk["kid"] = id.into();
    jwk
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that hold, with these in their place.
fn claims(other: Value) -> Value {
    let now = seconds(clock::wall());
    let mut claims = json!({"sub": "alice", "exp": now + 600, "iat": now});
    for (name, value) in other.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn sign(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(header, claims, key).unwrap()
}

fn by_secret(claims: &Value) -> String {
    sign(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET))
}

fn settings() -> Settings {
    Settings { secret: Some(Secret::new(SECRET)), ..Settings::default() }
}

fn judge(tokens: &Tokens, token: &str) -> Result<Arc<Token>, Flaw> {
    tokens.find(token.as_bytes(), Digest::of(token.as_bytes()), HERE)
}

fn flaw(tokens: &Tokens, token: &str) -> Option<Flaw> {
    judge(tokens, token).err()
}

/// Tokens by the keys of a file of this kind.
fn of_file(kind: Kind, text: &str, algorithms: &[Algorithm]) -> Arc<Tokens> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    fs::write(&path, text).unwrap();
    let mut settings = Settings { algorithms: algorithms.to_vec(), ..Settings::default() };
    match kind {
        Kind::Secret => settings.secret_file = Some(path),
        Kind::PublicKeys => settings.public_key_file = Some(path),
        Kind::Set => settings.jwks_file = Some(path),
    }
    Tokens::new("a", &settings, None)
}

#[test]
fn tokens_of_every_algorithm_hold_by_a_file_and_by_a_set() {
    let (rsa, p256, p384) =
        (rsa(), pair(&rcgen::PKCS_ECDSA_P256_SHA256), pair(&rcgen::PKCS_ECDSA_P384_SHA384));
    let ed = pair(&rcgen::PKCS_ED25519);
    for (algorithm, pair) in [
        (Algorithm::RS256, &rsa),
        (Algorithm::RS384, &rsa),
        (Algorithm::RS512, &rsa),
        (Algorithm::PS256, &rsa),
        (Algorithm::PS384, &rsa),
        (Algorithm::PS512, &rsa),
        (Algorithm::ES256, &p256),
        (Algorithm::ES384, &p384),
        (Algorithm::EdDSA, &ed),
    ] {
        let token = sign(&Header::new(algorithm), &claims(json!({"tenant": "t1"})), &pair.signs);
        let mut header = Header::new(algorithm);
        header.kid = Some("k".to_owned());
        let of_name = sign(&header, &claims(json!({})), &pair.signs);
        let by_pem = of_file(Kind::PublicKeys, &pair.public, &[]);
        let by_set = of_file(Kind::Set, &set(&[named(pair, "k")]), &[algorithm]);
        for tokens in [&by_pem, &by_set] {
            let found = judge(tokens, &token).unwrap();
            assert_eq!(found.name.as_deref(), Some("alice"), "{algorithm:?}");
            assert_eq!(found.claims["tenant"], "t1");
            assert!(judge(tokens, &of_name).is_ok(), "{algorithm:?}");
            // One letter of the signature, the claims, or the head is another.
            for part in 0..3 {
                let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
                let at = parts[part].len() / 2;
                let other = if parts[part].as_bytes()[at] == b'A' { "B" } else { "A" };
                parts[part].replace_range(at..=at, other);
                assert!(judge(tokens, &parts.join(".")).is_err(), "{algorithm:?} {part}");
            }
        }
        let all = of_file(
            Kind::PublicKeys,
            &[&rsa, &p256, &p384, &ed].map(|pair| pair.public.as_str()).join("\n"),
            &[],
        );
        assert!(judge(&all, &token).is_ok());
        // Another algorithm is allowed than the token's.
        let other = of_file(
            Kind::Set,
            &set(&[named(&ed, "e"), named(&p256, "p"), named(&rsa, "r")]),
            &[if algorithm == Algorithm::EdDSA { Algorithm::ES256 } else { Algorithm::EdDSA }],
        );
        assert_eq!(flaw(&other, &token), Some(Flaw::Algorithm), "{algorithm:?}");
    }
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token =
            sign(&Header::new(algorithm), &claims(json!({})), &EncodingKey::from_secret(SECRET));
        let of_set = set(&[json!({"kty": "oct", "k": letters(SECRET)})]);
        for tokens in [
            Tokens::new("a", &settings(), None),
            of_file(Kind::Secret, &format!("{}\n", String::from_utf8_lossy(SECRET)), &[]),
            of_file(Kind::Set, &of_set, &[]),
        ] {
            assert!(judge(&tokens, &token).is_ok(), "{algorithm:?}");
            let wrong = sign(
                &Header::new(algorithm),
                &claims(json!({})),
                &EncodingKey::from_secret(&SECRET[1..]),
            );
            assert_eq!(flaw(&tokens, &wrong), Some(Flaw::Signature));
        }
        let tokens =
            Tokens::new("a", &Settings { algorithms: vec![Algorithm::HS512], ..settings() }, None);
        assert_eq!(judge(&tokens, &token).is_ok(), algorithm == Algorithm::HS512);
    }
}

/// RFC 8725 §2.1, §3.1.
#[test]
fn no_token_chooses_how_it_is_verified() {
    let rsa = rsa();
    let tokens = of_file(Kind::PublicKeys, &rsa.public, &[]);
    // The public key as the secret of HMAC, as PEM and as its bytes.
    let trimmed = rsa.public.trim().to_owned();
    for secret in [rsa.public.as_bytes(), trimmed.as_bytes()] {
        let token = sign(
            &Header::new(Algorithm::HS256),
            &claims(json!({})),
            &EncodingKey::from_secret(secret),
        );
        assert_eq!(flaw(&tokens, &token), Some(Flaw::Algorithm));
    }
    let body = letters(claims(json!({})).to_string().as_bytes());
    for alg in ["none", "None", "NONE", "HS256", "ES512", "dir", ""] {
        let head = letters(json!({"alg": alg, "typ": "JWT"}).to_string().as_bytes());
        for signature in ["", "AA"] {
            let token = format!("{head}.{body}.{signature}");
            assert!(judge(&tokens, &token).is_err(), "{alg}");
            assert!(judge(&Tokens::new("a", &settings(), None), &token).is_err(), "{alg}");
        }
    }
    // A key that the token brings along, or says where to find.
    let other = self::rsa();
    let mut header = Header::new(Algorithm::RS256);
    header.jwk = serde_json::from_value(other.jwk.clone()).ok();
    header.jku = Some("https://evil.test/keys".to_owned());
    assert!(header.jwk.is_some());
    assert_eq!(
        flaw(&tokens, &sign(&header, &claims(json!({})), &other.signs)),
        Some(Flaw::Signature)
    );
    // What is critical and not understood.
    let mut header = Header::new(Algorithm::RS256);
    header.crit = Some(vec!["b64".to_owned()]);
    assert_eq!(
        flaw(&tokens, &sign(&header, &claims(json!({})), &rsa.signs)),
        Some(Flaw::Malformed)
    );
}

#[test]
fn what_a_token_claims_must_hold_here_and_now() {
    let now = seconds(clock::wall());
    let strict = Settings {
        issuers: vec!["https://issuer.test".to_owned(), "other".to_owned()],
        audiences: vec!["orders".to_owned(), "more".to_owned()],
        required_claims: vec!["exp".to_owned(), "tenant".to_owned()],
        required_scopes: vec!["orders.read".to_owned()],
        plan_claim: Some("tier".to_owned()),
        ..settings()
    };
    let good = json!({"iss": "other", "aud": ["x", "orders"], "tenant": 7, "scope": "orders.read x", "tier": "gold"});
    let tokens = Tokens::new("a", &strict, None);
    let with = |name: &str, value: Value| {
        let mut claims = claims(good.clone());
        claims[name] = value;
        flaw(&tokens, &by_secret(&claims))
    };
    let found = judge(&tokens, &by_secret(&claims(good.clone()))).unwrap();
    assert_eq!((found.name.as_deref(), found.plan.as_deref()), (Some("alice"), Some("gold")));
    for (name, value, wanted) in [
        ("exp", json!(now - 61), Some(Flaw::Expired)),
        ("exp", json!(now - 30), None),
        ("exp", json!(f64::from(u32::try_from(now).unwrap()) + 0.5), None),
        ("exp", Value::Null, Some(Flaw::Missing)),
        ("exp", json!("tomorrow"), Some(Flaw::Claims)),
        ("exp", json!(-1), Some(Flaw::Claims)),
        ("exp", json!(1e300), Some(Flaw::Claims)),
        ("nbf", json!(now + 120), Some(Flaw::NotYet)),
        ("nbf", json!(now + 30), None),
        ("nbf", json!([]), Some(Flaw::Claims)),
        ("iat", json!("now"), Some(Flaw::Claims)),
        ("iss", json!("https://issuer.test/"), Some(Flaw::Issuer)),
        ("iss", json!(["other"]), Some(Flaw::Issuer)),
        ("iss", Value::Null, Some(Flaw::Issuer)),
        ("aud", json!("orders"), None),
        ("aud", json!("order"), Some(Flaw::Audience)),
        ("aud", json!(["x"]), Some(Flaw::Audience)),
        ("aud", json!([]), Some(Flaw::Audience)),
        ("aud", json!({"orders": 1}), Some(Flaw::Audience)),
        ("aud", Value::Null, Some(Flaw::Audience)),
        ("tenant", Value::Null, Some(Flaw::Missing)),
        ("scope", json!("orders.reads"), Some(Flaw::Scope)),
        ("scope", json!(["a", "orders.read"]), None),
        ("scope", Value::Null, Some(Flaw::Scope)),
        ("sub", json!("a\nb"), Some(Flaw::Claims)),
        ("sub", json!(""), Some(Flaw::Claims)),
        ("sub", json!("x".repeat(256)), Some(Flaw::Claims)),
        ("sub", json!(["alice"]), Some(Flaw::Claims)),
        ("sub", json!(42), None),
        ("sub", Value::Null, None),
        ("tier", json!({}), Some(Flaw::Claims)),
        ("tier", Value::Null, None),
    ] {
        assert_eq!(with(name, value.clone()), wanted, "{name} {value}");
    }
    // Whoever is no audience takes no token that is for one; and without exp only where that is allowed.
    let loose = Tokens::new("a", &Settings { required_claims: Vec::new(), ..settings() }, None);
    assert_eq!(flaw(&loose, &by_secret(&json!({"aud": "orders"}))), Some(Flaw::Audience));
    assert_eq!(flaw(&loose, &by_secret(&json!({}))), None);
    assert_eq!(
        flaw(&Tokens::new("a", &settings(), None), &by_secret(&json!({"sub": "x"}))),
        Some(Flaw::Missing)
    );
}

#[test]
fn a_token_is_of_a_kind_that_is_taken() {
    let tokens = Tokens::new("a", &settings(), None);
    for (typ, is_ours) in [
        (None, true),
        (Some("JWT"), true),
        (Some("jwt"), true),
        (Some("at+jwt"), true),
        (Some("application/at+JWT"), true),
        (Some("JOSE"), false),
        (Some("secevent+jwt"), false),
        (Some(""), false),
    ] {
        let header = Header { typ: typ.map(str::to_owned), ..Header::new(Algorithm::HS256) };
        let token = sign(&header, &claims(json!({})), &EncodingKey::from_secret(SECRET));
        assert_eq!(flaw(&tokens, &token), (!is_ours).then_some(Flaw::Type), "{typ:?}");
    }
}

#[test]
fn what_is_no_token_is_refused_whatever_it_is() {
    let tokens = Tokens::new("a", &settings(), None);
    let good = by_secret(&claims(json!({})));
    for bad in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "ey.ey.ey",
        "💥.💥.💥",
        &good[1..],
        &good[..good.len() - 1],
        &format!("{good}."),
        &format!("{good}="),
        &format!(".{good}"),
        &format!("{good}.{good}"),
        &good.replace('.', ".."),
        &format!(" {good}"),
    ] {
        let flaw = flaw(&tokens, bad);
        assert!(
            matches!(flaw, Some(Flaw::Malformed | Flaw::Signature | Flaw::Claims)),
            "{bad}: {flaw:?}"
        );
    }
    let head = letters(br#"{"alg":"HS256"}"#);
    for body in [&b"[]"[..], b"1", b"{", b"\xff", b""] {
        let message = format!("{head}.{}", letters(body));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET);
        let signature = letters(aws_lc_rs::hmac::sign(&key, message.as_bytes()).as_ref());
        assert_eq!(
            flaw(&tokens, &format!("{message}.{signature}")),
            Some(Flaw::Claims),
            "{body:?}"
        );
    }
}

#[tokio::test]
async fn a_token_that_is_too_long_is_not_looked_at() {
    let tokens = Tokens::new("a", &settings(), None);
    let long = by_secret(&claims(json!({"x": "y".repeat(8 * 1024)})));
    let judged = tokens.judge(long.as_bytes(), Digest::of(long.as_bytes()), HERE).await;
    assert_eq!(judged.err(), Some(Flaw::TooLong));
    assert_eq!(tokens.memory.len(), 0);
}

#[test]
fn of_several_keys_the_one_that_is_named_counts_or_any_where_none_is() {
    let (one, two) = (pair(&rcgen::PKCS_ECDSA_P256_SHA256), pair(&rcgen::PKCS_ECDSA_P256_SHA256));
    let tokens = of_file(Kind::Set, &set(&[named(&one, "1"), named(&two, "2")]), &[]);
    let token = |id: Option<&str>, pair: &Pair| {
        let header = Header { kid: id.map(str::to_owned), ..Header::new(Algorithm::ES256) };
        sign(&header, &claims(json!({})), &pair.signs)
    };
    assert_eq!(flaw(&tokens, &token(Some("1"), &one)), None);
    assert_eq!(flaw(&tokens, &token(Some("2"), &two)), None);
    assert_eq!(flaw(&tokens, &token(Some("1"), &two)), Some(Flaw::Signature));
    assert_eq!(flaw(&tokens, &token(Some("3"), &one)), Some(Flaw::KeyId));
    assert_eq!(flaw(&tokens, &token(None, &two)), None);
}

#[test]
fn of_a_set_what_nobody_could_use_is_left_out() {
    let (p256, rsa) = (pair(&rcgen::PKCS_ECDSA_P256_SHA256), rsa());
    let with = |pair: &Pair, name: &str, value: Value| {
        let mut jwk = pair.jwk.clone();
        jwk[name] = value;
        jwk
    };
    let good = named(&p256, "1");
    for bad in [
        with(&p256, "use", json!("enc")),
        with(&p256, "key_ops", json!(["sign"])),
        with(&p256, "alg", json!("ES384")),
        with(&p256, "crv", json!("P-384")),
        with(&p256, "crv", json!("secp256k1")),
        with(&p256, "x", json!("AAAA")),
        with(&rsa, "alg", json!("RSA-OAEP")),
        with(&rsa, "n", json!("AQAB")),
        json!({"kty": "oct", "k": letters(b"short")}),
        json!({"kty": "new"}),
        json!({}),
        json!(1),
    ] {
        assert_eq!(
            key::of_set(&set(std::slice::from_ref(&bad)), &[], false).err(),
            Some(BadKey::None),
            "{bad}"
        );
        assert_eq!(key::of_set(&set(&[bad, good.clone()]), &[], false).unwrap().len(), 1);
    }
    let secret = json!({"kty": "oct", "k": letters(SECRET)});
    assert!(key::of_set(&set(std::slice::from_ref(&secret)), &[], false).is_ok());
    assert_eq!(
        key::of_set(&set(&[secret]), &[], true).err(),
        Some(BadKey::None),
        "it is no secret there"
    );
    for text in ["", "{}", "[]", "{\"keys\":{}}", &set(&vec![good; 101])] {
        assert_eq!(key::of_set(text, &[], false).err(), Some(BadKey::Set));
    }
}

#[test]
fn files_that_hold_no_such_keys_are_told_why() {
    let made = rcgen::KeyPair::generate().unwrap();
    let pem = |text: &str| key::of_pem(text, &[]).err();
    assert_eq!(pem(&made.serialize_pem()), Some(BadKey::Private));
    assert_eq!(
        pem(&format!("{}{}", made.public_key_pem(), made.serialize_pem())),
        Some(BadKey::Private)
    );
    for text in [
        "",
        "nonsense",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "-----BEGIN PUBLIC KEY-----",
    ] {
        assert_eq!(pem(text), Some(BadKey::Pem), "{text}");
    }
    assert_eq!(key::of_pem(&made.public_key_pem(), &[Algorithm::RS256]).err(), Some(BadKey::None));
    assert_eq!(key::of_secret(&SECRET[..31], &[]).err(), Some(BadKey::ShortSecret));
    assert_eq!(key::of_secret(&SECRET[..32], &[Algorithm::HS512]).err(), Some(BadKey::ShortSecret));
    assert_eq!(key::of_secret(SECRET, &[Algorithm::RS256]).err(), Some(BadKey::None));
    assert!(!format!("{:?}{:?}", settings(), key::of_secret(SECRET, &[])).contains("012345"));
}

#[test]
fn a_token_that_was_verified_is_remembered_until_it_expires_or_keys_are_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let (one, two) = (pair(&rcgen::PKCS_ECDSA_P256_SHA256), pair(&rcgen::PKCS_ECDSA_P256_SHA256));
    fs::write(&path, &one.public).unwrap();
    let settings = Settings {
        public_key_file: Some(path.clone()),
        leeway: Duration::ZERO,
        ..Settings::default()
    };
    let tokens = Tokens::new("a", &settings, None);
    let token = sign(&Header::new(Algorithm::ES256), &claims(json!({})), &one.signs);
    let first = judge(&tokens, &token).unwrap();
    assert!(Arc::ptr_eq(&first, &judge(&tokens, &token).unwrap()), "it was not verified again");
    // It is judged by the time at each look.
    let digest = Digest::of(token.as_bytes());
    let generation = tokens.set.load().generation;
    let at = |seconds: u64| Now {
        wall: clock::wall() + Duration::from_secs(seconds),
        steady: clock::now(),
    };
    assert!(tokens.memory.recall(digest, generation, at(590)).unwrap().is_ok());
    assert_eq!(
        tokens.memory.recall(digest, generation, at(601)).unwrap().err(),
        Some(Flaw::Expired)
    );
    // A file that is wrong changes nothing, one with other keys all.
    fs::write(&path, "nonsense").unwrap();
    tokens.look("a");
    assert!(judge(&tokens, &token).is_ok());
    fs::write(&path, &two.public).unwrap();
    tokens.look("a");
    assert_eq!(flaw(&tokens, &token), Some(Flaw::Signature));
    fs::write(&path, format!("{}{}", two.public, one.public)).unwrap();
    tokens.look("a");
    assert!(judge(&tokens, &token).is_ok(), "what was wrong may be right");
    // The next settings take over what there is, unless nothing has changed at all.
    assert!(Arc::ptr_eq(&tokens, &Tokens::new("a", &settings, Some(&tokens))));
    fs::remove_file(&path).unwrap();
    let next =
        Tokens::new("a", &Settings { leeway: Duration::from_secs(1), ..settings }, Some(&tokens));
    assert!(judge(&next, &token).is_ok());
}

#[test]
fn tokens_that_somebody_makes_up_push_no_right_one_out_and_are_not_verified_without_end() {
    let tokens = Tokens::new("a", &settings(), None);
    let good = by_secret(&claims(json!({})));
    assert!(judge(&tokens, &good).is_ok());
    let (head, signature) = good.rsplit_once('.').unwrap();
    let mut busy = 0;
    for number in 0..10_000_u32 {
        let made_up = format!("{head}.{}{}", letters(&number.to_be_bytes()), &signature[6..]);
        match flaw(&tokens, &made_up) {
            Some(Flaw::Busy) => busy += 1,
            Some(Flaw::Signature) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(busy > 9000, "{busy}");
    assert!(tokens.memory.len() < 10_000 / 2);
    assert!(judge(&tokens, &good).is_ok(), "who is known is not asked");
    let other = by_secret(&claims(json!({"sub": "bob"})));
    assert_eq!(flaw(&tokens, &other), Some(Flaw::Busy));
    let elsewhere = IpAddr::from([192, 0, 2, 1]);
    assert!(tokens.find(other.as_bytes(), Digest::of(other.as_bytes()), elsewhere).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_set_from_elsewhere_is_fetched_for_a_key_that_is_not_known_and_the_last_good_one_stays() {
    let (one, two) = (pair(&rcgen::PKCS_ED25519), pair(&rcgen::PKCS_ED25519));
    let authority = Authority::parse("a.test:443", None).unwrap();
    let jwks = Jwks::at(Url { tls: true, authority, path: "/keys".to_owned() });
    let tokens = Tokens::new("a", &Settings { jwks: Some(jwks), ..Settings::default() }, None);
    let token = |id: &str, pair: &Pair| {
        let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::EdDSA) };
        sign(&header, &claims(json!({})), &pair.signs)
    };
    let judge = async |token: String| {
        tokens.judge(token.as_bytes(), Digest::of(token.as_bytes()), HERE).await.err()
    };
    // Whoever comes before the first fetch waits for it; if it fails there are no keys.
    assert!(tokens.to_fetch(clock::now()).is_some());
    let (flaw, ()) = tokio::join!(judge(token("1", &one)), async {
        tokens.fetched("a", Err("away".to_owned()));
    });
    assert_eq!(flaw, Some(Flaw::Keys));
    assert_eq!(judge(token("1", &one)).await, Some(Flaw::Keys), "it was asked for just now");
    tokio::time::advance(Duration::from_secs(10)).await;
    let (flaw, ()) = tokio::join!(judge(token("1", &one)), async {
        assert!(tokens.to_fetch(clock::now()).is_some());
        tokens.fetched("a", Ok(set(&[named(&one, "1")])));
    });
    assert_eq!(flaw, None);
    assert!(tokens.to_fetch(clock::now()).is_none());
    // A new key is fetched when it is first seen, if that is not too soon.
    assert_eq!(judge(token("2", &two)).await, Some(Flaw::KeyId));
    tokio::time::advance(Duration::from_secs(10)).await;
    let (flaw, ()) = tokio::join!(judge(token("2", &two)), async {
        assert!(tokens.to_fetch(clock::now()).is_some());
        tokens.fetched("a", Ok(set(&[named(&one, "1"), named(&two, "2")])));
    });
    assert_eq!(flaw, None);
    // The last good set stays, whatever comes.
    for bad in [Err("away".to_owned()), Ok("nonsense".to_owned()), Ok(set(&[]))] {
        tokio::time::advance(Duration::from_mins(11)).await;
        assert!(tokens.to_fetch(clock::now()).is_some());
        tokens.fetched("a", bad);
        assert_eq!(judge(token("1", &one)).await, None);
    }
    assert_eq!(tokens.len(), 2);
}

//! Tokens by every route, and keys for them that come from a server.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::SystemTime;

use jsonwebtoken::Algorithm;
use jsonwebtoken::EncodingKey;
use jsonwebtoken::Header;
use narrows::policy::access::jwt;
use narrows::policy::access::keys;
use narrows::policy::api::Settings;
use serde_json::Value;
use serde_json::json;

use super::ALICE;
use super::File;
use super::Served;
use super::api;
use super::basic;
use super::line;
use crate::support::Certs;
use crate::support::Client;
use crate::support::Origin;
use crate::support::narrows;
use crate::support::wait_until;

const SECRET: &str = "cAnArY-secret-0123456789abcdef-0123456789abcdef";

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Claims of alice's that hold, with these in their place.
fn claims(other: Value) -> Value {
    let mut claims = json!({"sub": "alice", "iss": "issuer", "aud": "orders", "exp": now() + 600});
    for (name, value) in other.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn by_secret(claims: &Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

/// The API `a` with tokens by the secret, and no keys.
fn by_token(origin: &Origin) -> Settings {
    let mut settings = api(origin, &[]);
    settings.keys = None;
    settings.jwt = Some(jwt::Settings {
        secret: Some(jwt::Secret::new(SECRET.as_bytes())),
        issuers: vec!["issuer".to_owned()],
        audiences: vec!["orders".to_owned()],
        ..jwt::Settings::default()
    });
    settings
}

/// A pair of keys, by its name.
struct Pair {
    id: &'static str,
    signs: EncodingKey,
    point: String,
}

impl Pair {
    fn new(id: &'static str) -> Pair {
        let made = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let signs = EncodingKey::from_ed_pem(made.serialize_pem().as_bytes()).unwrap();
        Pair { id, signs, point: letters(made.public_key_raw()) }
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.signs).unwrap()
    }
}

fn set(pairs: &[&Pair]) -> String {
    let key =
        |pair: &&Pair| json!({"kty": "OKP", "crv": "Ed25519", "kid": pair.id, "x": pair.point});
    json!({ "keys": pairs.iter().map(key).collect::<Vec<_>>() }).to_string()
}

/// Base 64 for URLs, without padding.
fn letters(bytes: &[u8]) -> String {
    let text = crate::support::users::base64(bytes);
    text.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// A server of a key set that can be changed: its text and the answer's status.
fn server(text: &Arc<Mutex<(u16, String)>>) -> Origin {
    let text = Arc::clone(text);
    Origin::raw(move |mut connection| {
        let text = Arc::clone(&text);
        async move {
            if let Ok(Some(_)) = connection.head().await {
                let (status, body) = text.lock().unwrap().clone();
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                let _sent = connection.send(head + &body).await;
            }
        }
    })
}

/// C2.7 of the scenarios.
#[tokio::test]
async fn a_token_that_holds_is_let_in_by_every_route_and_one_that_does_not_by_none() {
    let origin = Origin::start();
    let served = Served::new(by_token(&origin));
    let statuses = async |token: &str| {
        let gateway = format!("Authorization: Bearer {token}");
        let proxy = format!("Proxy-Authorization: Bearer {token}");
        served.statuses(&origin, &[&gateway], &[&proxy]).await
    };
    let body = |other: Value| letters(claims(other).to_string().as_bytes());
    let none = letters(br#"{"alg":"none","typ":"JWT"}"#);
    for bad in [
        by_secret(&claims(json!({"exp": now() - 120})), SECRET),
        by_secret(&claims(json!({"nbf": now() + 600})), SECRET),
        by_secret(&claims(json!({"aud": "others"})), SECRET),
        by_secret(&claims(json!({"iss": "another"})), SECRET),
        by_secret(&claims(json!({"exp": null})), SECRET),
        by_secret(&claims(json!({})), &SECRET.to_uppercase()),
        format!("{none}.{}.", body(json!({}))),
        "nonsense".to_owned(),
    ] {
        assert_eq!(statuses(&bad).await, [401, 407, 407, 401, 407, 407], "{bad}");
    }
    assert_eq!((origin.hits(), origin.accepted()), (0, 0));
    assert_eq!(statuses(&by_secret(&claims(json!({})), SECRET)).await, [200; 6]);
    assert!(!format!("{:?}", origin.seen()).contains("eyJ"), "it goes no further");

    let mut client = Client::to(served.address).await;
    let expired = format!(
        "Authorization: Bearer {}",
        by_secret(&claims(json!({"exp": now() - 120})), SECRET)
    );
    let answer = client.request("GET", "/api/a/x", &[&expired]).await;
    let asked = answer.head.all("www-authenticate");
    assert_eq!(
        asked,
        [
            r#"Bearer realm="a", error="invalid_token", error_description="the token is of no use: it has expired""#
        ]
    );
    let (one, two) =
        (by_secret(&claims(json!({})), SECRET), by_secret(&claims(json!({"sub": "bob"})), SECRET));
    let two = [format!("Authorization: Bearer {one}"), format!("Authorization: Bearer {two}")];
    assert_eq!(client.request("GET", "/api/a/x", &[&two[0], &two[1]]).await.status(), 400);
}

#[tokio::test]
async fn beside_keys_either_will_do_and_curls_password_may_be_a_token() {
    let origin = Origin::start();
    let mut settings = by_token(&origin);
    let own = vec![line("alice", ALICE, "").trim().parse().unwrap()];
    settings.keys = Some(keys::Settings { own, ..keys::Settings::default() });
    let served = Served::new(settings);
    let token = by_secret(&claims(json!({})), SECRET);
    for shown in [&*token, ALICE] {
        let gateway = format!("Authorization: Bearer {shown}");
        assert_eq!(served.statuses(&origin, &[&gateway], &[&basic(shown)]).await, [200; 6]);
    }
    let mut client = Client::to(served.address).await;
    for (field, status) in [
        (format!("X-API-Key: {ALICE}"), 200),
        (format!("X-API-Key: {token}"), 401),
        ("Authorization: Bearer nk_nobody-0123456789abcdef".to_owned(), 401),
    ] {
        assert_eq!(client.request("GET", "/api/a/x", &[&field]).await.status(), status);
    }
}

#[tokio::test]
async fn a_key_set_is_fetched_again_for_a_new_key_and_the_last_good_one_stays() {
    let (origin, one, two) = (Origin::start(), Pair::new("one"), Pair::new("two"));
    let text = Arc::new(Mutex::new((200, set(&[&one]))));
    let keys = server(&text);
    let config = File::new(&format!(
        "api: {{a: {{target_url: \"{}\", jwt: {{jwks_url: \"{}\", jwks_refresh_min: 300ms, audience: orders}}}}}}",
        origin.url(""),
        keys.url("/keys?x=1"),
    ));
    let log = config.path.with_extension("log");
    let flags = format!(
        "--config {} --log-level trace --access-log {}",
        config.path.display(),
        log.display()
    );
    let mut proxy = narrows().flags(flags).start().await;
    let mut shown = Vec::new();
    let mut status = async |token: String| {
        let field = format!("Authorization: Bearer {token}");
        shown.push(token);
        proxy.client().await.request("GET", "/api/a/x", &[&field]).await.status()
    };
    // Whoever comes first waits for the first fetch.
    assert_eq!(status(one.sign(&claims(json!({})))).await, 200);
    assert_eq!(keys.seen().len() + keys.accepted(), 1, "it was fetched once");
    assert_eq!(status(two.sign(&claims(json!({})))).await, 401);
    // The issuer takes another key. No restart: the first token of it has the set fetched.
    *text.lock().unwrap() = (200, set(&[&one, &two]));
    wait_until("the new key is known", async || {
        status(two.sign(&claims(json!({"sub": "bob"})))).await == 200
    })
    .await;
    // It goes away, or answers nonsense: what is known stays, and what is not is no reason to ask without end.
    for bad in [(500, String::new()), (200, "nonsense".to_owned()), (200, "x".repeat(300 * 1024))] {
        *text.lock().unwrap() = bad;
        let before = keys.accepted();
        wait_until("it was asked again", async || {
            assert_eq!(status(Pair::new("three").sign(&claims(json!({})))).await, 401);
            keys.accepted() > before
        })
        .await;
        assert_eq!(status(one.sign(&claims(json!({"n": 1})))).await, 200);
    }
    let before = keys.accepted();
    for _ in 0..50 {
        assert_eq!(status(Pair::new("four").sign(&claims(json!({})))).await, 401);
    }
    assert!(keys.accepted() - before < 25, "{}", keys.accepted() - before);

    let fetched = [("api", "a"), ("of", "jwks_url"), ("result", "ok")];
    assert!(proxy.metric("narrows_api_key_reloads_total", &fetched).await >= 2.0);
    let failed = [("api", "a"), ("of", "jwks_url"), ("result", "failed")];
    assert!(proxy.metric("narrows_api_key_reloads_total", &failed).await >= 3.0);
    let apis = proxy.admin("/apis").await.json();
    assert!(format!("{apis}").contains(r#""known":2"#), "{apis}");
    proxy.terminate();
    proxy.ended().await;
    let told = proxy.stdout.text() + &proxy.stderr.text() + &std::fs::read_to_string(&log).unwrap();
    assert!(told.contains("key set taken over") && told.contains("the key set cannot be had"));
    assert!(told.contains("bob"), "it is known who asked");
    for token in shown {
        let signature = token.rsplit('.').next().unwrap();
        assert!(!told.contains(signature), "{token}");
    }
}

#[tokio::test]
async fn a_key_set_by_tls_is_trusted_as_upstreams_are() {
    let (origin, one, certs) = (Origin::start(), Pair::new("one"), Certs::new());
    let (acceptor, _) = certs.server(&["127.0.0.1"], &[]);
    // An origin answers 404 to what it does not know; a certificate that is not trusted does not come so far.
    let keys = Origin::https(acceptor);
    let url = format!("https://{}/echo", keys.authority());
    let text =
        format!("api: {{a: {{target_url: \"{}\", jwt: {{jwks_url: \"{url}\"}}}}}}", origin.url(""));
    let config = File::new(&text);
    for (flags, is_trusted) in
        [(String::new(), false), (format!("--upstream-ca {}", certs.file().display()), true)]
    {
        let proxy =
            narrows().flags(format!("--config {} {flags}", config.path.display())).start().await;
        let field = format!("Authorization: Bearer {}", one.sign(&claims(json!({"aud": null}))));
        let answer = proxy.client().await.request("GET", "/api/a/x", &[&field]).await;
        answer.assert_refused(503, "proxy_internal_error");
        assert_eq!(keys.hits() > 0, is_trusted);
        assert!(answer.head.field("retry-after").is_some());
    }
}

#[tokio::test]
async fn what_is_wrong_with_keys_for_tokens_is_told_at_the_start_and_without_them() {
    let origin = Origin::start();
    let private = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let file = File::new(&private);
    for (jwt, told) in [
        ("{secret: sesame}".to_owned(), "at least as long as its hash"),
        ("{}".to_owned(), "must be given"),
        ("true".to_owned(), "a map with keys"),
        ("{secret: \"${LONG}\", algorithms: [none]}".to_owned(), "a list of HS256"),
        (format!("{{public_key_file: {}}}", file.path.display()), "a private key is in it"),
        ("{jwks_file: /nowhere/keys}".to_owned(), "cannot be read"),
        ("{jwks_url: \"http://a.test/keys\"}".to_owned(), "an https:// URL"),
    ] {
        let config =
            File::new(&format!("api: {{a: {{target_url: \"{}\", jwt: {jwt}}}}}", origin.url("")));
        let setup = narrows().flags(format!("--config {}", config.path.display()));
        let ended = setup.env("LONG", "sesame-sesame-sesame-sesame-sesame").run().await;
        let text = format!("{ended:?}");
        assert!(text.contains(told) && !text.contains("sesame"), "{jwt}: {text}");
    }
}

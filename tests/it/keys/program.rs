//! Keys as the program has them: made by `narrows key`, read from files and variables, told to nobody.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::ALICE;
use super::BOB;
use super::File;
use super::basic;
use super::line;
use crate::support::Origin;
use crate::support::narrows;
use crate::support::soon;

async fn key(words: &[&str], input: &str) -> (bool, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_narrows"))
        .args(words)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = soon("narrows key", child.wait_with_output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// A config file of one API `a`.
fn config(origin: &Origin, keys: &str) -> String {
    format!("api: {{a: {{target_url: \"{}\", keys: {keys}}}}}", origin.url(""))
}

#[tokio::test]
async fn narrows_key_makes_a_key_that_the_proxy_takes() {
    let origin = Origin::start();
    let (is_well, made, new) =
        key(&["key", "new", "alice", "--plan", "paid", "--scopes", "read"], "").await;
    assert!(
        is_well && made.starts_with("alice sha256:") && made.ends_with("scopes=read plan=paid\n"),
        "{made}"
    );
    let new = new.trim();
    assert!(new.starts_with("nk_") && new.len() > 40 && !made.contains(new));
    let (is_well, hashed, silence) = key(&["key", "hash", "bob"], &format!("{BOB}\n")).await;
    assert!(is_well && silence.is_empty());
    assert_eq!(hashed, line("bob", BOB, ""));
    assert!(!key(&["key", "hash", "bob"], "short").await.0);

    let keys = File::new(&(made + &hashed));
    let settings = File::new(&config(&origin, &format!("{{file: {}}}", keys.path.display())));
    let proxy = narrows().flags(format!("--config {}", settings.path.display())).start().await;
    for known in [new, BOB] {
        let field = format!("X-API-Key: {known}");
        assert_eq!(proxy.client().await.request("GET", "/api/a/x", &[&field]).await.status(), 200);
    }
}

#[tokio::test]
async fn keys_come_from_variables_too_and_by_a_field_of_the_operators() {
    let origin = Origin::start();
    let keys = "{list: [\"alice ${ALICE_KEY} plan=paid\", \"${MORE_KEYS}\"], header: X-Token}";
    let settings = File::new(&config(&origin, keys));
    let proxy = narrows()
        .flags(format!("--config {}", settings.path.display()))
        .env("ALICE_KEY", ALICE)
        .env(
            "MORE_KEYS",
            format!("# more\n{}carol nk_carol-0123456789abcdef\n", line("bob", BOB, "")),
        )
        .start()
        .await;
    let status = async |field: String| {
        proxy.client().await.request("GET", "/api/a/x", &[&field]).await.status()
    };
    for known in [ALICE, BOB, "nk_carol-0123456789abcdef"] {
        assert_eq!(status(format!("X-Token: {known}")).await, 200);
        assert_eq!(status(format!("Authorization: Bearer {known}")).await, 200);
        assert_eq!(status(format!("X-API-Key: {known}")).await, 401);
    }
}

#[tokio::test]
async fn what_is_wrong_with_keys_is_told_at_the_start_and_without_them() {
    let origin = Origin::start();
    let bad = File::new(&format!("{}alice sesame\n", line("bob", BOB, "")));
    for (keys, told) in [
        (format!("{{file: {}}}", bad.path.display()), "(line 2: behind the name stands sha256:"),
        ("{file: /nowhere/keys}".to_owned(), "(cannot be read: "),
        (
            "{list: [\"alice sesame-0123456789abcdef\"]}".to_owned(),
            "behind the name stands sha256:",
        ),
        ("{list: [\"alice ${SHORT}\"]}".to_owned(), "has at least 16 characters"),
        ("{}".to_owned(), "file or list must be given"),
        ("true".to_owned(), "a map with file or list"),
        ("{list: [], header: Connection}".to_owned(), "the name of a field"),
    ] {
        let settings = File::new(&config(&origin, &keys));
        let setup = narrows().flags(format!("--config {}", settings.path.display()));
        let ended = setup.env("SHORT", "sesame").run().await;
        let text = format!("{ended:?}");
        assert!(text.contains(told) && !text.contains("sesame"), "{keys}: {text}");
    }
}

#[tokio::test]
async fn no_key_gets_out_at_any_level_of_the_log_and_its_owners_name_does() {
    let origin = Origin::start();
    let keys = File::new(&line("alice", ALICE, ""));
    let log = keys.path.with_extension("log");
    let decisions = keys.path.with_extension("decisions");
    let hash = line("alice", ALICE, "").split("sha256:").nth(1).unwrap().trim().to_owned();
    let text = format!("{{file: {}, list: [\"bob ${{BOB_KEY}}\"]}}", keys.path.display());
    let settings = File::new(&config(&origin, &text));
    let flags = format!(
        "--config {} --log-level trace --error-details on --explain on --access-log {} \
         --decision-log {}",
        settings.path.display(),
        log.display(),
        decisions.display()
    );
    let mut proxy = narrows().flags(flags).env("BOB_KEY", BOB).start().await;
    let wrong = "nk_wrong-0123456789abcdef";
    let mut told = String::new();
    for key in [ALICE, BOB, wrong] {
        for (url, field) in [
            ("/api/a/x".to_owned(), format!("X-API-Key: {key}")),
            ("/api/a/x".to_owned(), format!("Authorization: Bearer {key}")),
            (origin.url("/x"), basic(key)),
            (origin.url("/x"), format!("Proxy-Authorization: Bearer {key}")),
        ] {
            let answer = proxy.client().await.request("GET", &url, &[&field]).await;
            assert_eq!(answer.status() == 200, key != wrong, "{answer:?}");
            if key == wrong {
                told += &format!("{answer:?}");
            }
            proxy.client().await.connect_with(origin.authority(), &[&field]).await;
        }
    }
    for path in ["/apis", "/metrics", "/hosts"] {
        told += proxy.admin(path).await.text();
    }
    assert!(told.contains("outcome=\"unauthorized\"} "), "{told}");
    let (is_well, shown, complaint) = key(
        &["config", "--config", settings.path.to_str().unwrap(), "--set", "api.a.keys.list=[]"],
        "",
    )
    .await;
    told += &(shown + &complaint);
    assert!(is_well, "{complaint}");
    proxy.terminate();
    proxy.ended().await;
    told += &(proxy.stdout.text() + &proxy.stderr.text());
    let log = std::fs::read_to_string(log).unwrap();
    let decisions = std::fs::read_to_string(decisions).unwrap();
    for log in [log, decisions] {
        assert!(log.contains("alice") && log.contains("bob"), "{log}");
        told += &log;
    }
    let basic = basic(ALICE);
    for secret in [ALICE, BOB, wrong, &*hash, basic.rsplit(' ').next().unwrap()] {
        assert!(!told.contains(secret), "{secret} in\n{told}");
    }
    assert!(told.contains("DEBUG"), "it told all it knows");
}

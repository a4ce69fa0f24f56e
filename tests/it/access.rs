//! Who may use the proxy: users with passwords, networks; and what each of them may have, which the
//! origin counts.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::Certs;
use crate::support::Client;
use crate::support::End;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::Response;
use crate::support::Users;
use crate::support::narrows;
use crate::support::soon;
use crate::support::users::field;
use crate::support::users::hash;
use crate::support::users::lines;
use crate::support::users::own;
use crate::support::wait_until;

async fn get(proxy: &Proxy, url: &str, fields: &[&str]) -> Response {
    proxy.client().await.request("GET", url, fields).await
}

/// A tunnel of this user's.
async fn tunnel(proxy: &Proxy, to: &str, user: &str) -> Client {
    let mut client = proxy.client().await;
    let answer = client.connect_with(to, &[&own(user)]).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    client
}

fn assert_asked(answer: &Response) {
    answer.assert_refused(407, "http_request_error");
    let challenge = answer.head.field("proxy-authenticate");
    assert_eq!(challenge, Some("Basic realm=\"narrows\", charset=\"UTF-8\""), "{answer:?}");
}

#[tokio::test]
async fn a_request_needs_a_user_and_a_password_which_go_no_further() {
    let origin = Origin::start();
    let users = Users::new(&["alice"]);
    let proxy = users.setup().start().await;
    let mut client = proxy.client().await;
    let wrong = field("alice", "bob's");
    let (right, stranger, bearer) =
        (own("alice"), own("bob"), "Proxy-Authorization: Bearer x".to_owned());
    for fields in [&[][..], &[&*wrong], &[&*stranger], &[&*bearer], &[&*right, &right]] {
        assert_asked(&client.request("GET", &origin.url("/no"), fields).await);
    }
    assert_eq!(origin.accepted(), 0, "nothing was opened for them");
    let answer = client.request("GET", &origin.url("/yes"), &[&right]).await;
    assert_eq!(answer.status(), 200, "on the connection that was asked");
    assert_eq!(origin.only().head.field("proxy-authorization"), None);
    let health = get(&proxy, "/health", &[]).await;
    assert_eq!(health.status(), 200, "nobody needs a password to see that it lives");
}

#[tokio::test]
async fn a_tunnel_needs_a_user_and_a_password() {
    let origin = Origin::echo();
    let users = Users::new(&["alice"]);
    let proxy = users.setup().start().await;
    let to = origin.authority();
    assert_asked(&proxy.connect(&to).await);
    let wrong = proxy.client().await.connect_with(&to, &[&field("alice", "x")]).await;
    assert_asked(&wrong);
    assert_eq!(origin.accepted(), 0);
    tunnel(&proxy, &to, "alice").await.echo("hello").await;
}

/// All but how it is: that may be asked by a machine that knows no password.
#[tokio::test]
async fn what_the_proxy_answers_itself_needs_a_user_and_a_password_too() {
    let origin = Origin::start();
    let users = Users::new(&["alice"]);
    let proxy = users.setup().flags("--access-log stdout").start().await;
    let (to, mut client) = (origin.authority(), proxy.client().await);
    let asked = [
        ("OPTIONS", "*".to_owned()),
        ("OPTIONS", format!("http://{to}")),
        ("OPTIONS", format!("http://{to}/health")),
        ("TRACE", format!("http://{to}/")),
        ("TRACE", format!("http://{to}/health")),
        ("GET", format!("http://{to}/health")),
        ("POST", "/health".to_owned()),
        ("GET", "/health/".to_owned()),
    ];
    let given = own("alice");
    let mut ask = async |method: &str, target: &str, field: &str| {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {to}\r\nMax-Forwards: 0\r\n");
        client.send(format!("{head}{field}\r\n")).await;
        client.response(method).await
    };
    for (method, target) in &asked {
        assert_asked(&ask(method, target, "").await);
    }
    assert_eq!(origin.accepted(), 0);
    for (method, target) in &asked[..5] {
        let answer = ask(method, target, &format!("{given}\r\n")).await;
        assert_eq!(answer.status(), 200, "{method} {target}: {answer:?}");
        assert!(!answer.text().contains("Basic"), "{answer:?}");
    }
    assert_eq!(origin.accepted(), 0, "they end at the proxy");
    for method in ["GET", "HEAD"] {
        assert_eq!(ask(method, "/health", "").await.status(), 200, "{method}");
    }
    let lines = proxy.stdout.wait_for(asked.len() + 7, "\"identity\"").await;
    let named = lines.iter().filter(|line| line.contains("\"identity\":\"alice\""));
    assert_eq!(named.count(), 5, "{lines:?}");
}

#[tokio::test]
async fn curl_is_let_in_by_its_user_and_told_what_is_missing() {
    let origin = Origin::start();
    let users = Users::new(&["ä b"]);
    let proxy = users.setup().start().await;
    let curl = async |words: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-x", &proxy.url(), "-w", "%{http_code} %{http_connect}"]).args(words);
        let output = soon("curl", curl.kill_on_drop(true).output()).await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (plain, right, wrong) = (origin.url("/p"), "ä b:ä b's", "ä b:x");
    assert_eq!(curl(&["--proxy-user", right, &plain]).await, "/p200 000");
    assert_eq!(curl(&["--proxy-user", right, "--proxy-anyauth", &plain]).await, "/p200 000");
    assert_eq!(curl(&["--proxy-user", right, "-p", &plain]).await, "/p200 200");
    assert_eq!(curl(&["--proxy-user", right, "--proxy-anyauth", "-p", &plain]).await, "/p200 200");
    assert!(curl(&["--proxy-user", wrong, &plain]).await.ends_with("}407 000"));
    assert_eq!(curl(&["-p", &plain]).await, "000 407");
}

#[tokio::test]
async fn passwd_makes_a_line_that_the_proxy_takes() {
    let users = Users::new(&[]);
    for name in [None, Some("alice")] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_narrows"))
            .arg("passwd")
            .args(name)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"alice's\n").await.unwrap();
        let output = soon("passwd", child.wait_with_output()).await.unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && line.contains("$argon2id$"), "{line}");
        assert!(!line.contains("alice's"));
        std::fs::write(&users.path, line).unwrap();
    }
    let origin = Origin::start();
    let proxy = users.setup().start().await;
    assert_eq!(get(&proxy, &origin.url("/"), &[&own("alice")]).await.status(), 200);
}

#[tokio::test]
async fn a_changed_file_is_obeyed_and_a_wrong_one_changes_nothing() {
    let origin = Origin::start();
    let users = Users::new(&["alice"]);
    // As volumes of Kubernetes change: the file is a link to a link that is swapped.
    let folder = users.folder.path();
    let at = |name: &str| folder.join(name);
    let swap = |to: &Path| {
        symlink(to, at("next")).unwrap();
        std::fs::rename(at("next"), at("now")).unwrap();
    };
    swap(&users.path);
    symlink(at("now"), at("link")).unwrap();
    let proxy = narrows().flags(format!("--proxy-auth {}", at("link").display())).start().await;
    let status = async |user: &str| get(&proxy, &origin.url("/"), &[&own(user)]).await.status();
    assert_eq!((status("alice").await, status("bob").await), (200, 407));

    std::fs::write(at("wrong"), "bob:opensesame\n").unwrap();
    swap(&at("wrong"));
    let failed = [("result", "failed")];
    proxy.wait_until_metric("narrows_users_reloads_total", &failed, 1.0).await;
    let told = proxy.stderr.wait_for(1, "users file is wrong").await.join("");
    assert!(told.contains("line 1: the hash must be"), "{told}");
    assert!(!proxy.stderr.text().contains("sesame"));
    assert_eq!((status("alice").await, status("bob").await), (200, 407));

    std::fs::write(at("good"), lines(&["bob"])).unwrap();
    swap(&at("good"));
    wait_until("bob is let in", async || status("bob").await == 200).await;
    assert_eq!(status("alice").await, 407, "what was remembered of her is forgotten");
    assert_eq!(proxy.stderr.lines_with("users file is wrong").len(), 1, "told once");
}

#[tokio::test]
async fn wrong_passwords_hold_up_nobody_who_was_let_in_before() {
    let origin = Origin::start();
    let users = Users::new(&[]);
    // A quarter of a second and more for each.
    std::fs::write(&users.path, format!("alice:{}\n", hash("alice's", 20))).unwrap();
    let proxy = Arc::new(users.setup().flags("--proxy-auth-queue 80").start().await);
    let url = Arc::new(origin.url("/"));
    assert_eq!(get(&proxy, &url, &[&own("alice")]).await.status(), 200);

    let answered = Arc::new(AtomicUsize::new(0));
    let mut wrong = JoinSet::new();
    for number in 0..50 {
        let (proxy, url, answered) = (Arc::clone(&proxy), Arc::clone(&url), Arc::clone(&answered));
        wrong.spawn(async move {
            let given = field("alice", &format!("wrong {number}"));
            let answer = get(&proxy, &url, &[&given]).await;
            answered.fetch_add(1, Relaxed);
            answer
        });
    }
    // 80 may wait, of one address 20.
    let bound = [("bound", "auth_queue")];
    wait_until("the bound is met", async || {
        proxy.metric("narrows_bounds_met_total", &bound).await > 0.0
    })
    .await;
    for _ in 0..30 {
        assert_eq!(get(&proxy, &url, &[&own("alice")]).await.status(), 200);
    }
    assert!(answered.load(Relaxed) < 50, "she did not wait for them");
    let refused = async {
        loop {
            let answer = wrong.join_next().await.expect("one finds no place").unwrap();
            if answer.status() == 503 {
                return answer;
            }
        }
    };
    let refused = soon("an answer to one that found no place", refused).await;
    refused.assert_refused(503, "proxy_internal_error");
    assert_eq!(refused.head.field("retry-after"), Some("1"));
}

#[tokio::test]
async fn only_clients_of_the_networks_allowed_may_use_it() {
    let origin = Origin::start();
    let proxy = narrows().flags("--allow-from 127.0.0.2,10.0.0.0/8").start().await;
    let url = origin.url("/");
    let claims = ["X-Forwarded-For: 127.0.0.2", "Forwarded: for=127.0.0.2"];
    let mut stranger = proxy.client().await;
    let answer = stranger.request("GET", &url, &claims).await;
    answer.assert_refused(403, "http_request_denied");
    assert_eq!(stranger.end().await, End::Fin);
    let mut stranger = proxy.client().await;
    let answer = stranger.connect_with(origin.authority(), &claims).await;
    answer.assert_refused(403, "http_request_denied");
    assert_eq!(stranger.end().await, End::Fin);
    assert_eq!(origin.accepted(), 0);
    assert_eq!(get(&proxy, "/health", &[]).await.status(), 200);

    let mut member = Client::from("127.0.0.2", proxy.address).await;
    assert_eq!(member.get(&url).await.status(), 200);
    let mut member = Client::from("127.0.0.2", proxy.address).await;
    assert_eq!(member.connect(origin.authority()).await.status(), 200);
}

#[tokio::test]
async fn network_and_password_must_both_be_right() {
    let origin = Origin::start();
    let users = Users::new(&["alice"]);
    let proxy = users.setup().flags("--allow-from 127.0.0.2").start().await;
    let (url, given) = (origin.url("/"), own("alice"));
    let from = async |address: &str, fields: &[&str]| {
        let mut client = Client::from(address, proxy.address).await;
        client.request("GET", &url, fields).await
    };
    from("127.0.0.1", &[&given]).await.assert_refused(403, "http_request_denied");
    assert_asked(&from("127.0.0.2", &[]).await);
    assert_eq!(from("127.0.0.2", &[&given]).await.status(), 200);
}

#[tokio::test]
async fn an_open_proxy_says_so_in_one_line_unless_it_is_alone() {
    const LINE: &str = "open to everybody";
    let open = narrows().flags("--bind 0.0.0.0 --threads 3").start().await;
    open.stderr.wait_for(1, LINE).await;
    let port = open.address.port();
    let mut client = Client::to(([127, 0, 0, 1], port).into()).await;
    assert_eq!(client.request("GET", "/health", &[]).await.status(), 200);
    assert_eq!(open.stderr.lines_with(LINE).len(), 1);
    assert!(open.stderr.lines_with(LINE)[0].contains("WARN"));

    let users = Users::new(&["alice"]);
    for closed in [
        narrows(),
        narrows().flags("--bind 0.0.0.0 --allow-from 10.0.0.0/8"),
        users.setup().flags("--bind 0.0.0.0"),
    ] {
        let closed = closed.start().await;
        assert_eq!(closed.stderr.lines_with(LINE).len(), 0);
    }
}

#[tokio::test]
async fn who_asks_stands_in_logs_and_metrics_and_no_password_does() {
    let origin = Origin::start();
    let users = Users::new(&["alice"]);
    let setup = users.setup().flags("--access-log stdout --log-level trace");
    let proxy = setup.flags("--identity-limit *=5").start().await;
    get(&proxy, &origin.url("/"), &[&own("alice")]).await;
    get(&proxy, &origin.url("/"), &[&field("alice", "guess")]).await;
    drop(tunnel(&proxy, &origin.authority(), "alice").await);
    let lines = proxy.stdout.wait_for(3, "\"identity\"").await;
    assert!(lines.iter().any(|line| line.contains("\"GET\"") && line.contains("\"alice\"")));
    assert!(lines.iter().any(|line| line.contains("\"CONNECT\"") && line.contains("\"alice\"")));
    let denied = lines.iter().find(|line| line.contains("\"status\":407")).unwrap();
    assert!(denied.contains("\"identity\":null"), "nobody was found to be alice: {denied}");
    let opened = proxy.stderr.wait_for(1, "connection opened").await;
    assert!(opened[0].contains("alice"), "{opened:?}");
    let named = [("identity", "alice")];
    proxy.wait_until_metric("narrows_identity_requests_total", &named, 2.0).await;

    let hosts = proxy.admin("/hosts").await;
    let metrics = proxy.admin("/metrics").await;
    assert!(!hosts.text().contains("alice"), "a host is no user's: {}", hosts.text());
    assert!(!metrics.text().contains("alice@"), "{}", metrics.text());
    let file = std::fs::read_to_string(&users.path).unwrap();
    let hash = file.trim_end_matches([':', '\n']).split_once(':').unwrap().1;
    let field = own("alice");
    let token = field.rsplit(' ').next().unwrap();
    for text in [proxy.stderr.text(), proxy.stdout.text(), metrics.text().to_owned()] {
        for secret in ["alice's", "guess", token, hash] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[tokio::test]
async fn one_user_has_no_more_connections_to_a_host_than_it_may() {
    let (origin, other) = (Origin::echo(), Origin::echo());
    let users = Users::new(&["alice:limit=2", "bob"]);
    let proxy = users.setup().flags("--max-connections 4 --pool-idle 0").start().await;
    let to = origin.authority();
    let mut held = vec![tunnel(&proxy, &to, "alice").await, tunnel(&proxy, &to, "alice").await];
    let refused = proxy.client().await.connect_with(&to, &[&own("alice")]).await;
    refused.assert_refused(503, "connection_limit_reached");
    assert_eq!(refused.head.reason(), format!("identity limit 2/2 {to}"));
    assert_eq!(refused.json()["limit"], 2);
    assert_eq!(origin.current(), 2);
    let limit = [("reason", "limit")];
    proxy.wait_until_metric("narrows_identity_refused_total", &limit, 1.0).await;
    proxy.wait_until_metric("narrows_refused_total", &limit, 0.0).await;
    let _elsewhere = tunnel(&proxy, &other.authority(), "alice").await;
    held.push(tunnel(&proxy, &to, "bob").await);
    held.push(tunnel(&proxy, &to, "bob").await);
    let full = proxy.client().await.connect_with(&to, &[&own("bob")]).await;
    assert_eq!(
        full.head.reason(),
        format!("host limit 4/4 {to}"),
        "the host's own limit holds too"
    );

    let mut waits = proxy.client().await;
    waits.send_request("CONNECT", &to, &[&own("alice"), "Prefer: wait=14"]).await;
    drop(held.remove(0));
    assert_eq!(waits.response("CONNECT").await.status(), 200);
    drop((held, waits));
    proxy.wait_until_open(&to, 0).await;
    for _ in 0..5 {
        drop(tunnel(&proxy, &to, "alice").await);
        proxy.wait_until_open(&to, 0).await;
    }
    assert_eq!(origin.peak(), 4);
}

#[tokio::test]
async fn a_kept_connection_is_nobodys_until_somebody_takes_it() {
    let origin = Origin::start();
    let users = Users::new(&["alice", "bob"]);
    let setup = users.setup().flags("--identity-limit *=1 --threads 1 --pool-idle 60s");
    let proxy = setup.start().await;
    let (url, to) = (origin.url("/"), origin.authority());
    let mut client = proxy.client().await;
    assert_eq!(client.request("GET", &url, &[&own("alice")]).await.status(), 200);
    wait_until("it is kept", async || proxy.host(&to).await.idle == 1).await;
    let tunnel = tunnel(&proxy, &to, "alice").await;
    let answer = client.request("GET", &url, &[&own("bob")]).await;
    assert_eq!((answer.status(), origin.accepted()), (200, 2), "he goes on what she left");
    let answer = client.request("GET", &url, &[&own("alice")]).await;
    answer.assert_refused(503, "connection_limit_reached");
    drop(tunnel);
    wait_until("she may again", async || {
        client.request("GET", &url, &[&own("alice")]).await.status() == 200
    })
    .await;
    assert_eq!(origin.accepted(), 2);
}

#[tokio::test]
async fn a_fleet_counts_what_one_user_has_together() {
    let redis = Redis::start().await;
    let origin = Origin::echo();
    let users = Users::new(&["alice", "bob"]);
    let flags = "--max-connections 20 --identity-limit alice=3";
    let setup = users.setup().shared(&redis).flags(flags);
    let proxies = [setup.clone().start().await, setup.start().await];
    for proxy in &proxies {
        proxy.wait_until_up().await;
    }
    let to = origin.authority();
    let bob = tunnel(&proxies[0], &to, "bob").await;
    let mut waiting = JoinSet::new();
    for number in 0..24 {
        let mut client = proxies[number % 2].client().await;
        client.send_request("CONNECT", &to, &[&own("alice"), "Prefer: wait=14"]).await;
        waiting.spawn(async move {
            assert_eq!(client.response("CONNECT").await.status(), 200);
            client.echo("hello").await;
        });
    }
    let mut served = 0;
    while let Some(done) = soon("all are served", waiting.join_next()).await {
        done.unwrap();
        served += 1;
    }
    assert_eq!((served, origin.peak()), (24, 4), "three of hers, and his");
    drop(bob);
    for proxy in &proxies {
        proxy.wait_until_open(&to, 0).await;
    }
}

#[tokio::test]
async fn who_weighs_more_is_served_more_often_while_others_wait() {
    let origin = Origin::echo();
    let users = Users::new(&["alice:weight=3", "bob"]);
    let proxy = users.setup().flags("--max-connections 1").start().await;
    let to = origin.authority();
    let holder = tunnel(&proxy, &to, "bob").await;
    let order = Arc::new(Mutex::new(String::new()));
    let mut waiting = JoinSet::new();
    for (number, user) in
        ["bob", "bob", "bob", "alice", "alice", "alice", "alice", "alice"].into_iter().enumerate()
    {
        let mut client = proxy.client().await;
        client.send_request("CONNECT", &to, &[&own(user), "Prefer: wait=14"]).await;
        proxy.wait_until_waiting(&to, number as u64 + 1).await;
        let order = Arc::clone(&order);
        waiting.spawn(async move {
            assert_eq!(client.response("CONNECT").await.status(), 200);
            order.lock().unwrap().push_str(&user[..1]);
        });
    }
    drop(holder);
    while let Some(done) = soon("all are served", waiting.join_next()).await {
        done.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), "baaabaab");
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn a_certificate_stands_in_for_a_password_and_gives_a_name() {
    let origin = Origin::start();
    let certs = Certs::new();
    let (certificate, key) = certs.files("proxy", &["127.0.0.1"]);
    let (alice, alices) = certs.files("alice", &["alice.test"]);
    let users = Users::new(&["bob"]);
    let tls = format!(
        "--tls-cert {} --tls-key {} --tls-client-ca {} --access-log stdout",
        certificate.display(),
        key.display(),
        certs.file().display()
    );
    let optional = users.setup().flags(&tls).flags("--tls-client-auth optional").start().await;
    let required = narrows().flags(&tls).flags("--listen https://127.0.0.1:0").start().await;
    let curl = async |proxy: &str, words: &[&std::ffi::OsStr]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-x", proxy, "-w", "%{http_code}"]);
        curl.arg("--proxy-cacert").arg(certs.file()).args(words).arg(origin.url("/p"));
        let output = soon("curl", curl.kill_on_drop(true).output()).await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (by_choice, by_force) = (&optional.listeners[0], &required.listeners[1]);
    let shown =
        ["--proxy-cert".as_ref(), alice.as_os_str(), "--proxy-key".as_ref(), alices.as_os_str()];
    let given = ["--proxy-user".as_ref(), "bob:bob's".as_ref()];
    let wrong = ["--proxy-user".as_ref(), "bob:alice's".as_ref()];
    assert_eq!(curl(by_choice, &shown).await, "/p200");
    assert_eq!(curl(by_choice, &given).await, "/p200");
    assert_eq!(curl(by_choice, &[&shown[..], &given].concat()).await, "/p200");
    assert!(curl(by_choice, &[&shown[..], &wrong].concat()).await.ends_with("407"));
    assert!(curl(by_choice, &[]).await.ends_with("407"));
    let lines = optional.stdout.wait_for(5, "\"identity\"").await;
    let names: Vec<bool> =
        lines.iter().map(|line| line.contains("\"identity\":\"alice\"")).collect();
    assert_eq!(names, [true, false, false, false, false], "{lines:?}");
    let bobs = lines.iter().filter(|line| line.contains("\"identity\":\"bob\""));
    assert_eq!(bobs.count(), 2, "the password counts more");

    assert_eq!(curl(by_force, &shown).await, "/p200");
    assert_eq!(curl(by_force, &[]).await, "000");
    let plain = get(&required, &origin.url("/p"), &[]).await;
    plain.assert_refused(403, "http_request_denied");
}

//! The program with its file: the strategies as resilient-proxy-out names them, curl by a tunnel, and
//! what of a parent's credentials gets out.

use std::process::Stdio;

use tempfile::NamedTempFile;
use tokio::process::Command;

use super::*;
use crate::support::Closed;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Setup;
use crate::support::narrows;
use crate::support::parent::Act;
use crate::support::soon;
use crate::support::wait_until;

/// `user:cAnArY@pass`, as Basic credentials have it, and as a URL.
const CANARY: &str = "Basic dXNlcjpjQW5BcllAcGFzcw==";
const USERINFO: &str = "user:cAnArY%40pass@";

struct File(NamedTempFile);

impl File {
    /// What stands as PARENTS in the text are the URLs of these.
    fn new(text: &str, parents: &[Parent]) -> File {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        let urls: Vec<String> = parents.iter().map(|parent| parent.url(USERINFO)).collect();
        let text = text.replace("PARENTS", &format!("use_proxy=true\nproxies={urls:?}"));
        std::fs::write(file.path(), text).unwrap();
        File(file)
    }

    fn setup(&self) -> Setup {
        narrows().flags(format!("--threads 2 --config {}", self.0.path().display()))
    }
}

async fn three_for_user() -> [Parent; 3] {
    [Parent::for_user(CANARY).await, Parent::for_user(CANARY).await, Parent::for_user(CANARY).await]
}

async fn get(proxy: &Proxy, path: &str, status: u16) {
    let response = proxy.get(path).await;
    assert_eq!(response.status(), status, "{response:?}");
}

/// C0.12 of the scenarios.
#[tokio::test]
async fn the_strategies_of_the_file_send_requests_of_the_gateway_as_they_say() {
    let origin = Origin::start();
    let retry = "initial_delay=0.05, retry_on_status=[429]";
    let api = |name: &str, more: &str| {
        format!(
            "[api.{name}]\ntarget_url=\"{}\"; PARENTS; {more}\nretry={{{retry}}}\n",
            origin.url("")
        )
        .replace("; ", "\n")
    };
    let text = [
        api("rr", "proxy_strategy=\"round_robin\""),
        api("user", "proxy_strategy=\"sticky\"; proxy_sticky_key=\"header:X-User\""),
        api("subset", "proxy_strategy=\"subset\"; proxy_subset_size=2"),
        api("limited", "proxy_strategy=\"on_rate_limit\""),
        api("never", "proxy_strategy=\"never\""),
        api("except", "no_proxy=[\"127.0.0.1:1\", \"ORIGIN\"]"),
    ];
    let text = text.concat().replace("ORIGIN", &origin.authority());
    let parents = three_for_user().await;
    let file = File::new(&text, &parents);
    let proxy = file.setup().start().await;

    for _ in 0..9 {
        get(&proxy, "/api/rr/x", 200).await;
    }
    assert_eq!(hits(&parents), [3, 3, 3]);

    let user = |name: &'static str| {
        let proxy = &proxy;
        async move {
            let field = format!("X-User: {name}");
            proxy.client().await.request("GET", "/api/user/x", &[&field]).await.status()
        }
    };
    let before = hits(&parents);
    assert_eq!((user("alice").await, user("alice").await), (200, 200));
    let grown = |before: &[usize]| -> Vec<usize> {
        hits(&parents).iter().zip(before).map(|(after, before)| after - before).collect()
    };
    let own = grown(&before).iter().position(|more| *more == 2).expect("both by one");
    // Sticky, and a 429: the retry leaves by another.
    let before = hits(&parents);
    parents[own].next(Act::Answer(429));
    assert_eq!(user("alice").await, 200);
    let more = grown(&before);
    assert_eq!((more[own], more.iter().sum::<usize>()), (1, 2), "{more:?}");

    let before = hits(&parents);
    for _ in 0..4 {
        get(&proxy, "/api/subset/x", 200).await;
    }
    assert_eq!(grown(&before), [2, 2, 0]);
    let before = hits(&parents);
    parents[0].next(Act::Answer(429));
    for _ in 0..4 {
        get(&proxy, "/api/subset/x", 200).await;
    }
    assert_eq!(grown(&before)[0], 1, "the window slid past it");
    assert!(grown(&before)[2] > 0);

    let before = hits(&parents);
    get(&proxy, "/api/limited/x", 200).await;
    get(&proxy, "/api/never/x", 200).await;
    get(&proxy, "/api/except/x", 200).await;
    assert_eq!(grown(&before), [0, 0, 0]);
    let hits_before = origin.hits();
    get(&proxy, "/api/limited/status/429", 429).await;
    assert!(grown(&before).iter().sum::<usize>() >= 1, "directly first, then by a parent");
    assert!(origin.hits() > hits_before + 1);

    for seen in origin.seen() {
        assert_eq!(seen.head.field("proxy-authorization"), None, "{:?}", seen.head);
    }
}

#[tokio::test]
async fn curl_goes_by_narrows_and_a_parent_to_an_https_origin() {
    let certs = Certs::new();
    let origin = Origin::https(certs.server(&["localhost"], &["http/1.1"]).0);
    let parent = [Parent::for_user(CANARY).await];
    let file = File::new("[api.default]\nPARENTS\n", &parent);
    let flags = "--connect-ports 1-65535";
    let proxy = file.setup().flags(flags).start().await;
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-x", &proxy.url(), "--cacert"]).arg(certs.file());
    curl.arg(format!("https://localhost:{}/from-curl", origin.port()));
    let output = soon("curl", curl.env_clear().stdin(Stdio::null()).output()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/from-curl", "{output:?}");
    assert_eq!(parent[0].connects()[0].field("proxy-authorization"), Some(CANARY));
    assert_eq!(origin.only().head.field("proxy-authorization"), None);
}

#[tokio::test]
async fn a_parents_credentials_get_out_nowhere() {
    let redis = Redis::start().await;
    let certs = Certs::new();
    let (origin, closed) = (Origin::start(), Closed::new());
    let secure = Origin::https(certs.server(&["localhost"], &["http/1.1"]).0);
    let parents = three_for_user().await;
    let file = File::new("[api.default]\nPARENTS\nproxy_max_connections=3\n", &parents);
    let log = NamedTempFile::new().unwrap();
    let flags = format!(
        "--log-level trace --explain on --error-details on --connect-ports 1-65535 \
         --access-log {} --upstream-ca {}",
        log.path().display(),
        certs.file().display()
    );
    let proxy = file.setup().flags(flags).shared(&redis).start().await;
    proxy.wait_until_up().await;
    let mut told = Vec::new();
    for act in [Act::Answer(407), Act::Answer(429), Act::Say(b"no"), Act::Close] {
        parents[0].next(act);
        for url in [
            origin.url("/x"),
            format!("https://localhost:{}/x", secure.port()),
            format!("http://{}/x", closed.authority()),
        ] {
            told.push(format!("{:?}", proxy.get(url).await));
        }
        let target = format!("localhost:{}", secure.port());
        told.push(format!("{:?}", proxy.connect(target).await));
    }
    assert!(parents.iter().any(|parent| !parent.connects().is_empty()));
    for path in ["/metrics", "/apis", "/parents", "/circuit-status", "/cool-downs", "/hosts", "/"] {
        told.push(proxy.admin(path).await.text().to_owned());
    }
    let parents_told = proxy.admin("/parents").await.json();
    assert!(parents_told.to_string().contains(&parents[0].url("")), "{parents_told}");
    for path in ["/apis", "/parents"] {
        proxy.admin_request("POST", path, &[], "").await;
    }
    let keys: Vec<String> = redis.ask("KEYS *").await;
    for key in &keys {
        let kind: String = redis.ask(&format!("TYPE {key}")).await;
        if kind == "hash" {
            let all: Vec<String> = redis.ask(&format!("HGETALL {key}")).await;
            told.push(all.concat());
        }
    }
    told.push(keys.concat());
    let lines = || std::fs::read_to_string(log.path()).unwrap();
    wait_until("the access log is written", async || lines().lines().count() >= 10).await;
    told.extend([lines(), proxy.stderr.text(), proxy.stdout.text()]);
    for text in told {
        for secret in ["cAnArY", &CANARY[6..]] {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret} got out: {line:?}");
        }
    }
}

//! The fleet's table of limits: set while instances run, obeyed by all of them, lost by nobody.

use std::time::Duration;

use narrows::App;
use narrows::Config;
use narrows::limit::rules::Scope;
use narrows::limit::shared;
use serde_json::Value;
use serde_json::json;

use crate::support::Client;
use crate::support::Names;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::narrows;
use crate::support::wait_at_most;
use crate::support::wait_until;

/// Within which a change is obeyed.
const PROMISE: Duration = Duration::from_secs(1);
const TABLE: &str = "proxy_rate_limiter:{0}:@limits";
const TOKEN: &str = "Authorization: Bearer sesame";

/// Exit code, standard output and standard error of `narrows limits`.
async fn limits(redis: &Redis, words: &str) -> (Option<i32>, String, String) {
    let place = format!("--redis-addr {} --redis-timeout 2s", redis.address());
    let ended = narrows().bare().flags(format!("limits {words} {place}")).run().await;
    (ended.code, ended.stdout, ended.stderr)
}

/// A change that must succeed.
async fn change(redis: &Redis, words: &str) -> String {
    let (code, told, error) = limits(redis, words).await;
    assert_eq!((code, error.as_str()), (Some(0), ""), "limits {words}");
    told
}

async fn fleet(redis: &Redis, flags: &str) -> (Proxy, Proxy) {
    let start = async || narrows().shared(redis).flags(flags).start().await;
    let (a, b) = (start().await, start().await);
    a.wait_until_up().await;
    b.wait_until_up().await;
    (a, b)
}

/// Until all of them have this limit for a host, which must be soon.
async fn obeyed(proxies: &[&Proxy], host: &str, limit: Option<u64>) {
    for proxy in proxies {
        let what = format!("{host} has the limit {limit:?}");
        wait_at_most(PROMISE, &what, async || proxy.host(host).await.limit == limit).await;
    }
}

#[tokio::test]
async fn a_raised_limit_lets_waiters_pass_and_a_lowered_one_drains() {
    let redis = Redis::start().await;
    let (a, b) = fleet(&redis, "--max-connections 1 --queue-timeout 30s").await;
    let origin = Origin::echo();
    let to = origin.authority();
    let mut first = a.tunnel(&to).await;
    let mut second = b.client().await;
    second.send_request("CONNECT", &to, &[]).await;
    b.wait_until_waiting(&to, 1).await;

    let told = change(&redis, &format!("set {to} 2")).await;
    assert_eq!(told, format!("{to}: 2, each (version 1)\n"));
    let passed = tokio::time::timeout(PROMISE, second.response("CONNECT")).await;
    assert_eq!(passed.expect("within a second").status(), 200);
    obeyed(&[&a, &b], &to, Some(2)).await;

    change(&redis, &format!("set {to} 1")).await;
    obeyed(&[&a, &b], &to, Some(1)).await;
    for tunnel in [&mut first, &mut second] {
        tunnel.echo("still here").await;
    }
    let at_once = ["Prefer: wait=0"];
    let refused = async |proxy: &Proxy| {
        let answer = proxy.client().await.connect_with(&to, &at_once).await;
        answer.assert_refused(503, "connection_limit_reached");
    };
    refused(&a).await;
    drop(first);
    a.wait_until_open(&to, 0).await;
    refused(&a).await;
    refused(&b).await;
    second.echo("alone").await;
    drop(second);
    b.wait_until_open(&to, 0).await;
    assert_eq!(a.connect(&to).await.status(), 200);
    assert_eq!(origin.peak(), 2);
}

#[tokio::test]
async fn rules_are_listed_and_removed_and_then_the_own_ones_hold_again() {
    let redis = Redis::start().await;
    let (a, b) = fleet(&redis, "--max-connections 9 --host-limit a.test=3").await;
    assert_eq!(change(&redis, "ls").await, "version 0\n");
    change(&redis, "set default 7").await;
    change(&redis, "set A.TEST. 5").await;
    change(&redis, "set *.test 0 --shared").await;
    obeyed(&[&a, &b], "a.test", Some(5)).await;
    obeyed(&[&a, &b], "b.test", None).await;
    obeyed(&[&a, &b], "other", Some(7)).await;
    assert_eq!(
        change(&redis, "ls").await,
        "HOST         LIMIT  SCOPE\n\
         default          7  each\n\
         *.test   unlimited  shared\n\
         a.test           5  each\n\
         version 3\n"
    );
    let told: Value = serde_json::from_str(&change(&redis, "ls --json").await).unwrap();
    let rules = json!([
        { "pattern": "*", "limit": 7, "scope": "each" },
        { "pattern": "*.test", "limit": 0, "scope": "shared" },
        { "pattern": "a.test", "limit": 5, "scope": "each" },
    ]);
    assert_eq!(told, json!({ "version": 3, "rules": rules }));
    let seen = a.admin("/limits").await.json();
    assert_eq!((&seen["rules"], &seen["default"]), (&rules, &json!(9)));
    assert_eq!(seen["local"], json!([{ "pattern": "a.test", "limit": 3, "scope": "each" }]));

    for host in ["*", "*.test", "a.test"] {
        change(&redis, &format!("rm {host}")).await;
    }
    obeyed(&[&a, &b], "a.test", Some(3)).await;
    obeyed(&[&a, &b], "b.test", Some(9)).await;
    let (code, _, error) = limits(&redis, "rm a.test").await;
    assert_eq!(code, Some(1));
    assert_eq!(error, "narrows: a.test has no limit in the fleet's table\n");
    assert_eq!(change(&redis, "ls").await, "version 6\n");
}

#[tokio::test]
async fn the_admin_port_changes_the_table_for_who_has_the_token() {
    let redis = Redis::start().await;
    let a = narrows().shared(&redis).env("NARROWS_ADMIN_TOKEN", "sesame").start().await;
    let b = narrows().shared(&redis).start().await;
    a.wait_until_up().await;
    b.wait_until_up().await;
    let body = r#"{"limit": 4, "scope": "shared"}"#;
    let put = async |proxy: &Proxy, fields: &[&str]| {
        proxy.admin_request("PUT", "/limits/%2A.example.test", fields, body).await
    };

    let answer = put(&a, &[]).await;
    assert_eq!(answer.status(), 401);
    assert!(answer.head.field("www-authenticate").unwrap().starts_with("Bearer"), "{answer:?}");
    assert_eq!(put(&a, &["Authorization: Bearer sesamE"]).await.status(), 401);
    let answer = put(&b, &[TOKEN]).await;
    assert_eq!(answer.status(), 403);
    assert!(answer.text().contains("--admin-token"), "{answer:?}");
    assert_eq!(a.host("x.example.test").await.limit, None);

    let answer = put(&a, &[TOKEN]).await;
    assert_eq!(answer.status(), 200);
    let rule = json!({ "pattern": "*.example.test", "limit": 4, "scope": "shared", "version": 1 });
    assert_eq!(answer.json(), rule);
    assert_eq!(a.host("x.example.test").await.limit, Some(4), "here it is obeyed at once");
    obeyed(&[&b], "x.example.test", Some(4)).await;
    assert_eq!(b.host("x.example.test").await.key, "*.example.test");

    let path = "/limits/*.example.test";
    assert_eq!(a.admin_request("DELETE", path, &[], "").await.status(), 401);
    assert_eq!(a.admin_request("DELETE", path, &[TOKEN], "").await.json()["version"], 2);
    assert_eq!(a.admin_request("DELETE", path, &[TOKEN], "").await.status(), 404);
    obeyed(&[&a, &b], "x.example.test", None).await;

    let answer = a.admin_request("PUT", "/limits/a.test", &[TOKEN], r#"{"limit": "5"}"#).await;
    assert_eq!(answer.status(), 400);
    assert_eq!((&answer.json()["field"], &answer.json()["value"]), (&json!("limit"), &json!("5")));
    let long = " ".repeat(5000);
    assert_eq!(a.admin_request("PUT", "/limits/a.test", &[TOKEN], &long).await.status(), 413);
}

#[tokio::test]
async fn all_hosts_of_a_shared_suffix_have_one_budget_in_the_fleet() {
    let redis = Redis::start().await;
    let here: &[&str] = &["127.0.0.1"];
    let hosts = [("a.pool.test", here), ("b.pool.test", here), ("own.pool.test", here)];
    let names = Names::of(&hosts).await;
    let (a, b) = fleet(&redis, &format!("--resolver {}", names.address())).await;
    change(&redis, "set *.pool.test 2 --shared").await;
    change(&redis, "set own.pool.test 1").await;
    obeyed(&[&a, &b], "own.pool.test", Some(1)).await;

    let origin = Origin::echo();
    let at = |name: &str| format!("{name}.pool.test:{}", origin.port());
    let first = a.tunnel(at("a")).await;
    let _second = b.tunnel(at("b")).await;
    for (proxy, name) in [(&a, "a"), (&a, "b"), (&b, "a"), (&b, "c")] {
        let answer = proxy.connect(at(name)).await;
        answer.assert_refused(503, "connection_limit_reached");
        assert!(answer.head.start.ends_with("host limit 2/2 *.pool.test"), "{answer:?}");
    }
    let _own = a.tunnel(at("own")).await;
    b.connect(at("own")).await.assert_refused(503, "connection_limit_reached");
    assert_eq!(origin.peak(), 3);
    drop(first);
    let free = async || b.connect(at("a")).await.status() == 200;
    wait_until("the budget has room again", free).await;
}

#[tokio::test]
async fn an_idle_connection_gives_way_to_another_host_of_its_budget() {
    let here: &[&str] = &["127.0.0.1"];
    let names = Names::of(&[("a.pool.test", here), ("b.pool.test", here)]).await;
    let flags = "--host-limit *.pool.test=1/shared --pool-idle 60s";
    let proxy = narrows().flags(flags).flags(format!("--resolver {}", names.address()));
    let proxy = proxy.start().await;
    let origin = Origin::start();
    for name in ["a", "b", "a"] {
        let url = format!("http://{name}.pool.test:{}/", origin.port());
        assert_eq!(proxy.get(url).await.status(), 200);
        let what = "it is kept";
        wait_until(what, async || proxy.host("*.pool.test").await.idle == 1).await;
    }
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn a_table_that_redis_lost_comes_back() {
    let mut redis = Redis::start().await;
    let (a, b) = fleet(&redis, "--max-connections 9").await;
    change(&redis, "set a.test 5").await;
    change(&redis, "set *.test 6 --shared").await;
    obeyed(&[&a, &b], "b.test", Some(6)).await;
    let before = change(&redis, "ls").await;

    let _: String = redis.ask("FLUSHALL").await;
    let back = async |redis: &Redis| {
        let back = async || redis.ask::<i64>(&format!("EXISTS {TABLE}")).await == 1;
        wait_until("the table is back", back).await;
        assert_eq!(change(redis, "ls").await, before);
    };
    back(&redis).await;

    redis.kill();
    a.wait_until_redis_is("away").await;
    assert_eq!(a.host("a.test").await.limit, Some(5), "the last table holds");
    redis.restart().await;
    back(&redis).await;
    change(&redis, "set a.test 4").await;
    wait_until("it goes on", async || a.host("a.test").await.limit == Some(4)).await;
    let late = narrows().shared(&redis).start().await;
    assert_eq!(late.host("x.test").await.limit, Some(6), "known before anybody is served");
}

#[tokio::test]
async fn an_old_table_never_replaces_a_newer_one() {
    let redis = Redis::start().await;
    let client = redis::Client::open(format!("redis://{}", redis.address())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let script = redis::Script::new(include_str!("../../lua/limits.lua"));
    let mut run = async |words: &[&str]| -> (u64, u64) {
        script.key(TABLE).arg(words).invoke_async(&mut connection).await.unwrap()
    };
    assert_eq!(run(&["set", "a.test", "1"]).await, (1, 1));
    assert_eq!(run(&["set", "a.test", "1"]).await, (1, 0), "no change, no version");
    assert_eq!(run(&["set", "b.test", "2"]).await, (2, 1));
    assert_eq!(run(&["put", "2", "9.9", "c.test", "3"]).await, (2, 0));
    assert_eq!(run(&["rm", "c.test"]).await, (2, 0));
    assert_eq!(run(&["put", "7", "9.9", "c.test", "3"]).await, (7, 1));
    let there: Vec<String> = redis.ask(&format!("HGETALL {TABLE}")).await;
    assert_eq!(there, ["#v", "7", "#at", "9.9", "c.test", "3"]);
    assert_eq!(run(&["rm", "c.test"]).await, (8, 1));
    assert_eq!(redis.ask::<i64>(&format!("TTL {TABLE}")).await, -1, "it never expires");
}

#[tokio::test]
async fn what_is_wrong_with_a_command_is_told() {
    let mut redis = Redis::start().await;
    for (words, part) in [
        ("set a.test", "<N>"),
        ("set a..test 5", "HOST: \"a..test\""),
        ("set a.test -5", "N: \"-5\""),
        ("set a.test 5 --shared", "--shared: \"a.test\""),
        ("rm 127.1", "HOST: \"127.1\""),
        ("show", "show"),
    ] {
        let (code, told, error) = limits(&redis, words).await;
        assert_eq!((code, told.as_str()), (Some(2), ""), "{words}");
        assert!(error.contains(part), "{words}: {error}");
    }
    let nowhere = narrows().bare().flags("limits ls").run().await;
    assert_eq!(nowhere.code, Some(2));
    assert!(nowhere.stderr.contains("--redis-addr"), "{}", nowhere.stderr);

    let by_variable = narrows().bare().flags("limits ls").env("REDIS_ADDR", redis.address());
    assert_eq!(by_variable.run().await.stdout, "version 0\n");
    redis.kill();
    let (code, told, error) = limits(&redis, "set a.test 5").await;
    assert_eq!((code, told.as_str(), error.lines().count()), (Some(1), "", 1), "{error}");
    assert!(error.starts_with("narrows: redis: "), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_sets_the_limits_of_the_fleet_too() {
    let redis = Redis::start().await;
    let proxy = narrows().shared(&redis).start().await;
    let url = format!("redis://{}", redis.address());
    tokio::task::spawn_blocking(move || {
        let mut config = Config::default();
        config.listen.address = "127.0.0.1:0".parse().unwrap();
        config.admin = None;
        let mut settings = shared::Settings::new(url);
        settings.store.timeout = Duration::from_secs(1);
        config.shared = Some(settings);
        let app = App::new(config).unwrap();
        let unheard = app.set_fleet_limit("a.test", 5, Scope::Each);
        assert!(unheard.is_err(), "it does not run");
        app.start().unwrap();
        assert_eq!(app.set_fleet_limit("a.test", 6, Scope::Each).unwrap(), 1);
        assert_eq!(app.set_fleet_limit("*.test", 7, Scope::Shared).unwrap(), 2);
        assert!(app.set_fleet_limit("a.test", 7, Scope::Shared).is_err());
        assert_eq!(app.remove_fleet_limit("b.test").unwrap(), None);
        let limits = app.fleet_limits();
        let rules: Vec<_> = limits.rules.iter().map(|rule| rule.pattern.to_string()).collect();
        assert_eq!((limits.version, rules), (2, vec!["*.test".to_owned(), "a.test".to_owned()]));
        assert_eq!(app.remove_fleet_limit("a.test").unwrap(), Some(3));
    })
    .await
    .unwrap();
    let obeys = async || proxy.host("a.test").await.limit == Some(7);
    wait_until("the other instance obeys", obeys).await;
}

#[tokio::test]
async fn alone_a_narrows_has_a_table_of_its_own() {
    let proxy = narrows().flags("--max-connections 1 --queue-timeout 30s --admin-token sesame");
    let proxy = proxy.start().await;
    let origin = Origin::echo();
    let to = origin.authority();
    let _held: Client = proxy.tunnel(&to).await;
    let mut waiting = proxy.client().await;
    waiting.send_request("CONNECT", &to, &[]).await;
    proxy.wait_until_waiting(&to, 1).await;
    let path = format!("/limits/{to}");
    let answer = proxy.admin_request("PUT", &path, &[TOKEN], r#"{"limit": 2}"#).await;
    assert_eq!((answer.status(), &answer.json()["version"]), (200, &json!(1)));
    assert_eq!(waiting.response("CONNECT").await.status(), 200);
    assert_eq!(proxy.admin("/limits").await.json()["version"], 1);
}

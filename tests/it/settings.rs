//! Settings: flags beat the environment beats defaults, and what is wrong is said at once and in full.

use std::net::TcpListener;

use crate::support::Certs;
use crate::support::Origin;
use crate::support::Redis;
use crate::support::Setup;
use crate::support::narrows;
use crate::support::wait_until;

/// A port that was free a moment ago, where the system does not pick ports for others.
fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(10_000..32_000)).take(100).find(is_free).unwrap()
}

#[tokio::test]
async fn when_ready_it_says_so_in_one_line_with_both_addresses() {
    let proxy = narrows().start().await;
    let (address, admin) = (proxy.address, proxy.admin.unwrap());
    assert!(address.port() > 0 && admin.port() > 0 && address != admin);
    assert_eq!(proxy.ready, format!("narrows ready proxy={address} admin={admin}"));
    proxy.client().await.get("/health").await;
    assert_eq!(proxy.stdout.text().lines().count(), 1, "{}", proxy.stdout.text());
}

#[tokio::test]
async fn the_admin_port_can_be_off_and_both_can_be_bound_elsewhere() {
    let flags = "--port 0 --bind 127.0.0.2 --admin-port off";
    let proxy = narrows().bare().flags(flags).start().await;
    assert!(proxy.ready.ends_with(" admin=off"), "{}", proxy.ready);
    assert_eq!(proxy.address.ip().to_string(), "127.0.0.2");
    let answer = proxy.client().await.get("/").await;
    assert_eq!(answer.status(), 404);

    let proxy = narrows().flags("--admin-bind 127.0.0.3").start().await;
    assert_eq!(proxy.admin.unwrap().ip().to_string(), "127.0.0.3");
    assert_eq!(proxy.admin("/healthz").await.status(), 200);
}

#[tokio::test]
async fn the_default_port_is_8080_and_the_default_address_is_loopback() {
    // Another program may have the port: then its number is in the error.
    let ended = narrows().bare().flags("--admin-port 0").env("NARROWS_SHUTDOWN_TIMEOUT", "0s");
    if TcpListener::bind("127.0.0.1:8080").is_ok() {
        let proxy = ended.start().await;
        assert_eq!(proxy.address.to_string(), "127.0.0.1:8080");
    } else {
        let ended = ended.run().await;
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains("127.0.0.1:8080"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn the_port_comes_from_the_flag_then_our_variable_then_dprls() {
    let (flag, ours, theirs) = (free_port(), free_port(), free_port());
    let setup = narrows().bare().flags("--admin-port 0").env("DPRL_PORT", theirs);
    assert_eq!(setup.clone().start().await.address.port(), theirs);
    let setup = setup.env("NARROWS_PORT", ours);
    assert_eq!(setup.clone().start().await.address.port(), ours);
    let setup = setup.flags(format!("--port {flag}"));
    assert_eq!(setup.start().await.address.port(), flag);
}

#[tokio::test]
async fn the_limit_comes_from_the_flag_then_our_variable_then_dprls_then_none() {
    let limit = async |setup: Setup| setup.start().await.host("any.test").await.limit;
    let setup = narrows();
    assert_eq!(limit(setup.clone()).await, None);
    let setup = setup.env("DPRL_MAX_CONNECTIONS", 7);
    assert_eq!(limit(setup.clone()).await, Some(7));
    assert_eq!(limit(setup.clone().env("NARROWS_MAX_CONNECTIONS", "")).await, Some(7), "unset");
    let setup = setup.env("NARROWS_MAX_CONNECTIONS", 8);
    assert_eq!(limit(setup.clone()).await, Some(8));
    assert_eq!(limit(setup.clone().flags("--max-connections 9")).await, Some(9));
    assert_eq!(limit(setup.flags("--max-connections=0")).await, None);
}

#[tokio::test]
async fn limits_of_hosts_come_from_the_environment_too() {
    let proxy = narrows().env("NARROWS_HOST_LIMITS", "a.test=1,*.b.test=2").start().await;
    assert_eq!(proxy.host("a.test").await.limit, Some(1));
    assert_eq!(proxy.host("x.b.test").await.limit, Some(2));
    assert_eq!(proxy.host("b.test").await.limit, None);
}

#[tokio::test]
async fn lists_come_from_the_environment_separated_by_commas() {
    let certs = Certs::new();
    let origin = Origin::https(certs.server(&["one.test", "two.test"], &[]).0);
    let ca = certs.file();
    let proxy = narrows()
        .env("NARROWS_UPSTREAM_CA", format!("{},{}", ca.display(), ca.display()))
        .env("NARROWS_RESOLVE", "one.test=127.0.0.1,two.test=127.0.0.1")
        .start()
        .await;
    for name in ["one.test", "two.test"] {
        let answer = proxy.get(format!("https://{name}:{}/", origin.port())).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
}

#[tokio::test]
async fn an_empty_variable_is_no_variable() {
    let mut setup = narrows();
    for name in ["REDIS_ADDR", "REDIS_URL", "REDIS_DB", "LOG_LEVEL", "DPRL_MAX_CONNECTIONS"] {
        setup = setup.env(name, "");
    }
    for name in ["REDIS_ADDR", "HOST_LIMITS", "QUEUE_TIMEOUT", "LEASE", "VIA", "THREADS"] {
        setup = setup.env(&format!("NARROWS_{name}"), "");
    }
    let proxy = setup.start().await;
    assert_eq!(proxy.readiness().await["redis"], "off");
}

#[tokio::test]
async fn durations_are_read_in_any_of_their_forms() {
    let flags = "--queue-timeout 500ms --tunnel-idle-timeout 1m30s --idle-timeout 2h \
                 --connect-timeout 10 --keep-alive-timeout 75s";
    assert!(narrows().flags(flags).start().await.is_running());
}

#[tokio::test]
async fn redis_is_found_by_the_names_that_users_have() {
    let redis = Redis::with_password("sesame").await;
    let origin = Origin::echo();
    let key = format!("proxy_rate_limiter:{{0}}:{}", origin.authority());
    let setup = || narrows().flags("--lease 2s --heartbeat 400ms --max-connections 5");
    let theirs = setup()
        .env("REDIS_ADDR", redis.address())
        .env("REDIS_PASSWORD", "sesame")
        .env("REDIS_DB", 3);
    let url = format!("redis://:sesame@{}/3", redis.address());
    for setup in [theirs, setup().env("REDIS_URL", &url), setup().flags("--redis-url").flags(&url)]
    {
        let proxy = setup.start().await;
        proxy.wait_until_up().await;
        let _tunnel = proxy.tunnel(origin.authority()).await;
        assert_eq!(redis.ask_in::<u64>(3, &format!("EXISTS {key}")).await, 1);
        assert_eq!(redis.ask::<u64>(&format!("EXISTS {key}")).await, 0);
    }
}

#[tokio::test]
async fn a_bad_value_is_refused_by_naming_flag_and_variable_and_value() {
    for (flag, value) in [
        ("port", "abc"),
        ("port", "70000"),
        ("bind", "nowhere"),
        ("admin-port", "on"),
        ("threads", "0"),
        ("max-connections", "-1"),
        ("max-connections", "many"),
        ("queue-timeout", "soon"),
        ("queue-size", "x"),
        ("refuse-status", "200"),
        ("refuse-status", "600"),
        ("redis-addr", "redis:x"),
        ("redis-db", "x"),
        ("redis-cluster", "redis:x"),
        ("redis-sentinels", "redis:x"),
        ("redis-tls", "maybe"),
        ("redis-tls-ca", "/no/such/file"),
        ("redis-tls-key", "/no/such/file"),
        ("redis-failure", "maybe"),
        ("lease", "0s"),
        ("connect-timeout", "10x"),
        ("upstream-ca", "/no/such/file"),
        ("resolver", "x:y"),
        ("resolve", "nothing"),
        ("log-level", "loud"),
        ("log-format", "xml"),
    ] {
        let variable = format!("NARROWS_{}", flag.to_uppercase().replace('-', "_"));
        let by_flag = narrows().bare().flags(format!("--{flag}={value}"));
        let by_variable = narrows().bare().env(&variable, value);
        for setup in [by_flag, by_variable] {
            let ended = setup.run().await;
            let said = &ended.stderr;
            assert_eq!((flag, value, ended.code), (flag, value, Some(2)), "{said}");
            for part in [&format!("--{flag}"), &variable, value] {
                assert!(said.contains(part), "no {part} in: {said}");
            }
            assert!(ended.stdout.is_empty(), "{}", ended.stdout);
        }
    }
    for limit in ["a.test", "a.test=x", "=5", "a.test=-1"] {
        let ended = narrows().flags(format!("--host-limit {limit}")).run().await;
        assert_eq!((limit, ended.code), (limit, Some(2)), "{}", ended.stderr);
        assert!(ended.stderr.contains("--host-limit"), "{}", ended.stderr);
        assert!(ended.stderr.contains(limit), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_bad_value_that_may_hold_a_secret_is_not_repeated() {
    let ended = narrows().bare().flags("--redis-url http://:sesame@redis.test").run().await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("--redis-url"), "{}", ended.stderr);
    assert!(ended.stderr.contains("NARROWS_REDIS_URL"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("sesame"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_bad_value_in_an_alias_names_the_alias() {
    let mut setup = narrows().bare();
    for name in ["DPRL_PORT", "DPRL_MAX_CONNECTIONS", "REDIS_DB", "LOG_LEVEL"] {
        setup = setup.env(name, "abc");
        let ended = setup.clone().run().await;
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(name), "no {name} in: {}", ended.stderr);
    }
}

#[tokio::test]
async fn all_problems_are_told_at_once_and_before_any_port_is_bound() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ended = narrows()
        .bare()
        .flags(format!(
            "--port {port} --max-connections many --host-limit a=b --queue-timeout soon"
        ))
        .env("REDIS_DB", "x")
        .env("NARROWS_LOG_FORMAT", "xml")
        .run()
        .await;
    assert_eq!(ended.code, Some(2), "not 1, which is a port in use: {}", ended.stderr);
    for part in ["--max-connections", "--host-limit", "--queue-timeout", "REDIS_DB", "--log-format"]
    {
        let lines = ended.stderr.lines().filter(|line| line.contains(part)).count();
        assert_eq!((part, lines), (part, 1), "one line each: {}", ended.stderr);
    }
}

#[tokio::test]
async fn an_unknown_flag_is_refused() {
    let ended = narrows().bare().flags("--max-conections 5").run().await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("--max-conections"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_port_in_use_is_an_error_even_if_it_is_used_by_another_narrows() {
    let first = narrows().start().await;
    let (port, admin) = (first.address.port(), first.admin.unwrap().port());
    for flags in [format!("--port {port} --admin-port 0"), format!("--port 0 --admin-port {admin}")]
    {
        let ended = narrows().bare().flags(&flags).run().await;
        assert_eq!(ended.code, Some(1), "{flags}: {}", ended.stderr);
        let taken = flags.split(' ').find(|word| word.parse::<u16>().is_ok_and(|port| port > 0));
        assert!(ended.stderr.contains(taken.unwrap()), "{}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{}", ended.stdout);
    }
}

#[tokio::test]
async fn help_names_every_flag_and_version_the_version() {
    let help = narrows().bare().flags("--help").run().await;
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    for flag in [
        "port",
        "bind",
        "admin-port",
        "admin-bind",
        "admin-token",
        "admin-token-file",
        "threads",
        "max-connections",
        "host-limit",
        "queue-timeout",
        "queue-size",
        "queue-timeout-max",
        "refuse-status",
        "redis-addr",
        "redis-url",
        "redis-username",
        "redis-password",
        "redis-db",
        "redis-prefix",
        "redis-timeout",
        "redis-failure",
        "lease",
        "heartbeat",
        "connect-timeout",
        "dns-timeout",
        "response-timeout",
        "idle-timeout",
        "tunnel-idle-timeout",
        "idle-reclaim",
        "header-timeout",
        "keep-alive-timeout",
        "pool-idle",
        "pool-size",
        "resolver",
        "resolve",
        "upstream-ca",
        "via",
        "log-level",
        "log-format",
        "access-log",
        "shutdown-timeout",
    ] {
        let is_there = help.stdout.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let wanted = format!("--{flag}");
        assert!(is_there.into_iter().any(|word| word == wanted), "no {wanted}:\n{}", help.stdout);
    }
    let version = narrows().bare().flags("--version").run().await;
    assert_eq!(version.code, Some(0));
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", version.stdout);
}

#[tokio::test]
async fn health_asks_the_admin_port_and_answers_by_its_exit_code() {
    let mut proxy = narrows().start().await;
    let admin = proxy.admin.unwrap().port();
    let health = narrows().bare().flags("health").flags(format!("--admin-port {admin}"));
    assert_eq!(health.clone().run().await.code, Some(0));
    let by_variable = narrows().bare().flags("health").env("NARROWS_ADMIN_PORT", admin);
    assert_eq!(by_variable.run().await.code, Some(0));
    proxy.kill();
    proxy.ended().await;
    assert_eq!(health.run().await.code, Some(1));
}

#[tokio::test]
async fn threads_is_how_many_threads_serve() {
    let proxy = narrows().flags("--threads 3").start().await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut client = proxy.client().await;
        assert_eq!(client.get("/health").await.status(), 200);
        clients.push(client);
    }
    proxy.wait_until_metric("narrows_client_connections", &[], 12.0).await;
}

#[tokio::test]
async fn log_level_comes_from_the_variable_that_users_have() {
    for (level, is_debug) in [("debug", true), ("warning", false), ("INFO", false)] {
        let proxy = narrows().env("LOG_LEVEL", level).start().await;
        let origin = Origin::echo();
        drop(proxy.tunnel(origin.authority()).await);
        proxy.wait_until_open(&origin.authority(), 0).await;
        if is_debug {
            let closed = async || !proxy.stderr.lines_with("connection closed").is_empty();
            wait_until("the close is logged", closed).await;
        } else {
            assert!(proxy.stderr.lines_with("connection closed").is_empty());
        }
    }
}

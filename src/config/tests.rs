//! What command lines and variables become, and what is said of those that are not allowed.

use std::fs;

use super::*;
use crate::upstream::Pinned;
use crate::upstream::Resolver;

pub(super) fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Command, Problems> {
    let args = ["narrows"].iter().chain(args).map(OsString::from);
    let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::read(args, env)
}

pub(super) fn serve(args: &[&str], env: &[(&str, &str)]) -> Serve {
    match read(args, env).unwrap() {
        Command::Serve(serve) => *serve,
        other @ (Command::Bench(_)
        | Command::Health(_)
        | Command::Key(_)
        | Command::Limits(_)
        | Command::Passwd(_)
        | Command::RedisCheck(_)
        | Command::Replay(_)
        | Command::Say(_)) => {
            panic!("{other:?}")
        }
    }
}

pub(super) fn problems(args: &[&str], env: &[(&str, &str)]) -> Vec<String> {
    read(args, env).unwrap_err().0
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = Config::default();
    assert_eq!(config.listen.address, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(config.admin.as_ref().unwrap().address, "127.0.0.1:9900".parse().unwrap());
    assert_eq!((config.limit.default_limit, config.limit.queue_size), (0, 1000));
    assert_eq!(config.limit.queue_timeout, Duration::ZERO);
    assert_eq!(config.limit.queue_timeout_max, Duration::from_mins(1));
    assert!(config.shared.is_none() && config.limit.rules.is_empty());
    assert_eq!(
        (config.upstream.pool_idle, config.upstream.pool_size),
        (Duration::from_secs(4), 256)
    );
    assert_eq!(config.proxy.refuse_status, 503);
    let via = config.proxy.via.clone().unwrap();
    assert!(via.starts_with("narrows-") && via.len() == 16, "{via}");
    assert_eq!(config.proxy.tunnel_idle_timeout, Duration::from_mins(15));
    assert_eq!(config.shutdown_timeout, Duration::from_secs(10));
    assert_eq!((config.trace.level, config.access.clone()), (tracing::Level::INFO, Target::Off));
    let mut read = serve(&[], &[]).config;
    assert_ne!(read.proxy.via, config.proxy.via, "each has a name of its own");
    read.proxy.via.clone_from(&config.proxy.via);
    assert_eq!(format!("{read:?}"), format!("{config:?}"));
}

#[test]
fn the_admin_token_comes_from_one_place_and_is_never_printed() {
    let token = |args: &[&str], env: &[(&str, &str)]| {
        let served = serve(args, env);
        assert!(!format!("{served:?}").contains("sesame"));
        served.config.admin.unwrap().token.map(|token| token.0)
    };
    assert_eq!(token(&[], &[]), None);
    assert_eq!(token(&[], &[("NARROWS_ADMIN_TOKEN", "sesame")]).as_deref(), Some("sesame"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "sesame2\n").unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(token(&["--admin-token-file", file], &[]).as_deref(), Some("sesame2"));
    let both = problems(&["--admin-token=sesame", "--admin-token-file", file], &[]);
    assert!(both[0].starts_with("--admin-token-file (or NARROWS_ADMIN_TOKEN_FILE): "));
    fs::write(file, "open sesame\nopen").unwrap();
    for args in [["--admin-token", "open sesame"], ["--admin-token-file", file]] {
        let told = problems(&args, &[]);
        assert!(told[0].contains("visible ASCII") && told[0].contains(args[0]), "{told:?}");
        assert!(!told[0].contains("sesame"), "{told:?}");
    }
    let told = problems(&["--admin-token-file", "/nowhere"], &[]);
    assert!(told[0].contains("\"/nowhere\" is not allowed: a file"), "{told:?}");
}

#[test]
fn flags_beat_variables_and_ours_beat_theirs() {
    let limit = |args: &[&str], env: &[(&str, &str)]| serve(args, env).config.limit.default_limit;
    let theirs = ("DPRL_MAX_CONNECTIONS", "1");
    let ours = ("NARROWS_MAX_CONNECTIONS", "2");
    assert_eq!(limit(&[], &[theirs]), 1);
    assert_eq!(limit(&[], &[theirs, ours]), 2);
    assert_eq!(limit(&["--max-connections", "3"], &[theirs, ours]), 3);
    assert_eq!(limit(&[], &[theirs, ("NARROWS_MAX_CONNECTIONS", "")]), 1, "empty is unset");
    assert_eq!(limit(&["--max-connections="], &[ours]), 2, "empty is unset");
    assert_eq!(limit(&["--max-connections=4", "--max-connections=5"], &[]), 5);
}

#[test]
fn the_names_that_users_already_have_are_read() {
    let served = serve(
        &[],
        &[
            ("DPRL_PORT", "0"),
            ("LOG_LEVEL", "WARNING"),
            ("LOG_FORMAT", "json"),
            ("REDIS_URL", "redis://r"),
        ],
    );
    let config = served.config;
    assert_eq!(config.listen.address.port(), 0);
    assert_eq!(config.trace.level, tracing::Level::WARN);
    assert_eq!(config.trace.format, trace::Format::Json);
    let shared = config.shared.unwrap();
    assert_eq!((shared.lease, shared.heartbeat), (Duration::from_secs(15), Duration::from_secs(3)));
    assert_eq!(shared.store.prefix, "proxy_rate_limiter");
    assert_eq!(config.upstream.pool_idle, Duration::from_secs(1), "shorter when shared");
    assert!(served.warnings.is_empty());
}

#[test]
fn all_problems_are_told_at_once_each_with_flag_variable_value_and_what_is_allowed() {
    let told = problems(
        &["--queue-timeout", "soon", "--refuse-status=200"],
        &[
            ("NARROWS_MAX_CONNECTIONS", "abc"),
            ("DPRL_PORT", "70000"),
            ("NARROWS_HOST_LIMITS", "a=1,b,c=x"),
        ],
    );
    assert_eq!(
        told,
        [
            "--port (DPRL_PORT): \"70000\" is not allowed: \
             a whole number from 0 (any free port) to 65535",
            "--max-connections (NARROWS_MAX_CONNECTIONS): \"abc\" is not allowed: \
             a whole number from 0 (unlimited) to 4294967295",
            "--host-limit (NARROWS_HOST_LIMITS): \"b\" is not allowed: \
             must be HOST=N, HOST:PORT=N, *.SUFFIX=N or *.SUFFIX=N/shared",
            "--host-limit (NARROWS_HOST_LIMITS): \"c=x\" is not allowed: \
             the limit must be a whole number from 0 (unlimited) to 4294967295",
            "--queue-timeout (or NARROWS_QUEUE_TIMEOUT): \"soon\" is not allowed: \
             a time such as 10s, 500ms, 1m30s or 2h; a number alone is seconds",
            "--refuse-status (or NARROWS_REFUSE_STATUS): \"200\" is not allowed: \
             a whole number from 400 to 599",
        ]
    );
}

#[test]
fn each_bad_value_is_a_problem() {
    for (flag, value) in [
        ("port", "-1"),
        ("port", "+1"),
        ("port", "65536"),
        ("bind", "localhost"),
        ("threads", "0"),
        ("threads", "1025"),
        ("via", "two words"),
        ("via", "über"),
        ("max-head-size", "1023"),
        ("max-head-size", "1MiB"),
        ("max-fields", "0"),
        ("max-request-line", "64KiB"),
        ("max-chunk-extensions", "17KiB"),
        ("max-trailers", "-1"),
        ("max-interim", "0"),
        ("shutdown-timeout", "x"),
        ("max-connections", "-1"),
        ("max-connections", "4294967296"),
        ("max-connections", "1e3"),
        ("host-limit", "a"),
        ("host-limit", "127.1=1"),
        ("queue-size", "many"),
        ("refuse-status", "600"),
        ("redis-prefix", "a{b}"),
        ("redis-timeout", "0"),
        ("redis-failure", "maybe"),
        ("lease", "299ms"),
        ("heartbeat", "0s"),
        ("heartbeat", "6s"),
        ("resolver", "dns.example"),
        ("resolver", "1.1.1.1:0"),
        ("resolve", "a.test"),
        ("resolve", "a.test=b.test"),
        ("resolve", "a.test:0=127.0.0.1"),
        ("resolve", "127.0.0.1=127.0.0.2"),
        ("upstream-ca", "/nowhere/ca.pem"),
        ("connect-timeout", "0"),
        ("dns-timeout", "0"),
        ("header-timeout", "0"),
        ("keep-alive-timeout", "off"),
        ("idle-timeout", "never"),
        ("admin-port", "on"),
        ("admin-port", "8080"),
        ("admin-bind", "0"),
        ("log-level", "loud"),
        ("log-format", "xml"),
        ("access-log", "/nowhere/at/all"),
    ] {
        let told = problems(&[&format!("--{flag}"), value], &[]);
        assert_eq!(told.len(), 1, "--{flag} {value}: {told:?}");
        assert!(told[0].starts_with(&format!("--{flag} (or NARROWS_")), "{told:?}");
    }
}

#[test]
fn repeatable_settings_add_up_and_a_flag_replaces_the_variable() {
    let env = [("NARROWS_HOST_LIMITS", " a.test=1 , *.b.test=2,")];
    let rules = |args: &[&str]| serve(args, &env).config.limit.rules;
    assert_eq!(rules(&[]), ["a.test=1", "*.b.test=2"].map(|rule| rule.parse().unwrap()));
    assert_eq!(
        rules(&["--host-limit", "c=3", "--host-limit", "d:81=4,[::1]=5"]),
        ["c=3", "d:81=4", "[::1]=5"].map(|rule| rule.parse().unwrap())
    );
}

#[test]
fn names_can_be_pinned_and_a_resolver_chosen() {
    let args = ["--resolve=A.test=127.0.0.1", "--resolve=b.test:81=[::1],b.test:81=::2"];
    let upstream = serve(&args, &[("NARROWS_RESOLVER", "::1")]).config.upstream;
    let pin = |host: &str, port, address: &str| Pinned {
        host: host.to_owned(),
        port,
        address: address.parse().unwrap(),
    };
    assert_eq!(
        upstream.pinned,
        [
            pin("a.test", None, "127.0.0.1"),
            pin("b.test", Some(81), "::1"),
            pin("b.test", Some(81), "::2"),
        ]
    );
    assert_eq!(upstream.resolver, Resolver::Server("[::1]:53".parse().unwrap()));
}

#[test]
fn files_of_authorities_must_hold_some() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("a,b.pem");
    fs::write(&empty, "nothing").unwrap();
    let told = problems(&["--upstream-ca", empty.to_str().unwrap()], &[]);
    assert!(told[0].ends_with("a PEM file of certificates (it holds none)"), "{told:?}");

    let key = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    fs::write(&empty, key.cert.pem()).unwrap();
    let served = serve(&["--upstream-ca", empty.to_str().unwrap()], &[]);
    assert_eq!(served.config.upstream.authorities, [empty], "a comma in a flag is part of it");
}

#[test]
fn off_and_zero_are_times_that_never_end() {
    let args = ["--idle-timeout=off", "--tunnel-idle-timeout=0", "--response-timeout=0s"];
    let config = serve(&args, &[]).config;
    assert_eq!(config.upstream.idle_timeout, units::LONGEST);
    assert_eq!(config.upstream.response_timeout, units::LONGEST);
    assert_eq!(config.proxy.tunnel_idle_timeout, units::LONGEST);
    assert_eq!(serve(&["--pool-idle=0"], &[]).config.upstream.pool_size, 0);
}

#[test]
fn tunnels_yield_only_if_somebody_says_when() {
    let reclaim = |args: &[&str]| serve(args, &[]).config.proxy.idle_reclaim;
    for off in [&[][..], &["--idle-reclaim=off"], &["--idle-reclaim=0"]] {
        assert_eq!(reclaim(off), None, "{off:?}");
    }
    assert_eq!(reclaim(&["--idle-reclaim=30s"]), Some(Duration::from_secs(30)));
    let late = serve(&["--idle-reclaim=15m"], &[]);
    assert_eq!(
        late.warnings,
        ["--idle-reclaim has no effect: --tunnel-idle-timeout closes idle tunnels no later"]
    );
}

#[test]
fn a_short_lease_has_a_short_heartbeat() {
    let shared = |args: &[&str]| serve(args, &[("REDIS_ADDR", "r:1")]).config.shared.unwrap();
    assert_eq!(shared(&["--lease=1s"]).heartbeat, Duration::from_millis(200));
    assert_eq!(shared(&["--lease=3s", "--heartbeat=1s"]).heartbeat, Duration::from_secs(1));
    assert_eq!(
        problems(&["--lease=2s", "--heartbeat=1s"], &[]),
        ["--heartbeat (or NARROWS_HEARTBEAT): 1s is not allowed: at most a third of --lease, \
          which is 2s, so that one late beat loses nothing"]
    );
}

#[test]
fn what_looks_like_a_setting_and_is_none_is_a_warning() {
    let served = serve(
        &["--lease=20s"],
        &[
            ("NARROWS_HOST_LIMIT", "a=1"),
            ("NARROWS_COLOUR_OF_THE_SKY", "blue"),
            ("NARROWS_NOTHING", ""),
            ("NARROWS_SERVICE_HOST", "10.0.0.1"),
            ("NARROWS_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("NARROWS_PORT", "tcp://10.0.0.1:8080"),
            ("REDIS_PASSWORD", "of another program"),
            ("SOMETHING_ELSE", "1"),
        ],
    );
    assert_eq!(served.config.listen.address.port(), 8080);
    assert_eq!(
        served.warnings,
        [
            "NARROWS_PORT=\"tcp://10.0.0.1:8080\" is ignored: a Kubernetes service link",
            "NARROWS_COLOUR_OF_THE_SKY is not a setting of narrows",
            "NARROWS_HOST_LIMIT is not a setting of narrows; did you mean NARROWS_HOST_LIMITS?",
            "--lease has no effect without --redis-addr, --redis-url, --redis-sentinels or --redis-cluster",
        ]
    );
}

#[test]
fn quotas_in_the_layout_of_apitwo_and_a_cluster_are_a_problem() {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    let path = file.path().to_str().unwrap();
    let quota = "api: {a: {target_url: 'http://a.test', quota: {layout: apitwo}}}";
    fs::write(path, quota).unwrap();
    let told = problems(&["--config", path, "--redis-cluster", "10.0.0.1:6379"], &[]);
    assert!(told[0].starts_with("--redis-cluster") && told[0].contains("apitwo"), "{told:?}");
    assert!(read(&["--config", path, "--redis-url", "redis://10.0.0.1"], &[]).is_ok());
}

#[test]
fn a_value_that_is_not_utf_8_is_a_problem() {
    use std::os::unix::ffi::OsStringExt;
    let bad = OsString::from_vec(vec![b'1', 0xff]);
    let env = [(OsString::from("NARROWS_PORT"), bad.clone())];
    let Problems(told) = Config::read(["narrows".into()], env).unwrap_err();
    assert!(told[0].starts_with("--port (NARROWS_PORT): ") && told[0].ends_with("text in UTF-8"));
    let Problems(told) = Config::read(["narrows".into(), "--bind".into(), bad], []).unwrap_err();
    assert!(told[0].starts_with("--bind "), "{told:?}");
}

#[test]
fn an_unknown_flag_is_a_problem_and_help_is_none() {
    assert!(problems(&["--max-connection", "1"], &[])[0].contains("--max-connections"));
    assert!(problems(&["serve"], &[])[0].contains("serve"));
    for args in [["--help"], ["-h"], ["--version"], ["--print-flags-markdown"]] {
        assert!(matches!(read(&args, &[]), Ok(Command::Say(text)) if text.contains("narrows")));
    }
}

#[test]
fn a_health_check_asks_the_admin_port_and_minds_nothing_else() {
    let health = |args: &[&str], env: &[(&str, &str)]| match read(args, env).unwrap() {
        Command::Health(health) => health,
        other @ (Command::Bench(_)
        | Command::Key(_)
        | Command::Limits(_)
        | Command::Passwd(_)
        | Command::RedisCheck(_)
        | Command::Replay(_)
        | Command::Say(_)
        | Command::Serve(_)) => {
            panic!("{other:?}")
        }
    };
    let env = [("NARROWS_ADMIN_PORT", "9901"), ("NARROWS_LEASE", "never")];
    let asked = health(&["health"], &env);
    assert_eq!(asked.address, "127.0.0.1:9901".parse().unwrap());
    assert_eq!(asked.timeout, Duration::from_secs(2));
    let asked = health(&["health", "--admin-bind=::", "--timeout=1s"], &env);
    assert_eq!(asked.address, "[::1]:9901".parse().unwrap());
    assert_eq!(asked.timeout, Duration::from_secs(1));
    let asked = health(&["--admin-port=7", "health"], &env);
    assert_eq!(asked.address.port(), 7);
    for args in [["health", "--admin-port=off"], ["health", "--timeout=0"]] {
        assert_eq!(problems(&args, &[]).len(), 1);
    }
}

#[test]
fn colours_are_for_those_who_want_them() {
    assert!(serve(&[], &[("NO_COLOR", "")]).config.trace.colour);
    assert!(!serve(&[], &[("NO_COLOR", "1")]).config.trace.colour);
}

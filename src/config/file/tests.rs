//! What config files become, and what is said of those that are wrong.

use std::fs;
use std::time::Duration;

use super::reader::READ;
use crate::base::pattern::Pattern;
use crate::config::tests::problems;
use crate::config::tests::serve;
use crate::policy::Cause;
use crate::policy::Mode;
use crate::policy::api::Forwarded;
use crate::policy::api::Settings;
use crate::policy::breaker;
use crate::policy::cooldown;
use crate::policy::parents::StickyKey;
use crate::policy::parents::Strategy;
use crate::policy::retry;

/// A file of this ending that holds this text.
pub(crate) fn file(ending: &str, text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("narrows.{ending}"));
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

/// What is said of a file, without its folder.
fn told(ending: &str, text: &str) -> Vec<String> {
    let (folder, path) = file(ending, text);
    let folder = format!("{}/", folder.path().display());
    let told = problems(&["--config", &path], &[]);
    told.iter().map(|problem| problem.replace(&folder, "")).collect()
}

fn apis(text: &str) -> Vec<Settings> {
    let (_folder, path) = file("yaml", text);
    serve(&["--config", &path], &[]).config.apis
}

fn api(text: &str) -> Settings {
    apis(text).swap_remove(0)
}

fn patterns(api: &Settings) -> Vec<String> {
    api.hosts.iter().map(Pattern::to_string).collect()
}

/// The example that the users of resilient-proxy-out know, as they have it.
const KNOWN: &str = r#"
[api.hyperliquid]
target_url="http://127.0.0.1:7000"; method="POST"; requires_body=true; enable_cache=false; cache_ttl=60
cache_header_strategy="none"; use_proxy=true; proxy_strategy="subset"; proxy_subset_size=3
headers={"Content-Type"="application/json", Accept="application/json"}; forward_headers=false
circuit_breaker={failure_threshold=5, reset_timeout=30, request_timeout=12000, success_threshold=2}
retry={max_attempts=3, initial_delay=1, max_delay=10, backoff_factor=2, retry_on_status=[500,502,503,504,429]}
proxies=["http://u:p@127.0.0.1:7001"]
"#;

#[test]
fn the_example_of_resilient_proxy_out_is_read_as_it_is() {
    let (_folder, path) = file("toml", KNOWN);
    let served = serve(&["--config", &path], &[]);
    assert!(served.warnings.is_empty(), "{:?}", served.warnings);
    let [api] = &*served.config.apis else { panic!("{:?}", served.config.apis) };
    assert_eq!(&*api.name, "hyperliquid");
    let target = api.target.as_ref().unwrap();
    assert_eq!(
        (target.tls, target.authority.to_string(), &*target.path),
        (false, "127.0.0.1:7000".into(), "")
    );
    assert_eq!(patterns(api), ["127.0.0.1:7000"]);
    assert!(api.gateway.methods.is_empty(), "method had no effect there, and has none here");
    assert!(api.gateway.requires_body);
    assert_eq!(api.gateway.forward_headers, Forwarded::None);
    let fields: Vec<_> =
        api.gateway.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    assert_eq!(fields, [("content-type", "application/json"), ("accept", "application/json")]);
    assert_eq!(api.request_timeout, Some(Duration::from_secs(12)), "of the breaker");
    assert_eq!(api.breaker, Some(breaker::Settings::default()));
    assert_eq!(api.retry, Some(retry::Settings::default()));
    assert_eq!(api.cooldown, Some(cooldown::Settings::default()));
    let parents = api.parents.as_ref().unwrap();
    assert_eq!(parents.strategy, Strategy::Subset(3));
    assert_eq!(&*parents.list[0].name, "http://127.0.0.1:7001");
    assert_eq!(parents.keepalive_timeout, Duration::from_mins(1));
}

#[test]
fn a_named_api_has_a_breaker_and_cool_downs_and_the_default_api_what_it_is_given() {
    let all = apis("api:\n  a: {target_url: 'https://a.test'}\n  default: {retry: true}\n");
    assert_eq!(all[0].breaker, Some(breaker::Settings::default()));
    assert_eq!(all[0].cooldown, Some(cooldown::Settings::default()));
    assert_eq!(all[0].request_timeout, Some(Duration::from_secs(10)));
    assert!(all[0].retry.is_none() && all[0].parents.is_none());
    assert_eq!(all[1].retry, Some(retry::Settings::default()));
    assert!(
        all[1].breaker.is_none() && all[1].cooldown.is_none() && all[1].request_timeout.is_none()
    );
    let off = api(
        "api: {a: {circuit_breaker: false, cool_down: false, retry: false, request_timeout: off}}",
    );
    assert!(off.breaker.is_none() && off.cooldown.is_none() && off.retry.is_none());
    assert_eq!(off.request_timeout, None);
}

#[test]
fn a_cool_down_is_as_it_is_said() {
    let text = "api: {a: {cool_down: {scope: host, max: 1m, default: 0, ramp: 2.5, wait: 500ms, \
                on_exhausted: true, mode: observe}}}";
    let expected = cooldown::Settings {
        mode: Mode::Observe,
        scope: cooldown::Scope::Host,
        max: Duration::from_mins(1),
        default: Duration::ZERO,
        ramp: 2.5,
        wait: Duration::from_millis(500),
        on_exhausted: true,
    };
    assert_eq!(api(text).cooldown, Some(expected));
}

#[test]
fn the_time_out_of_the_breaker_is_obeyed_unless_the_api_has_its_own() {
    let timeout = |text: &str| api(text).request_timeout.map(|time| time.as_millis());
    assert_eq!(timeout("api: {a: {circuit_breaker: {request_timeout: 500}}}"), Some(500));
    assert_eq!(
        timeout("api: {a: {request_timeout: 2s, circuit_breaker: {request_timeout: 500}}}"),
        Some(2000)
    );
}

#[test]
fn every_problem_is_told_with_its_line_key_value_and_what_is_allowed() {
    let text = "\
max_connections: many
admin_prot: 1
api:
  a b:
    target_url: ftp://a.test
  b:
    circut_breaker: {}
    circuit_breaker:
      reset_timeout: soon
      probes: [1]
    retry: {max_attempts: 0, retry_on_errors: [dns, boredom]}
    proxy_strategy: always
    headers: {Host: x, X-Key: \"a\\nb\"}
    ssl_verify: false
quota: {}
";
    assert_eq!(
        told("yaml", text),
        [
            "narrows.yaml:2:1: admin_prot: is not a key of narrows; did you mean admin_port?",
            "narrows.yaml:15:1: quota: is not known in this version yet; a later one will know it",
            "narrows.yaml:1:18: max_connections: \"many\" is not allowed: a whole number from 0 (unlimited) to 4294967295",
            "narrows.yaml:4:3: api.a b: is no name of an API: 1 to 64 letters, digits, -, _ and ., with a letter or digit first",
            "narrows.yaml:5:17: api.a b.target_url: \"ftp://a.test\" is not allowed: a URL such as https://api.example.com or http://HOST:PORT/PATH, without credentials, query and fragment",
            "narrows.yaml:7:5: api.b.circut_breaker: is not a key of narrows; did you mean circuit_breaker?",
            "narrows.yaml:13:15: api.b.headers: \"Host\" is not allowed: a field that does not belong to the connection itself",
            "narrows.yaml:13:31: api.b.headers: (secret) is not allowed: a value that x-key can carry: one line of text",
            "narrows.yaml:14:17: api.b.ssl_verify: false is not allowed: certificates are always verified; name the authority of this one by --upstream-ca (upstream_ca)",
            "narrows.yaml:9:22: api.b.circuit_breaker.reset_timeout: \"soon\" is not allowed: a time above 0 such as 500ms, 10s or 1m30s, up to 365d; a number alone is seconds",
            "narrows.yaml:10:15: api.b.circuit_breaker.probes: a list is not allowed: a whole number from 1 to 1000",
            "narrows.yaml:11:27: api.b.retry.max_attempts: \"0\" is not allowed: a whole number from 1 to 100",
            "narrows.yaml:11:53: api.b.retry.retry_on_errors: \"boredom\" is not allowed: a list of dns, connect_refused, reset, timeout and tls",
            "narrows.yaml:12:21: api.b.proxy_strategy: \"always\" is not allowed: round_robin, sticky, subset, on_rate_limit, never, least_used, weighted",
        ]
    );
}

#[test]
fn every_row_of_the_table_is_read() {
    READ.take();
    let text = "api:\n  a:\n    circuit_breaker: {probes: 1}\n    retry: {budget: 1}\n    cool_down: {ramp: 1}\n    keys: {list: []}\n    jwt: {secret: 0123456789abcdef0123456789abcdef}\n    \
                quota: {plans: {a: {minute: 1}}}\n    \
                use_proxy: true\n    proxies: [{url: 'http://p.test', weight: 2}]\n";
    let _read = api(text);
    let read = READ.take();
    for key in super::keys::ALL {
        assert!(read.contains(&key.path()), "nobody reads {}", key.path());
    }
}

#[test]
fn settings_are_read_anew_from_what_the_file_holds_by_then() {
    let (_folder, path) = file("yaml", "max_connections: 5\n");
    let sources = serve(&["--config", &path], &[("NARROWS_ADMIN_TOKEN", "sesame")]).sources;
    assert_eq!(sources.file(), Some(std::path::Path::new(&path)));
    assert!(!format!("{sources:?}").contains("sesame"));
    fs::write(&path, "max_connections: 6\n").unwrap();
    assert_eq!(sources.read().unwrap().config.limit.default_limit, 6);
    fs::write(&path, "max_connections: x\nnothing: 1\n").unwrap();
    assert_eq!(sources.read().unwrap_err().0.len(), 2);
}

#[test]
fn settings_stand_in_the_file_by_their_names() {
    let text = "max_connections: 25\nqueue_timeout: 1m\nhost_limit: [a.test=1, '*.b.test=2']\nallow_from: 10.0.0.0/8,::1\n\
                explain: true\nadmin_port: false\nlisten:\n  - http://127.0.0.1:0\nvia:\nbind: ''\n";
    let (_folder, path) = file("yaml", text);
    let served = serve(&["--config", &path], &[]);
    let config = served.config;
    assert_eq!(config.limit.default_limit, 25);
    assert_eq!(config.limit.queue_timeout, Duration::from_mins(1));
    assert_eq!(config.limit.rules, ["a.test=1", "*.b.test=2"].map(|rule| rule.parse().unwrap()));
    assert_eq!(config.clients.networks.len(), 2);
    assert!(config.proxy.explain && config.admin.is_none());
    assert_eq!(config.listen.listeners.len(), 1);
    assert!(config.proxy.via.unwrap().starts_with("narrows-"), "nothing is the default");
    assert!(served.warnings.is_empty(), "{:?}", served.warnings);
}

#[test]
fn flags_beat_variables_and_variables_beat_the_file() {
    let (_folder, path) =
        file("toml", "max_connections = 1\n[limits]\nhosts = { 'a.test' = 5, '*.b' = '6/shared' }");
    let limit = |args: &[&str], env: &[(&str, &str)]| {
        let args = [&["--config", &path], args].concat();
        serve(&args, env).config.limit.default_limit
    };
    let env = ("DPRL_MAX_CONNECTIONS", "2");
    assert_eq!(limit(&[], &[]), 1);
    assert_eq!(limit(&["--set", "max_connections=7"], &[]), 7);
    assert_eq!(limit(&["--set", "max_connections=7"], &[env]), 2);
    assert_eq!(limit(&["--max-connections=3"], &[env]), 3);
    let served = serve(&[], &[("NARROWS_CONFIG", &path)]);
    assert_eq!(
        served.config.limit.rules,
        ["a.test=5", "*.b=6/shared"].map(|rule| rule.parse().unwrap())
    );
}

#[test]
fn limits_are_told_by_their_own_lines() {
    let text = "limits:\n  default: x\n  hosts:\n    a.test: 5\n    'b c': 6\n    c.test: many\n  others: 1\n";
    let found = told("yaml", text);
    for part in [
        "narrows.yaml:2:12: limits.default: \"x\" is not allowed: a whole number",
        "narrows.yaml:5:12: limits.hosts.b c: \"b c=6\" is not allowed: ",
        "narrows.yaml:6:13: limits.hosts.c.test: \"c.test=many\" is not allowed: the limit must be",
        "narrows.yaml:7:3: limits.others: is not a key of narrows",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(part)), "{part}: {found:#?}");
    }
    assert_eq!(found.len(), 4, "{found:#?}");
    let twice = told("yaml", "max_connections: 1\nlimits: {default: 2}\n");
    assert_eq!(
        twice,
        [
            "narrows.yaml:2:19: limits.default: says the same as max_connections at narrows.yaml:1:18; give one"
        ]
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_told() {
    let found = told(
        "yaml",
        "max_connections: [1]\nqueue_size: {a: 1}\nlimits: 5\napi: [a]\nhost_limit: [{a: 1}]\n",
    );
    assert_eq!(
        found,
        [
            "narrows.yaml:1:18: max_connections: a list is not allowed: one value",
            "narrows.yaml:2:13: queue_size: a map is not allowed: one value",
            "narrows.yaml:3:9: limits: a number is not allowed: a map of default and hosts",
            "narrows.yaml:5:14: host_limit: a map is not allowed: one value, or a list of them",
            "narrows.yaml:4:6: api: a list is not allowed: a map of names to APIs",
        ]
    );
    let found = told(
        "yaml",
        "api: {a: 5, b: {retry: 3, headers: x, circuit_breaker: [], method: {}, requires_body: yes}}\n",
    );
    assert_eq!(found.len(), 6, "{found:#?}");
    assert_eq!(
        told("yaml", "- a\n"),
        ["narrows.yaml:1:1: the file holds a list; it must be a map of keys"]
    );
    assert!(told("toml", "a = \n")[0].starts_with("narrows.toml:1:"));
}

#[test]
fn a_file_that_is_not_there_or_too_long_is_a_problem() {
    let found = problems(&["--config", "/nowhere/narrows.yaml"], &[]);
    assert!(
        found[0].starts_with("/nowhere/narrows.yaml: the config file cannot be read: "),
        "{found:?}"
    );
    assert!(told("yaml", &"#".repeat(1024 * 1024 + 1))[0].ends_with("it is longer than 1 MiB"));
    let (_folder, path) = file("yaml", "");
    fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
    assert!(problems(&["--config", &path], &[])[0].ends_with("line 2 is not UTF-8"));
}

#[test]
fn secrets_come_from_variables_and_are_told_to_nobody() {
    let text = "api:\n  a:\n    target_url: 'http://${HOST:-127.0.0.1}:7000'\n    headers: {X-Key: \"k-${KEY}\"}\n    \
                proxy_strategy: ${KEY}\n    use_proxy: true\n    proxies: ['http://u:${KEY}@p.test:x', '${KEY}']\n";
    let (_folder, path) = file("yaml", text);
    let env = [("KEY", "sesame"), ("NARROWS_CONFIG", &*path)];
    let found = problems(&[], &env);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(!format!("{found:?}").contains("sesame"), "{found:#?}");
    let found = problems(&[], &env[1..]);
    assert_eq!(
        found.iter().filter(|problem| problem.contains("the variable KEY is not set")).count(),
        4,
        "{found:#?}"
    );
    assert!(found.len() == 4 && found[0].contains("narrows.yaml:4:22: "), "{found:#?}");

    let text = "api: {a: {target_url: 'http://a.test', headers: {X-Key: \"k-${NARROWS_KEY}\"}}}\n";
    let (_folder, path) = file("yaml", text);
    let served = serve(&["--config", &path], &[("NARROWS_KEY", "sesame")]);
    assert_eq!(served.config.apis[0].gateway.headers[0].1, "k-sesame");
    assert!(!format!("{served:?}").contains("sesame"), "{served:?}");
    assert!(served.warnings.is_empty(), "it is referred to: {:?}", served.warnings);
}

#[test]
fn any_key_can_be_set_from_outside() {
    let (_folder, path) = file("yaml", "api: {a: {target_url: 'http://a.test', retry: true}}\n");
    let read = |args: &[&str], env: &[(&str, &str)]| {
        let args = [&["--config", &path], args].concat();
        serve(&args, env).config.apis
    };
    let set = ["--set", "api.a.retry.max_attempts=5", "--set=api.a.headers={Accept: text/plain}"];
    let apis = read(
        &set,
        &[("NARROWS_SET", "api.a.retry.max_attempts=4; api.a.retry.jitter=0;api.b.hosts=[b.test]")],
    );
    let retry = apis[0].retry.as_ref().unwrap();
    assert_eq!(
        (retry.max_attempts, retry.jitter),
        (5, 0.0),
        "the flag beats the variable, and adds to it"
    );
    assert_eq!(apis[0].gateway.headers.len(), 1);
    assert_eq!(patterns(&apis[1]), ["b.test"]);
    assert_eq!(
        serve(&["--set", "api.c.target_url=http://c.test"], &[]).config.apis.len(),
        1,
        "without a file too"
    );

    let found = problems(
        &[
            "--set",
            "api.a.retry.max_atempts=5",
            "--set",
            "api.a.headers.X-Key=\"se\\nsame\"",
            "--set",
            "nonsense",
            "--set",
            "api.a.retry.jitter=[sesame",
        ],
        &[("NARROWS_SET", "api.a.retry.budget=much")],
    );
    for part in [
        "--set api.a.retry.max_atempts: api.a.retry.max_atempts: is not a key of narrows; did you mean max_attempts?",
        "--set api.a.headers.X-Key: api.a.headers: (secret) is not allowed",
        "--set nonsense: must be KEY=VALUE",
        "--set api.a.retry.jitter: is no YAML",
        "NARROWS_SET api.a.retry.budget: api.a.retry.budget: \"much\" is not allowed: a number from 0 to 101",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(part)), "{part}: {found:#?}");
    }
    assert!(found.len() == 5 && !format!("{found:?}").contains("same"), "{found:#?}");
}

#[test]
fn an_api_claims_the_host_of_its_target_unless_it_says_otherwise() {
    let text = "api:\n  a: {target_url: 'https://a.test/x'}\n  b: {target_url: 'http://b.test:81', hosts: []}\n  \
                c: {target_url: 'http://c.test', hosts: ['*.c.test', 'd.test:82']}\n  d: {target_url: 'http://d.test:82'}\n";
    let apis = apis(text);
    let claims: Vec<_> = apis.iter().map(patterns).collect();
    assert_eq!(claims, [vec!["a.test"], vec![], vec!["*.c.test", "d.test:82"], vec![]]);
}

#[test]
fn nobody_claims_what_several_do_not_name_and_naming_it_twice_is_a_problem() {
    let (_folder, path) = file(
        "yaml",
        "api:\n  a: {target_url: 'http://x.test/a'}\n  b: {target_url: 'http://x.test/b'}\n",
    );
    let served = serve(&["--config", &path], &[]);
    assert!(served.config.apis.iter().all(|api| api.hosts.is_empty()));
    let [warning] = &*served.warnings else { panic!("{:?}", served.warnings) };
    assert!(warning.contains("x.test is the target of several APIs (a, b)"), "{warning}");
    let found = told("yaml", "api:\n  a: {hosts: [x.test]}\n  b:\n    hosts: [X.test, y.test]\n");
    assert_eq!(
        found,
        [
            "narrows.yaml:4:12: api.b.hosts: x.test is claimed by the API a too, at narrows.yaml:2:14"
        ]
    );
}

#[test]
fn parents_come_from_the_api_or_from_proxy_urls() {
    let text = "api:\n  a: {use_proxy: true, proxies: ['http://a.test:1', {url: 'https://u:p@b.test', weight: 3}]}\n  \
                b: {use_proxy: true, proxy_strategy: sticky, proxy_sticky_key: 'header:X-User', proxy_quota: 600/1m, \
                keepalive_timeout: 1000}\n  c: {}\n";
    let (_folder, path) = file("yaml", text);
    let urls = "http://u:p@127.0.0.1:7001; http://v:q@127.0.0.1:7001 ;https://127.0.0.1:7003/;";
    let apis = serve(&["--config", &path], &[("PROXY_URLS", urls)]).config.apis;
    let list = |at: usize| apis[at].parents.as_ref().unwrap().list.clone();
    assert_eq!((&*list(0)[1].name, list(0)[1].weight), ("https://b.test:443", 3));
    let names: Vec<String> = list(1).iter().map(|parent| parent.name.to_string()).collect();
    assert_eq!(
        names,
        ["http://127.0.0.1:7001", "http://127.0.0.1:7001#2", "https://127.0.0.1:7003"]
    );
    assert_ne!(list(1)[0].authorization, list(1)[1].authorization);
    let parents = apis[1].parents.as_ref().unwrap();
    assert_eq!(parents.strategy, Strategy::Sticky(StickyKey::Header("x-user".parse().unwrap())));
    assert_eq!(parents.quota, Some((600, Duration::from_mins(1))));
    assert_eq!(parents.keepalive_timeout, Duration::from_secs(1));
    assert!(apis[2].parents.is_none());

    let found = problems(
        &["--config", &path],
        &[("PROXY_URLS", "http://a.test;socks5://u:sesame@b.test;u:sesame@c")],
    );
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with(
            "--proxy-urls (PROXY_URLS): entry 2, \"socks5://***@b.test\", is not allowed: a URL"
        ),
        "{found:#?}"
    );
    assert!(!format!("{found:?}").contains("sesame"), "{found:#?}");
    let found = problems(&["--config", &path], &[]);
    assert!(
        found[0].contains("api.b.use_proxy: true is not allowed: there are no proxies"),
        "{found:#?}"
    );
    let others = serve(&[], &[("PROXY_URLS", "whatever this is to others")]);
    assert!(others.warnings.is_empty(), "{:?}", others.warnings);
}

#[test]
fn keys_of_the_cache_are_read_and_what_has_no_effect_is_warned_of() {
    let text = "api: {a: {enable_cache: true, cache_ttl: 5s, cache_force: true, cache_force_over: [Set-Cookie], \
                cache_negative: {404: 10s}, cache_headers: [X-A], cache_post: true, cache_max_object: 1KiB, \
                cache_stale_if_error: 1m}, b: {cache_ttl: 5}}\n";
    let (_folder, path) = file("yaml", text);
    let served = serve(&["--config", &path], &[]);
    assert!(served.warnings.is_empty(), "{:?}", served.warnings);
    let api = |name: &str| served.config.apis.iter().find(|api| &*api.name == name).unwrap();
    assert_eq!(api("b").cache, None, "it was not asked for");
    let cache = api("a").cache.as_ref().unwrap();
    assert_eq!((cache.ttl, cache.stale_if_error), (Duration::from_secs(5), Duration::from_mins(1)));
    assert!(cache.force && cache.force_over.set_cookie && !cache.force_over.private);
    assert_eq!(cache.negative, [(http::StatusCode::NOT_FOUND, Duration::from_secs(10))]);
    let listed = vec![http::HeaderName::from_static("x-a")];
    assert_eq!(cache.strategy, crate::policy::cache::Strategy::Listed(listed));
    assert_eq!((cache.post, cache.max_object), (Some(65_536), 1024));

    let text = "api: {a: {enable_cache: true, cache_force_over: [private], cache_headers: [X-A], \
                cache_header_strategy: none}}\n";
    let (_folder, path) = file("yaml", text);
    let warnings = serve(&["--config", &path], &[]).warnings;
    assert!(warnings.iter().any(|text| text.contains("cache_force_over: has no effect")));
    assert!(warnings.iter().any(|text| text.contains("cache_header_strategy: is not heeded")));

    let text = "api: {a: {cache_negative: {200: 1s, 404: soon}, cache_header_strategy: some, cache_force_over: [x]}}\n";
    let (_folder, path) = file("yaml", text);
    assert_eq!(problems(&["--config", &path], &[]).len(), 4);
}

#[test]
fn errors_are_called_as_here_or_as_resilient_proxy_out_calls_them() {
    let causes = |list: &str| {
        api(&format!("api: {{a: {{retry: {{retry_on_errors: {list}}}}}}}"))
            .retry
            .unwrap()
            .retry_on_errors
    };
    assert_eq!(causes("[dns, tls]"), [Cause::Dns, Cause::Tls]);
    assert_eq!(
        causes("[timeout, connection refused, connection reset, socket, host not found]"),
        [Cause::Timeout, Cause::Refused, Cause::Reset, Cause::Dns]
    );
}

#[test]
fn rates_open_a_circuit_if_they_are_asked_for() {
    let rates = |text: &str| {
        api(&format!("api: {{a: {{circuit_breaker: {text}}}}}")).breaker.unwrap().rates
    };
    assert_eq!(rates("{minimum_calls: 5}"), None);
    let only_slow = rates("{slow_call_rate: 30, slow_call: 2s}").unwrap();
    assert_eq!((only_slow.slow_call_rate, only_slow.failure_rate), (30.0, 101.0));
    assert_eq!(only_slow.slow_call, Duration::from_secs(2));
    assert_eq!(rates("{failure_rate: 50}").unwrap(), breaker::Rates::default());
}

#[test]
fn the_default_api_has_flags_of_its_own() {
    let read = |args: &[&str], env: &[(&str, &str)]| serve(args, env).config.apis;
    assert!(read(&[], &[]).is_empty());
    let args = [
        "--request-timeout",
        "5",
        "--retry-attempts=2",
        "--retry-on-status=500,503",
        "--retry-unsafe=on",
        "--cool-down=on",
        "--parent=http://u:p@a.test:1",
        "--parent",
        "http://b.test",
        "--parent-strategy=least_used",
    ];
    let apis = read(
        &args,
        &[
            ("NARROWS_BREAKER_FAILURES", "7"),
            ("NARROWS_BREAKER_RESET", "5"),
            ("NARROWS_RETRY_ATTEMPTS", "9"),
        ],
    );
    let [api] = &*apis else { panic!("{apis:?}") };
    assert_eq!(
        (&*api.name, api.request_timeout),
        ("default", Some(Duration::from_secs(5))),
        "a number alone is seconds"
    );
    let retry = api.retry.as_ref().unwrap();
    assert_eq!((retry.max_attempts, retry.retry_unsafe), (2, true));
    assert_eq!(retry.retry_on_status, [500, 503]);
    let breaker = api.breaker.as_ref().unwrap();
    assert_eq!((breaker.failure_threshold, breaker.reset_timeout), (7, Duration::from_secs(5)));
    assert_eq!(api.cooldown, Some(cooldown::Settings::default()));
    let parents = api.parents.as_ref().unwrap();
    assert_eq!((parents.list.len(), &parents.strategy), (2, &Strategy::LeastUsed));

    let served = serve(&["--retry-unsafe=on"], &[]);
    assert_eq!(served.warnings, ["--retry-unsafe has no effect without --retry-attempts"]);
    let found = problems(&["--retry-attempts=0", "--parent=ftp://u:sesame@x"], &[]);
    assert_eq!(
        found[0],
        "--retry-attempts (or NARROWS_RETRY_ATTEMPTS): api.default.retry.max_attempts: \"0\" is not allowed: a whole number from 1 to 100"
    );
    assert!(
        found[1].starts_with(
            "--parent (or NARROWS_PARENT): api.default.proxies[0]: \"ftp://***@x\" is not allowed"
        ),
        "{found:#?}"
    );
}

#[test]
fn flags_of_the_default_api_beat_the_file_and_the_file_may_say_them_once() {
    let (_folder, path) = file("yaml", "api: {default: {retry: {max_attempts: 5, jitter: 0}}}\n");
    let retry = |args: &[&str]| {
        let args = [&["--config", &path], args].concat();
        serve(&args, &[]).config.apis.swap_remove(0).retry.unwrap()
    };
    assert_eq!((retry(&[]).max_attempts, retry(&[]).jitter), (5, 0.0));
    let found = retry(&["--retry-attempts=2", "--retry-delay=3s"]);
    assert_eq!(
        (found.max_attempts, found.jitter, found.initial_delay),
        (2, 0.0, Duration::from_secs(3))
    );
    assert_eq!(
        told("yaml", "retry_attempts: 2\napi: {default: {retry: {max_attempts: 5}}}\n"),
        [
            "narrows.yaml:1:17: retry_attempts: says the same as api.default.retry.max_attempts at narrows.yaml:2:39; give one"
        ]
    );
    assert_eq!(
        told("yaml", "api: {default: {target_url: 'http://a.test'}}\n"),
        [
            "narrows.yaml:1:29: api.default.target_url: default is the API of forward traffic that no other claims: it has policies alone"
        ]
    );
}

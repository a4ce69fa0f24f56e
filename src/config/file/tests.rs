//! What config files become, and what is said of those that are wrong.

use std::fs;
use std::time::Duration;

use super::reader::READ;
use crate::base::pattern::Pattern;
use crate::config::tests::problems;
use crate::config::tests::serve;
use crate::policy::Cause;
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
                on_exhausted: true}}}";
    let expected = cooldown::Settings {
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
    let text = "api:\n  a:\n    circuit_breaker: {probes: 1}\n    retry: {budget: 1}\n    cool_down: {ramp: 1}\n    \
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

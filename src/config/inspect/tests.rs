//! What is said of files and settings that are only looked at.

use super::example;
use crate::config::Command;
use crate::config::Config;
use crate::config::file::keys;
use crate::config::file::keys::Section;
use crate::config::file::settings;
use crate::config::file::tests::file;
use crate::config::flags;
use crate::config::tests::problems;
use crate::config::tests::read;
use crate::config::tests::serve;

fn said(args: &[&str], env: &[(&str, &str)]) -> String {
    match read(args, env) {
        Ok(Command::Say(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_good_file_is_called_good_in_one_line() {
    let (_folder, path) = file("yaml", "max_connections: 5\napi: {b: {}, a: {}}\n");
    assert_eq!(said(&["check", &path], &[]), format!("{path} is good: 1 setting, 2 APIs (b, a)"));
    assert!(
        said(&["--set", "api.c.hosts=[c]", "check"], &[("NARROWS_CONFIG", &path)])
            .contains("3 APIs")
    );
    let (_folder, path) = file("yaml", "api: {a: {cache_force_over: [private]}}\n");
    let text = said(&["check", &path], &[]);
    assert!(text.contains("1 API (a)\nwarning: ") && text.contains("no effect"), "{text}");
}

#[test]
fn a_bad_file_is_told_with_all_that_is_wrong() {
    let (_folder, path) = file("yaml", "a: 1\nmax_connections: x\n");
    assert_eq!(problems(&["check", &path], &[]).len(), 2);
    assert!(problems(&["check"], &[])[0].starts_with("which file?"));
}

#[test]
fn settings_are_shown_with_who_said_them() {
    let text = "max_connections: 5\napi: {a: {target_url: 'http://a.test', circuit_breaker: {request_timeout: 500}}}\n";
    let (folder, path) = file("yaml", text);
    let shown = said(&["--port=1", "config", "--config", &path], &[("NARROWS_QUEUE_SIZE", "7")]);
    let shown = shown.replace(&format!("{}/", folder.path().display()), "");
    for line in [
        "max_connections: 5  # narrows.yaml:1:18",
        "port: 1  # --port",
        "queue_size: 7  # NARROWS_QUEUE_SIZE",
        "queue_timeout: 0s  # default",
        "threads:  # default: one per CPU",
        "    target_url: http://a.test  # narrows.yaml:2:23",
        "    hosts: [a.test:80]  # default, of target_url",
        "    request_timeout: 500  # narrows.yaml:2:75",
        "      failure_threshold: 5  # default",
        "    retry: false  # default",
    ] {
        assert!(shown.lines().any(|found| found == line), "{line}: {shown}");
    }
    let json = said(&["config", "--json", "--config", &path], &[]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["max_connections"]["value"], 5);
    assert_eq!(json["api"]["a"]["circuit_breaker"]["reset_timeout"]["value"], 30);
    assert_eq!(json["port"]["from"], "default");
}

#[test]
fn no_secret_is_shown() {
    let text = "api:\n  a:\n    target_url: http://a.test\n    headers: {X-Key: sesame1, Accept: text/plain, Pragma: '${KEY}'}\n    \
                use_proxy: true\n    proxies: ['http://u:sesame2@p.test', {url: 'http://u:${KEY}@q.test', weight: 2}]\n  \
                b: {use_proxy: true, keys: {list: ['x ${LONG_KEY}']}, jwt: {secret: 'sesame-sesame-sesame-sesame-sesame'}}\nredis_url: 'redis://:sesame3@127.0.0.1'\n";
    let (_folder, path) = file("yaml", text);
    let env = [
        ("KEY", "sesame4"),
        ("LONG_KEY", "sesame-sesame-sesame"),
        ("PROXY_URLS", "http://u:sesame5@r.test"),
        ("NARROWS_ADMIN_TOKEN", "sesame6"),
    ];
    for args in [&["config", "--config", &*path][..], &["config", "--json", "--config", &path]] {
        let args =
            [args, &["--parent=http://u:sesame7@s.test", "--set", "api.c.headers.X-Key=sesame8"]]
                .concat();
        let shown = said(&args, &env);
        assert!(!shown.contains("sesame"), "{shown}");
        for part in [
            "(secret)",
            "text/plain",
            "http://***@p.test",
            "http://***@q.test",
            "http://r.test:80",
            "http://***@s.test",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}

#[test]
fn what_is_shown_is_a_config_file_itself() {
    let text = "limits: {default: 5, hosts: {a.test: 2}}\napi:\n  a: {target_url: 'http://a.test', retry: true, rewrite: {/v1: '/'}, \
                forward_headers: [X-A], headers: {Accept: 'a, b'}, validate_json: 64KiB}\n  default: {retry: {max_attempts: 2}}\n";
    let (_folder, path) = file("yaml", text);
    let shown = said(&["config", "--config", &path, "--via=x"], &[]);
    let shown: Vec<&str> =
        shown.lines().filter(|line| !line.starts_with("tls_client_auth")).collect();
    let (_other, again) = file("yaml", &shown.join("\n"));
    let first = serve(&["--config", &path, "--via=x"], &[]).config;
    let second = serve(&["--config", &again], &[]).config;
    assert_eq!(format!("{first:#?}"), format!("{second:#?}"));
}

#[test]
fn the_schema_has_every_key_and_no_other() {
    let schema: serde_json::Value =
        serde_json::from_str(&said(&["config", "--schema"], &[])).unwrap();
    let top = schema["properties"].as_object().unwrap();
    for setting in flags::ALL.iter().filter(|setting| settings::may_stand(setting)) {
        assert!(top.contains_key(&settings::key_of(setting)), "{}", setting.name);
    }
    let api = &top["api"]["additionalProperties"]["properties"];
    for key in Section::Api.keys() {
        let found = &api[key.name];
        assert_eq!(found["description"], key.help, "{}", key.name);
    }
    let retry = &api["retry"]["anyOf"][1]["anyOf"][1]["properties"];
    assert_eq!(retry["max_attempts"]["default"], 3);
    assert_eq!(retry["retry_on_status"]["default"], serde_json::json!([500, 502, 503, 504, 429]));
    assert_eq!(retry.as_object().unwrap().len(), Section::Retry.keys().count());
}

#[test]
fn the_example_file_is_what_the_tables_say_and_is_good() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/narrows.example.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        text == example::text(),
        "put what `narrows config --example` prints into narrows.example.yaml"
    );
    let said = said(&["check", path], &[]);
    assert!(said.ends_with("2 APIs (default, hyperliquid)"), "{said}");
    for key in keys::ALL {
        assert!(text.contains(&format!("{}:", key.name)), "{}", key.name);
    }
    for setting in flags::ALL.iter().filter(|setting| settings::may_stand(setting)) {
        assert!(text.contains(&format!("#{}:", settings::key_of(setting))), "{}", setting.name);
    }
}

#[test]
fn the_defaults_that_the_example_shows_are_those_of_the_code() {
    let text = example::written(false);
    // To say whose certificates are asked for needs their authority.
    let text = text.replace("\ntls_client_auth: required\n", "\n");
    // Without a key there are no tokens.
    let secret = "0123456789abcdef0123456789abcdef";
    let text = text.replace("\n      secret:\n", &format!("\n      secret: {secret}\n"));
    // Instead of what is there to be tried.
    let (head, _) = text.split_once("limits:\n").unwrap();
    let (_, keys) = text.split_once("  every_key:\n").unwrap();
    let (_folder, path) = file("yaml", &format!("{head}\napi:\n  every_key:\n{keys}"));
    let said = serve(&["--config", &path, "--via=x"], &[]).config;

    let parts = "circuit_breaker: {}, retry: {}, cool_down: {}, keys: {list: []}, jwt: {secret: 0123456789abcdef0123456789abcdef}, quota: {}, hosts: []";
    let (_other, path) = file("yaml", &format!("api: {{every_key: {{{parts}}}}}"));
    let unsaid = serve(&["--config", &path, "--via=x"], &[]).config;
    assert_eq!(format!("{:#?}", said.apis), format!("{:#?}", unsaid.apis));
    let settings =
        |config: &Config| format!("{:#?}", Config { apis: Vec::new(), ..config.clone() });
    assert_eq!(settings(&said), settings(&unsaid));
}

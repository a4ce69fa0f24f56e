//! Every answer of our own, beside the tables that tell of it.

use super::*;
use crate::base::authority::HostKey;
use crate::base::framing::Malformed;
use crate::policy::access::entrance::TokenFlaw;

fn policy(rule: Rule) -> Reject {
    Reject::Policy(Refusal { rule, left: Duration::from_millis(1500) })
}

fn refused(reason: Reason) -> Reject {
    let host = HostKey::parse("api.example.com").unwrap();
    let waited = Duration::from_millis(1500);
    let identity = None;
    let refused = Refused { host, reason, in_use: 25, limit: 25, waited, identity };
    Reject::Send(SendError::Dial(DialError::Refused(refused)))
}

fn unproven(why: Unproven, at_gateway: bool) -> Reject {
    let header = Some(HeaderName::from_static("x-api-key"));
    let asks = Asks { api: "orders".into(), header, takes_tokens: false, at_gateway };
    Reject::Unproven { why, asks }
}

/// Every cause beside the status and the word of the table above.
fn table() -> Vec<(Reject, u16, &'static str)> {
    let dial = |error: DialError| Reject::Send(SendError::Dial(error));
    let exchange = |error: ExchangeError| Reject::Send(SendError::Exchange(error));
    let second = Duration::from_secs(1);
    let connect = |kind: io::ErrorKind| DialError::Connect {
        address: "127.0.0.1:1".parse().unwrap(),
        source: kind.into(),
    };
    vec![
        (
            Reject::BadTarget { target: "h".to_owned(), why: BadAuthority::NoPort },
            400,
            "http_request_error",
        ),
        (Reject::Denied(Denied::Busy), 503, "proxy_internal_error"),
        (Reject::Denied(Denied::Certificate), 403, "http_request_denied"),
        (Reject::Denied(Denied::Credentials), 407, "http_request_error"),
        (Reject::Denied(Denied::Network), 403, "http_request_denied"),
        (Reject::BadScheme, 400, "http_request_error"),
        (Reject::ClearText, 400, "http_request_error"),
        (Reject::Full(Full::Clients), 503, "proxy_internal_response"),
        (Reject::Full(Full::Files), 503, "proxy_internal_response"),
        (Reject::Full(Full::OfAddress), 429, "http_request_error"),
        (Reject::Flaw(Flaw::Tls), 400, "http_request_error"),
        (Reject::Flaw(Malformed::Control.into()), 400, "http_request_error"),
        (Reject::Flaw(Flaw::Timeout), 408, "http_request_error"),
        (Reject::Flaw(Flaw::TooLarge), 431, "http_request_error"),
        (Reject::Flaw(Flaw::LongLine), 414, "http_request_error"),
        (Reject::Flaw(Flaw::ManyFields), 431, "http_request_error"),
        (Reject::Flaw(Flaw::TransferCoding), 501, "http_request_error"),
        (Reject::Flaw(Flaw::Version), 505, "http_request_error"),
        (Reject::Expectation, 417, "http_request_error"),
        (Reject::ForeignProxy, 502, "http_protocol_error"),
        (Reject::Interim, 502, "http_protocol_error"),
        (Reject::Loop, 502, "proxy_loop_detected"),
        (Reject::MaxForwards, 400, "http_request_error"),
        (Reject::Json("x".to_owned()), 400, "http_request_error"),
        (Reject::LeavesApi, 400, "http_request_error"),
        (Reject::LongBody(1), 413, "http_request_error"),
        (Reject::Method("GET".to_owned()), 405, "http_request_error"),
        (Reject::Misdirected, 421, "http_request_error"),
        (Reject::NoBody, 400, "http_request_error"),
        (Reject::SlowBody, 408, "http_request_error"),
        (Reject::Stranger, 401, "http_request_error"),
        (Reject::UnknownApi("x".to_owned()), 404, "destination_not_found"),
        (Reject::NotListed, 403, "http_request_denied"),
        (unproven(Unproven::Nothing, true), 401, "http_request_error"),
        (unproven(Unproven::Nothing, false), 407, "http_request_error"),
        (unproven(Unproven::Unknown, true), 401, "http_request_error"),
        (unproven(Unproven::Expired, true), 401, "http_request_error"),
        (unproven(Unproven::NotYet, false), 407, "http_request_error"),
        (unproven(Unproven::Unclear, true), 400, "http_request_error"),
        (unproven(Unproven::Scope, true), 403, "http_request_denied"),
        (unproven(Unproven::Token(TokenFlaw::Signature), true), 401, "http_request_error"),
        (unproven(Unproven::Token(TokenFlaw::Audience), false), 407, "http_request_error"),
        (unproven(Unproven::Token(TokenFlaw::Scope), false), 403, "http_request_denied"),
        (unproven(Unproven::Token(TokenFlaw::Busy), true), 429, "http_request_error"),
        (unproven(Unproven::Token(TokenFlaw::Keys), true), 503, "proxy_internal_error"),
        (Reject::NotCached, 504, "http_request_error"),
        (Reject::Collapsed(Cause::Dns), 502, "dns_error"),
        (Reject::Collapsed(Cause::Refused), 502, "connection_refused"),
        (Reject::Collapsed(Cause::Reset), 502, "connection_terminated"),
        (Reject::Collapsed(Cause::Timeout), 504, "http_response_timeout"),
        (Reject::Collapsed(Cause::Tls), 502, "tls_protocol_error"),
        (Reject::NotForProxy, 404, "destination_not_found"),
        (policy(Rule::Breaker), 503, "destination_unavailable"),
        (policy(Rule::CoolDown(429)), 429, "destination_unavailable"),
        (policy(Rule::Parents), 503, "destination_unavailable"),
        (policy(Rule::Quota(Duration::from_mins(1))), 429, "http_request_error"),
        (policy(Rule::QuotaAway(503)), 503, "proxy_internal_error"),
        (policy(Rule::QuotaAway(500)), 500, "proxy_internal_error"),
        (refused(Reason::Full), 503, "connection_limit_reached"),
        (refused(Reason::TimedOut), 503, "connection_limit_reached"),
        (refused(Reason::QueueFull), 503, "connection_limit_reached"),
        (refused(Reason::Away), 503, "proxy_internal_error"),
        (dial(ResolveError::Failed("x".to_owned()).into()), 502, "dns_error"),
        (dial(ResolveError::TimedOut(second).into()), 504, "dns_timeout"),
        (dial(egress::Denied::Address.into()), 502, "destination_ip_prohibited"),
        (dial(egress::Denied::Host.into()), 403, "http_request_denied"),
        (dial(egress::Denied::Loop.into()), 502, "proxy_loop_detected"),
        (dial(egress::Denied::Port.into()), 403, "http_request_denied"),
        (dial(connect(io::ErrorKind::ConnectionRefused)), 502, "connection_refused"),
        (dial(connect(io::ErrorKind::HostUnreachable)), 502, "destination_ip_unroutable"),
        (dial(DialError::TimedOut(second)), 504, "connection_timeout"),
        (dial(TlsError::Certificate("x".to_owned()).into()), 502, "tls_certificate_error"),
        (dial(TlsError::Protocol("x".to_owned()).into()), 502, "tls_protocol_error"),
        (exchange(ExchangeError::Closed), 502, "connection_terminated"),
        (exchange(screen::Fault::Incomplete.into()), 502, "http_response_incomplete"),
        (exchange(screen::Fault::HeadSize.into()), 502, "http_response_header_section_size"),
        (exchange(screen::Fault::Fields.into()), 502, "http_response_header_section_size"),
        (exchange(screen::Fault::Coding.into()), 502, "http_response_transfer_coding"),
        (exchange(screen::Fault::Chunk.into()), 502, "http_response_transfer_coding"),
        (exchange(screen::Fault::Trailers.into()), 502, "http_response_trailer_section_size"),
        (exchange(screen::Fault::Switch.into()), 502, "http_protocol_error"),
        (exchange(screen::Fault::LengthAndCoding.into()), 502, "http_protocol_error"),
        (exchange(ExchangeError::Upgrade), 502, "http_upgrade_failed"),
        (dial(DialError::TlsTimedOut(second)), 504, "connection_timeout"),
        (dial(ParentError::Closed.into()), 502, "connection_terminated"),
        (dial(ParentError::Fault(screen::Fault::NotHttp).into()), 502, "http_protocol_error"),
        (dial(ParentError::Status(403).into()), 502, "destination_unavailable"),
        (dial(ParentError::Status(407).into()), 502, "proxy_configuration_error"),
        (dial(ParentError::Status(504).into()), 504, "connection_timeout"),
        (dial(ParentError::TimedOut(second).into()), 504, "connection_timeout"),
        (exchange(ExchangeError::Malformed("x".to_owned())), 502, "http_protocol_error"),
        (exchange(ExchangeError::TimedOut(second)), 504, "http_response_timeout"),
    ]
}

#[test]
fn every_answer_has_its_status_word_and_body() {
    for (reject, status, word) in table() {
        let answer = reject.answer(503);
        assert_eq!((answer.status.as_u16(), answer.error), (status, word), "{reject:?}");
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(
            (body["status"].as_u64(), body["error"].as_str()),
            (Some(status.into()), Some(word))
        );
        assert!(!body["detail"].as_str().unwrap().is_empty());
        let bytes = String::from_utf8(answer.bytes()).unwrap();
        assert!(bytes.contains(&format!("Proxy-Status: narrows; error={word}\r\n")));
    }
}

#[test]
fn who_shows_no_key_is_told_what_would_help_as_rfc_6750_says() {
    let asked = |why: Unproven, at_gateway: bool| {
        let answer = unproven(why, at_gateway).answer(503);
        let fields = answer.fields().filter(|(name, _)| name.ends_with("Authenticate"));
        fields.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
    };
    assert_eq!(
        asked(Unproven::Nothing, true),
        [
            r#"WWW-Authenticate: ApiKey realm="orders", header="x-api-key""#,
            r#"WWW-Authenticate: Bearer realm="orders""#,
        ]
    );
    assert_eq!(
        asked(Unproven::Expired, false),
        [
            r#"Proxy-Authenticate: Basic realm="orders""#,
            r#"Proxy-Authenticate: Bearer realm="orders", error="invalid_token", error_description="the key has expired""#,
        ]
    );
    assert!(asked(Unproven::Scope, true)[1].contains(r#"error="insufficient_scope""#));
    assert!(asked(Unproven::Unclear, true)[1].contains(r#"error="invalid_request""#));
}

/// The rows of a table in Markdown: statuses and words.
fn rows(text: &str) -> Vec<(Vec<u16>, Vec<String>)> {
    let begins = |line: &&str| !line.starts_with("| cause | status |");
    let lines = text.lines().map(|line| line.trim_start_matches("//! "));
    let table = lines.skip_while(begins).skip(2).take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').collect();
        let words = |text: &str, is_part: fn(char) -> bool| {
            let parts = text.split(move |letter| !is_part(letter));
            parts.filter(|part| part.len() > 2).map(str::to_owned).collect::<Vec<_>>()
        };
        let statuses = words(cells[2], |letter| letter.is_ascii_digit());
        let statuses = statuses.iter().map(|text| text.parse().unwrap()).collect();
        (statuses, words(cells[3], |letter| letter.is_ascii_lowercase() || letter == '_'))
    };
    table.map(row).collect()
}

#[test]
fn the_tables_tell_every_answer_and_no_other() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let answers = table().into_iter().map(|(_, status, word)| (status, word.to_owned()));
    let answers: std::collections::BTreeSet<(u16, String)> = answers.collect();
    for (name, text) in [("README", readme.as_str()), ("this file", include_str!("mod.rs"))] {
        let rows = rows(text);
        assert!(rows.len() > 10, "{name} has a table");
        for (status, word) in &answers {
            let tells =
                |row: &(Vec<u16>, Vec<String>)| row.0.contains(status) && row.1.contains(word);
            assert!(rows.iter().any(tells), "{name} does not tell of {status} {word}");
        }
        for (statuses, words) in rows {
            for status in &statuses {
                let met = words.iter().any(|word| answers.contains(&(*status, word.clone())));
                assert!(met, "{name}: no answer is {status} {words:?}");
            }
            for word in &words {
                let met = statuses.iter().any(|status| answers.contains(&(*status, word.clone())));
                assert!(met, "{name}: no answer is {statuses:?} {word}");
            }
        }
    }
}

#[test]
fn an_answer_is_the_same_problem_whenever_it_comes() {
    for (reject, _, word) in table() {
        let known = status::error(word).unwrap_or_else(|| panic!("{word} is no error"));
        for details in [false, true] {
            let manner = Manner { refuse_status: 503, explain: true, details };
            let answer = reject.answer(manner);
            let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!((&body["type"], &body["title"]), (&known.link.into(), &known.title.into()));
            assert!(status::tests::is_member(&answer.proxy_status()), "{answer:?}");
            assert_eq!(
                answer.proxy_status().contains("narrows-wait="),
                matches!(reject, Reject::Send(_))
            );
            let retry = answer.retry_after.is_some();
            let helps = matches!(answer.status.as_u16(), 429 | 503);
            assert_eq!(retry, helps, "{reject:?}: time helps, or not");
        }
    }
}

#[test]
fn what_is_inside_is_told_only_where_that_is_asked_for() {
    let secrets = |reject: &Reject, details: bool| {
        let manner = Manner { refuse_status: 503, explain: false, details };
        String::from_utf8(reject.answer(manner).bytes()).unwrap()
    };
    let text = || "inner.corp 10.1.2.3:5".to_owned();
    let connect = |kind: io::ErrorKind| DialError::Connect {
        address: "10.1.2.3:5".parse().unwrap(),
        source: kind.into(),
    };
    for error in [
        SendError::Dial(connect(io::ErrorKind::ConnectionRefused)),
        SendError::Dial(connect(io::ErrorKind::HostUnreachable)),
        SendError::Dial(ResolveError::Failed(text()).into()),
        SendError::Dial(TlsError::Certificate(text()).into()),
        SendError::Dial(TlsError::Protocol(text()).into()),
        SendError::Exchange(ExchangeError::Malformed(text())),
    ] {
        let reject = Reject::Send(error);
        let quiet = secrets(&reject, false);
        assert!(!quiet.contains("10.1.2.3") && !quiet.contains("corp"), "{quiet}");
        let told = secrets(&reject, true);
        assert!(told.matches("10.1.2.3").count() == 2, "in field and body: {told}");
    }
    for target in ["user:sesame@h", "http://user:sesame@h/", "http://u@h/?key=sesame"] {
        let reject = Reject::BadTarget { target: target.to_owned(), why: BadAuthority::Userinfo };
        let told = secrets(&reject, true);
        assert!(!told.contains("sesame"), "{told}");
    }
}

#[test]
fn a_refusal_tells_the_cap_in_its_reason_phrase() {
    let full = refused(Reason::Full).answer(503);
    assert_eq!(
        (full.phrase.as_str(), full.retry_after),
        ("host limit 25/25 api.example.com", Some(1))
    );
    let waited = refused(Reason::TimedOut).answer(500);
    assert_eq!(
        (waited.status.as_u16(), waited.phrase.as_str()),
        (500, "host limit 25/25 api.example.com waited 1.5s")
    );
}

#[test]
fn only_who_lacks_a_password_is_asked_for_one() {
    for (reject, status, _) in table() {
        let bytes = String::from_utf8(reject.answer(503).bytes()).unwrap();
        let challenge = "Basic realm=\"narrows\", charset=\"UTF-8\"\r\n";
        if matches!(reject, Reject::Unproven { .. }) {
            assert!(!bytes.contains(challenge), "{reject:?}");
            continue;
        }
        for (name, asking) in [("\r\nProxy-Authenticate: ", 407), ("\r\nWWW-Authenticate: ", 401)] {
            let field = format!("{name}{challenge}");
            assert_eq!(bytes.contains(&field), status == asking, "{reject:?}");
        }
    }
}

#[test]
fn a_refusal_by_what_an_identity_may_have_names_the_host_and_nobody() {
    let Reject::Send(SendError::Dial(DialError::Refused(refused))) = refused(Reason::Full) else {
        panic!("it is a refusal")
    };
    let identity = Some(crate::base::identity::Identity::Name("alice".into()));
    let refused = Refused { identity, ..refused };
    let answer = Reject::Send(SendError::Dial(DialError::Refused(refused))).answer(503);
    assert_eq!(answer.phrase, "identity limit 25/25 api.example.com");
    assert!(!String::from_utf8(answer.bytes()).unwrap().contains("alice"));
}

#[test]
fn what_a_client_wrote_cannot_break_out_of_the_head() {
    let target = "h\r\nx: y".to_owned();
    let answer = Reject::BadTarget { target, why: BadAuthority::Name }.answer(503);
    let bytes = String::from_utf8(answer.bytes()).unwrap();
    assert!(!bytes.contains("\r\nx: y"));
}

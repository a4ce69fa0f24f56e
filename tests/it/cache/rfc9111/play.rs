//! Plays rows: one narrows, all rows at once, each on connections of its own.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use futures_util::future::try_join_all;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Api;
use super::Case;
use super::Expected;
use super::Says;
use super::Step;
use super::origin::Book;
use super::origin::Origins;
use super::origin::Places;
use super::origin::filled;
use super::origin::path;
use crate::support::Head;
use crate::support::Redis;
use crate::support::Wire;
use crate::support::check;
use crate::support::narrows;
use crate::support::soon;
use crate::support::wait_until;

/// Rows that are played at once.
const AT_ONCE: usize = 16;
/// How long something behind an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// By which route clients come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Forward,
    Gateway,
}

/// Where responses are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Memory,
    Redis,
}

/// What is the same for all rows.
#[derive(Debug)]
struct Stage {
    route: Use,
    proxy: SocketAddr,
    origins: Origins,
    book: Arc<Book>,
}

/// What a client got.
#[derive(Debug)]
struct Answer {
    head: Head,
    body: Vec<u8>,
    is_cut: bool,
}

/// Plays all rows, and names each that failed.
pub(super) async fn run(route: Use, tier: Tier, cases: Vec<Case>) {
    let words = std::env::var("RFC9111_CASES").unwrap_or_default();
    let cases: Vec<Case> = cases.into_iter().filter(|case| case.name.contains(&words)).collect();
    // Behind the rows, one to see by whether the tiers are there.
    let first = super::case("", "").origin(super::fresh()).get();
    let origins = Origins::start(&[&cases[..], std::slice::from_ref(&first)].concat()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("narrows.yaml");
    std::fs::write(&file, config(&origins)).unwrap();
    let setup = narrows().flags(format!("--config {} --threads 2", file.display()));
    let (redis, setup) = match tier {
        Tier::Memory => (None, setup),
        Tier::Redis => {
            let redis = Redis::start().await;
            let setup = setup.shared(&redis).flags("--cache-memory 0");
            (Some(redis), setup)
        }
    };
    let proxy = setup.start().await;
    if redis.is_some() {
        proxy.wait_until_up().await;
    }
    let book = origins.book();
    let stage = Arc::new(Stage { route, proxy: proxy.address, origins, book });

    let count = cases.len();
    let places = stage.book.begin(count);
    wait_until("what is kept is found", async || {
        let answer = stage.ask(&first, (&first.steps[0], 0), count, &places).await.unwrap();
        says_part(&answer.head, "hit")
    })
    .await;
    let mut failures = Vec::new();
    let mut waiting = cases.into_iter().enumerate();
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_ONCE {
            let Some((number, case)) = waiting.next() else { break };
            let stage = Arc::clone(&stage);
            running.spawn(async move {
                let name = format!("{} {}", case.section, case.name);
                // A task of its own: a panic is that row's failure.
                let whys = match tokio::spawn(play(stage, number, case)).await {
                    Ok(whys) => whys,
                    Err(error) => vec![error.to_string()],
                };
                (number, name, whys)
            });
        }
        let Some(ended) = running.join_next().await else { break };
        let (number, name, whys) = ended.unwrap();
        if !whys.is_empty() {
            failures.push((number, format!("{name}:\n  {}\n", whys.join("\n  "))));
        }
    }
    failures.sort();
    let mut text = String::new();
    for (_, failure) in &failures {
        text += failure;
    }
    assert!(failures.is_empty(), "of {count} rows these {} failed:\n{text}", failures.len());
    eprintln!("{count} rows");
    drop((proxy, redis));
}

fn config(origins: &Origins) -> String {
    let mut text = "api:\n".to_owned();
    for api in Api::ALL {
        let (name, settings, origin) = (api.name(), api.settings(), origins.address(api));
        let _infallible = writeln!(
            text,
            "  {name}: {{target_url: 'http://{origin}', forward_headers: true, retry: false, \
             circuit_breaker: false, cool_down: false, {settings}}}"
        );
    }
    text
}

/// What was wrong with a row.
async fn play(stage: Arc<Stage>, number: usize, case: Case) -> Vec<String> {
    let mut whys = Vec::new();
    let places = stage.book.begin(number);
    for (at, step) in case.steps.iter().enumerate() {
        assert!(!step.expected.is_empty(), "of request {} nothing is expected", at + 1);
        tokio::time::sleep(step.pause).await;
        let before = stage.book.hits(number);
        let start = Instant::now();
        let wrong = loop {
            let ask = |client| stage.ask(&case, (step, client), number, &places);
            let answers = match try_join_all((0..step.clients).map(ask)).await {
                Ok(answers) => answers,
                Err(error) => break vec![format!("no answer: {error}")],
            };
            // The next request may come before the answer to the one before it is put away: then it
            // shares that. The row is about what comes after.
            let is_early = |answer: &Answer| says_part(&answer.head, "collapsed");
            if step.clients == 1 && answers.iter().any(is_early) && start.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            let mut wrong = Vec::new();
            for expected in &step.expected {
                wrong.extend(judge_all(expected, &answers).err());
                for answer in &answers {
                    let judged = stage.judge(expected, answer, &case, number, before, &places);
                    wrong.extend(judged.await.err());
                }
            }
            if !wrong.is_empty() {
                let asked = stage.book.hits(number) - before;
                wrong.push(format!("asked {asked} times"));
                wrong.extend(answers.iter().map(shown));
            }
            if wrong.is_empty() || !step.is_repeated || start.elapsed() > PATIENCE {
                break wrong;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let request = format!("request {} ({} {:?})", at + 1, step.method, step.fields);
        whys.extend(wrong.into_iter().map(|why| format!("{request}: {why}")));
    }
    whys
}

fn shown(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(100)]);
    let fields = &answer.head.fields;
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    format!("got {:?} [{}] {body:?}", answer.head.start, fields.join(" | "))
}

impl Stage {
    async fn ask(
        &self,
        case: &Case,
        (step, client): (&Step, usize),
        number: usize,
        places: &Places,
    ) -> io::Result<Answer> {
        let api = step.api.unwrap_or(case.api);
        let origin = self.origins.address(api);
        let path = format!("{}{}", path(number), step.path);
        let (target, host) = match self.route {
            Use::Forward => (format!("http://{origin}{path}"), origin.to_string()),
            Use::Gateway => (format!("/api/{}{path}", api.name()), self.proxy.to_string()),
        };
        let mut request = format!("{} {target} HTTP/1.1\r\nHost: {host}\r\n", step.method);
        for field in &step.fields {
            // Which of several clients it is.
            request += &filled(&field.replace("{client}", &client.to_string()), places);
            request += "\r\n";
        }
        if !step.body.is_empty() {
            request += &format!("Content-Length: {}\r\n", step.body.len());
        }
        request += "\r\n";
        request += step.body;

        let stream = soon("a connection", TcpStream::connect(self.proxy)).await?;
        stream.set_nodelay(true)?;
        let mut wire = Wire::new(stream);
        wire.send(request).await?;
        let head = loop {
            let head = soon("a head", wire.head()).await?;
            let head = head.ok_or_else(|| io::Error::other("the connection ended"))?;
            if head.status() >= 200 {
                break head;
            }
        };
        // What the standing check asks of an error of our own is asked of those of the cache too.
        check::head(&head);
        match soon("a body", wire.response_body(step.method, &head)).await {
            Ok((body, _)) => {
                check::body(&head, step.method, &body);
                Ok(Answer { head, body, is_cut: false })
            }
            Err(_) => Ok(Answer { head, body: Vec::new(), is_cut: true }),
        }
    }

    async fn judge(
        &self,
        expected: &Expected,
        answer: &Answer,
        case: &Case,
        number: usize,
        before: usize,
        places: &Places,
    ) -> Result<(), String> {
        let head = &answer.head;
        let joined = |name: &str| head.all(name).join(", ");
        let ensure = |is_so: bool, why: String| if is_so { Ok(()) } else { Err(why) };
        let asked = self.book.hits(number) - before;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        let last = || self.book.last(number).ok_or_else(|| "the origin was never asked".to_owned());
        if answer.is_cut && !matches!(expected, Expected::Cut | Expected::Asked(_)) {
            return Err("the answer was cut short".to_owned());
        }
        match expected {
            Expected::Status(status) => {
                ensure(head.status() == *status, format!("{} is not {status}", head.status()))
            }
            Expected::Asked(times) => {
                ensure(asked == *times, format!("the origin was to be asked {times} times"))
            }
            Expected::AskedAtLeastOnce => ensure(asked > 0, "the origin was not asked".to_owned()),
            Expected::AskedInAll(times) => {
                let start = Instant::now();
                while self.book.hits(number) < *times && start.elapsed() < PATIENCE {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let all = self.book.hits(number);
                ensure(
                    all == *times,
                    format!("the origin was asked {all} times in all, not {times}"),
                )
            }
            Expected::Answer(of) => {
                let says = answer_of(case, *of);
                // A row that expects another status says so.
                let other = |is: &Expected| matches!(is, Expected::Status(_));
                let step = case
                    .steps
                    .iter()
                    .find(|step| step.expected.iter().any(|is| std::ptr::eq(is, expected)));
                let step = step.expect("the step that it is from");
                if !step.expected.iter().any(other) && head.status() != says.status {
                    return Err(format!("{} is not {}", head.status(), says.status));
                }
                let is_bare = step.method == "HEAD" || matches!(head.status(), 204 | 304);
                let wanted = if is_bare { String::new() } else { says.text(*of) };
                ensure(body == wanted, format!("the body is not that of answer {of}"))
            }
            Expected::Body(wanted) => {
                ensure(body == *wanted, format!("the body is not {wanted:?}"))
            }
            Expected::Head(of) => {
                let is = joined("x-origin");
                ensure(is == of.to_string(), format!("the head is not that of answer {of}"))
            }
            Expected::Field(name, value) => {
                let value = filled(value, places);
                let is = joined(name);
                ensure(is == value, format!("{name} is {is:?}, not {value:?}"))
            }
            Expected::Has(name) => ensure(!head.all(name).is_empty(), format!("no {name}")),
            Expected::Lacks(name) => ensure(head.all(name).is_empty(), format!("{name} is there")),
            Expected::Cut => ensure(answer.is_cut, "the answer is not cut short".to_owned()),
            Expected::Age(from, to) => {
                let is = joined("age");
                let is_so = is.parse().is_ok_and(|age: u64| (*from..=*to).contains(&age));
                ensure(is_so, format!("Age is {is:?}, not {from} to {to}"))
            }
            Expected::Says(part) => {
                ensure(says_part(head, part), format!("Cache-Status does not say {part}"))
            }
            Expected::SaysNot(part) => {
                ensure(!says_part(head, part), format!("Cache-Status says {part}"))
            }
            Expected::Sent(name, value) => {
                let value = filled(value, places);
                let is = last()?.head.all(name).join(", ");
                ensure(is == value, format!("the origin was sent {name}: {is:?}, not {value:?}"))
            }
            Expected::SentNo(name) => {
                let all = last()?.head.all(name).join(", ");
                ensure(all.is_empty(), format!("the origin was sent {name}: {all}"))
            }
            Expected::IsHit => {
                ensure(says_part(head, "hit"), "Cache-Status says no hit".to_owned())?;
                ensure(!says_part(head, "fwd"), "a hit that was forwarded".to_owned())?;
                let age = joined("age");
                ensure(age.parse::<u32>().is_ok(), format!("a hit of Age {age:?}"))?;
                let word = joined("x-cache");
                ensure(word == "HIT" || word == "STALE", format!("a hit with X-Cache: {word:?}"))
            }
            Expected::EachItsOwn | Expected::AtMostOnce(_) => Ok(()),
            Expected::IsNoHit => {
                ensure(!says_part(head, "hit"), "Cache-Status says it is a hit".to_owned())?;
                ensure(says_part(head, "fwd"), "Cache-Status does not say why".to_owned())?;
                ensure(joined("x-cache") != "HIT", "X-Cache says it is a hit".to_owned())
            }
        }
    }
}

/// What is expected of several answers together.
fn judge_all(expected: &Expected, answers: &[Answer]) -> Result<(), String> {
    if let Expected::AtMostOnce(name) = expected {
        let have = answers.iter().filter(|answer| !answer.head.all(name).is_empty()).count();
        return if have < 2 { Ok(()) } else { Err(format!("{have} clients got {name}")) };
    }
    if !matches!(expected, Expected::EachItsOwn) {
        return Ok(());
    }
    let numbers: HashSet<_> = answers.iter().map(|answer| answer.head.field("x-origin")).collect();
    let is_so = numbers.len() == answers.len();
    if is_so { Ok(()) } else { Err("two clients got one answer".to_owned()) }
}

/// The origin's answer of this number.
fn answer_of(case: &Case, number: usize) -> &Says {
    &case.says[number.min(case.says.len()) - 1]
}

/// Whether the last member of Cache-Status, which is ours, has a parameter such as `hit` or
/// `fwd=stale` (RFC 9211 §2).
fn says_part(head: &Head, part: &str) -> bool {
    let all = head.all("cache-status").join(", ");
    let ours = all.rsplit(',').next().unwrap_or_default();
    let mut words = ours.split(';').map(str::trim);
    let is_ours = words.next() == Some("narrows");
    is_ours
        && words.any(|word| word == part || word.split('=').next().is_some_and(|name| name == part))
}

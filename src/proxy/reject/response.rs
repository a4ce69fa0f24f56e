//! Answers of our own as hyper and h2 take them.
//!
//! PERF: an open circuit or a cool-down is asked again and again by clients that do not give up, and
//! its answer is to cost hardly more than one that never changes. So the answers of policies are kept
//! for each thread, by what they say, and only their date is put in anew.

use std::cell::RefCell;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;
use hyper::ext::ReasonPhrase;

use super::Answer;
use super::Manner;
use super::Reject;
use crate::base::clock;
use crate::policy::Refusal;
use crate::policy::Rule;

/// Answers that are kept; the oldest goes first.
const KEPT: usize = 16;

/// The answer to a request, and the error's word.
pub(crate) fn respond(reject: &Reject, manner: Manner) -> (Response<Bytes>, &'static str) {
    if let Reject::Policy(refusal) = reject {
        return KEEP.with_borrow_mut(|keep| keep.answer(*refusal));
    }
    let answer = reject.answer(manner);
    let error = answer.error;
    (make(answer), error)
}

fn make(answer: Answer) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = answer.status;
    for (name, value) in answer.fields() {
        if let Ok(value) = HeaderValue::try_from(value) {
            // More than one field may ask for credentials.
            response.headers_mut().append(name, value);
        }
    }
    if let Ok(phrase) = ReasonPhrase::try_from(answer.phrase.into_bytes()) {
        response.extensions_mut().insert(phrase);
    }
    response.map(|_empty| Bytes::from(answer.body))
}

thread_local! {
    static KEEP: RefCell<Keep> = const { RefCell::new(Keep::new()) };
}

/// What was answered of late.
struct Keep {
    answers: Vec<Kept>,
    /// Which is the next to go.
    next: usize,
    second: Duration,
    date: Option<HeaderValue>,
}

struct Kept {
    rule: Rule,
    seconds: u64,
    status: StatusCode,
    error: &'static str,
    /// All but the date.
    fields: HeaderMap,
    phrase: Option<ReasonPhrase>,
    body: Bytes,
}

impl Keep {
    const fn new() -> Self {
        Self { answers: Vec::new(), next: 0, second: Duration::ZERO, date: None }
    }

    fn answer(&mut self, refusal: Refusal) -> (Response<Bytes>, &'static str) {
        let seconds = super::seconds_left(refusal.left);
        let is_it = |kept: &Kept| kept.rule == refusal.rule && kept.seconds == seconds;
        let date = self.date();
        let at = self.answers.iter().position(is_it).unwrap_or_else(|| {
            let kept = Kept::new(refusal, seconds);
            if self.answers.len() < KEPT {
                self.answers.push(kept);
                return self.answers.len() - 1;
            }
            let at = self.next;
            self.next = (at + 1) % KEPT;
            self.answers[at] = kept;
            at
        });
        let kept = &self.answers[at];
        let mut response = Response::new(kept.body.clone());
        *response.status_mut() = kept.status;
        *response.headers_mut() = kept.fields.clone();
        if let Some(date) = date {
            response.headers_mut().insert(header::DATE, date);
        }
        if let Some(phrase) = &kept.phrase {
            response.extensions_mut().insert(phrase.clone());
        }
        (response, kept.error)
    }

    fn date(&mut self) -> Option<HeaderValue> {
        let now = clock::wall();
        let passed = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.date.is_none() || passed.as_secs() != self.second.as_secs() {
            self.second = passed;
            self.date = HeaderValue::try_from(httpdate::fmt_http_date(now)).ok();
        }
        self.date.clone()
    }
}

impl Kept {
    fn new(refusal: Refusal, seconds: u64) -> Self {
        let answer = super::by_policy(refusal);
        let (status, error) = (answer.status, answer.error);
        let mut response = make(answer);
        response.headers_mut().remove(header::DATE);
        let phrase = response.extensions_mut().remove();
        let (parts, body) = response.into_parts();
        Self { rule: refusal.rule, seconds, status, error, fields: parts.headers, phrase, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(rule: Rule, millis: u64) -> (u16, String, String) {
        let reject = Reject::Policy(Refusal { rule, left: Duration::from_millis(millis) });
        let (response, error) = respond(&reject, Manner::from(503));
        let word = match rule {
            Rule::Quota(_) => "http_request_error",
            Rule::QuotaAway(_) => "proxy_internal_error",
            Rule::Access | Rule::Breaker | Rule::CoolDown(_) | Rule::Networks | Rule::Parents => {
                "destination_unavailable"
            }
        };
        assert_eq!(error, word);
        assert!(response.headers().contains_key(header::DATE));
        assert!(response.extensions().get::<ReasonPhrase>().is_some());
        let after = response.headers()[header::RETRY_AFTER].to_str().unwrap().to_owned();
        let body = String::from_utf8(response.body().to_vec()).unwrap();
        (response.status().as_u16(), after, body)
    }

    #[test]
    fn a_kept_answer_is_the_one_that_would_be_made() {
        // More than are kept, twice: each is found or made anew.
        for _ in 0..2 {
            for second in 1..=2 * KEPT as u64 {
                let minute = Rule::Quota(Duration::from_mins(1));
                let hour = Rule::Quota(Duration::from_hours(1));
                for rule in [Rule::Breaker, Rule::CoolDown(429), Rule::Parents, minute, hour] {
                    let left = Duration::from_millis(second * 1000 - 1);
                    let made = crate::proxy::reject::by_policy(Refusal { rule, left });
                    let (status, after, body) = told(rule, second * 1000 - 1);
                    assert_eq!((status, &after), (made.status.as_u16(), &second.to_string()));
                    assert_eq!(body, made.body);
                }
            }
        }
    }

    #[test]
    fn the_seconds_left_are_rounded_up_and_never_none() {
        assert_eq!(told(Rule::Breaker, 0).1, "1");
        assert_eq!(told(Rule::Breaker, 1001).1, "2");
        assert!(told(Rule::Breaker, 1001).2.contains("try again in 2 seconds"));
    }
}

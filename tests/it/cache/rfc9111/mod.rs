//! RFC 9111 as a table of cases, one row each: what the origin says, what clients ask, and who answers.
//!
//! Each row is run in four ways: by the tier in memory or by Redis alone, as a forward proxy or by the
//! gateway's path. Whether the cache answered is judged by what the origin was asked, never by what
//! narrows says of it; that both agree is part of each row. Time is moved by what the origin says of it
//! (`Age`, `Date`), and not waited for, but where a row is about time that passes.
//!
//! To add one: `case(section, name)` in the file of its topic, with the origin's answers, the
//! requests, and behind each of those what must come of it; and its name in `docs/rfc9111.md`, which
//! [`document`] holds to these rows. `RFC9111_CASES=words cargo test rfc9111` runs those rows alone that
//! have these words in their names.

mod control;
mod document;
mod freshness;
mod invalidation;
mod messages;
mod origin;
mod play;
mod ranges;
mod requests;
mod serving;
mod settings;
mod stale;
mod status;
mod storing;
mod validation;
mod vary;

use std::time::Duration;

use self::origin::Says;
use self::play::Tier;
use self::play::Use;

/// One row.
#[derive(Clone, Debug)]
struct Case {
    section: &'static str,
    name: &'static str,
    api: Api,
    /// In the order of the requests that reach the origin; the last one again and again.
    says: Vec<Says>,
    steps: Vec<Step>,
}

/// The settings that a row is about, each an API with an origin of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    /// As it is where nothing but `enable_cache` is said: what has no lifetime is fresh for a minute.
    Plain,
    /// Nothing is kept to which the origin gives no lifetime.
    NoTtl,
    /// The lifetime is the operator's.
    Forced,
    /// The same, over whatever the origin says.
    ForcedOver,
    /// 404 and 503 are kept.
    Negative,
    /// Answers to POST are kept.
    Post,
    /// What is stale is served, where the origin does not say.
    Stale,
    /// `X-Key` makes a request another.
    Listed,
    /// All fields make a request another.
    AllFields,
    /// Bodies of up to 1 KiB are kept.
    Small,
    /// There is no cache.
    Off,
}

/// One request, and what must come of it.
#[derive(Clone, Debug)]
struct Step {
    method: &'static str,
    /// Behind the path that is the row's own.
    path: &'static str,
    api: Option<Api>,
    fields: Vec<&'static str>,
    body: &'static str,
    /// Before it is sent.
    pause: Duration,
    /// It is sent again until all is as expected.
    is_repeated: bool,
    /// So many clients send it at once.
    clients: usize,
    expected: Vec<Expected>,
}

#[derive(Clone, Debug)]
enum Expected {
    Status(u16),
    /// The origin was asked so often for it.
    Asked(usize),
    AskedAtLeastOnce,
    /// The origin was, or will soon have been, asked so often in all.
    AskedInAll(usize),
    /// The body of the origin's answer of this number; none where the request or the status has none.
    Answer(usize),
    Body(&'static str),
    /// The fields of the origin's answer of this number, however it was validated since.
    Head(usize),
    Field(&'static str, &'static str),
    Has(&'static str),
    Lacks(&'static str),
    /// The answer was cut short.
    Cut,
    Age(u64, u64),
    /// `Cache-Status` says so of our part: a parameter that is there, or has this value.
    Says(&'static str),
    SaysNot(&'static str),
    /// The last request at the origin had this field, with this value, or had it not.
    Sent(&'static str, &'static str),
    SentNo(&'static str),
    /// It carries all that an answer from the cache has to.
    IsHit,
    /// It does not look as if it came from the cache.
    IsNoHit,
    /// Each of several clients got an answer that no other got.
    EachItsOwn,
    /// At most one of several clients got this field.
    AtMostOnce(&'static str),
}

impl Api {
    const ALL: [Api; 11] = [
        Api::Plain,
        Api::NoTtl,
        Api::Forced,
        Api::ForcedOver,
        Api::Negative,
        Api::Post,
        Api::Stale,
        Api::Listed,
        Api::AllFields,
        Api::Small,
        Api::Off,
    ];

    fn name(self) -> &'static str {
        match self {
            Api::Plain => "plain",
            Api::NoTtl => "nottl",
            Api::Forced => "forced",
            Api::ForcedOver => "over",
            Api::Negative => "negative",
            Api::Post => "post",
            Api::Stale => "stale",
            Api::Listed => "listed",
            Api::AllFields => "all",
            Api::Small => "small",
            Api::Off => "off",
        }
    }

    /// Its part of the config file.
    fn settings(self) -> &'static str {
        match self {
            Api::Plain => "enable_cache: true",
            Api::NoTtl => "enable_cache: true, cache_ttl: 0",
            Api::Forced => "enable_cache: true, cache_force: true",
            Api::ForcedOver => {
                "enable_cache: true, cache_force: true, \
                 cache_force_over: [no-store, private, authorization, set-cookie]"
            }
            Api::Negative => "enable_cache: true, cache_negative: {404: 60, 503: 60}",
            Api::Post => "enable_cache: true, cache_post: true",
            Api::Stale => {
                "enable_cache: true, cache_stale_while_revalidate: 0, cache_stale_if_error: 1000"
            }
            Api::Listed => {
                "enable_cache: true, cache_header_strategy: listed, cache_headers: [X-Key]"
            }
            Api::AllFields => "enable_cache: true, cache_header_strategy: all",
            Api::Small => "enable_cache: true, cache_max_object: 1KiB",
            Api::Off => "enable_cache: false",
        }
    }
}

fn case(section: &'static str, name: &'static str) -> Case {
    Case { section, name, api: Api::Plain, says: Vec::new(), steps: Vec::new() }
}

fn says(status: u16) -> Says {
    Says::new(status)
}

/// An answer that is fresh for a hundred seconds.
fn fresh() -> Says {
    says(200).with("Cache-Control: max-age=100")
}

/// An answer that came stale, with a validator by which it can be used again.
fn old() -> Says {
    says(200).with("Cache-Control: max-age=100").with("Age: 150").with("ETag: \"a\"")
}

impl Case {
    fn api(mut self, api: Api) -> Case {
        self.api = api;
        self
    }

    /// The origin's next answer.
    fn origin(mut self, says: Says) -> Case {
        self.says.push(says);
        self
    }

    fn ask(mut self, method: &'static str) -> Case {
        self.steps.push(Step {
            method,
            path: "",
            api: None,
            fields: Vec::new(),
            body: "",
            pause: Duration::ZERO,
            is_repeated: false,
            clients: 1,
            expected: Vec::new(),
        });
        self
    }

    fn get(self) -> Case {
        self.ask("GET")
    }

    fn head(self) -> Case {
        self.ask("HEAD")
    }

    fn step(&mut self) -> &mut Step {
        self.steps.last_mut().expect("a request before what is said of it")
    }

    /// The last request is for another path of the row's own.
    fn at(mut self, path: &'static str) -> Case {
        self.step().path = path;
        self
    }

    /// It goes to another API than the row's.
    fn by(mut self, api: Api) -> Case {
        self.step().api = Some(api);
        self
    }

    fn with(mut self, field: &'static str) -> Case {
        self.step().fields.push(field);
        self
    }

    fn body(mut self, body: &'static str) -> Case {
        self.step().body = body;
        self
    }

    /// It is sent so many milliseconds later.
    fn after(mut self, milliseconds: u64) -> Case {
        self.step().pause = Duration::from_millis(milliseconds);
        self
    }

    /// It is sent again until it is as expected: something was going on behind it.
    fn soon(mut self) -> Case {
        self.step().is_repeated = true;
        self
    }

    /// So many clients send it at once.
    fn clients(mut self, clients: usize) -> Case {
        self.step().clients = clients;
        self
    }

    fn each_its_own(self) -> Case {
        self.expect(Expected::EachItsOwn)
    }

    fn expect(mut self, expected: Expected) -> Case {
        self.step().expected.push(expected);
        self
    }

    /// It went to the origin, whose answer this is.
    fn fetched(self, answer: usize) -> Case {
        self.asked(1).expect(Expected::Answer(answer)).expect(Expected::Head(answer)).no_hit()
    }

    /// It did not, and the answer is this one of the origin's from before.
    fn kept(self, answer: usize) -> Case {
        self.asked(0).expect(Expected::Answer(answer)).expect(Expected::IsHit)
    }

    /// The origin was asked whether this answer of its still holds, and it does.
    fn validated(self, answer: usize) -> Case {
        self.asked(1).expect(Expected::Answer(answer)).no_hit().says("fwd-status=304")
    }

    /// The origin was asked, to no avail, and this answer of its serves all the same.
    fn stale(self, answer: usize) -> Case {
        self.expect(Expected::AskedAtLeastOnce).expect(Expected::Answer(answer)).no_hit()
    }

    /// The client has it already, says the cache.
    fn unchanged(self) -> Case {
        self.asked(0).status(304).body_is("").expect(Expected::IsHit)
    }

    fn no_hit(self) -> Case {
        self.expect(Expected::IsNoHit)
    }

    fn status(self, status: u16) -> Case {
        self.expect(Expected::Status(status))
    }

    fn asked(self, times: usize) -> Case {
        self.expect(Expected::Asked(times))
    }

    fn asked_in_all(self, times: usize) -> Case {
        self.expect(Expected::AskedInAll(times))
    }

    fn answer(self, answer: usize) -> Case {
        self.expect(Expected::Answer(answer))
    }

    fn body_is(self, body: &'static str) -> Case {
        self.expect(Expected::Body(body))
    }

    fn field(self, name: &'static str, value: &'static str) -> Case {
        self.expect(Expected::Field(name, value))
    }

    fn has(self, name: &'static str) -> Case {
        self.expect(Expected::Has(name))
    }

    fn lacks(self, name: &'static str) -> Case {
        self.expect(Expected::Lacks(name))
    }

    /// Seconds, from and to.
    fn age(self, least: u64, most: u64) -> Case {
        self.expect(Expected::Age(least, most))
    }

    fn cut(self) -> Case {
        self.expect(Expected::Cut)
    }

    fn says(self, part: &'static str) -> Case {
        self.expect(Expected::Says(part))
    }

    fn says_not(self, part: &'static str) -> Case {
        self.expect(Expected::SaysNot(part))
    }

    fn sent(self, name: &'static str, value: &'static str) -> Case {
        self.expect(Expected::Sent(name, value))
    }

    fn sent_no(self, name: &'static str) -> Case {
        self.expect(Expected::SentNo(name))
    }
}

/// All rows, in the order of their files.
fn all() -> Vec<Case> {
    [
        storing::cases(),
        control::cases(),
        serving::cases(),
        vary::cases(),
        freshness::cases(),
        requests::cases(),
        validation::cases(),
        ranges::cases(),
        invalidation::cases(),
        stale::cases(),
        status::cases(),
        messages::cases(),
        settings::cases(),
    ]
    .concat()
}

#[tokio::test]
async fn rfc_9111_holds_in_forward_use_by_memory() {
    play::run(Use::Forward, Tier::Memory, all()).await;
}

#[tokio::test]
async fn rfc_9111_holds_in_forward_use_by_redis() {
    play::run(Use::Forward, Tier::Redis, all()).await;
}

#[tokio::test]
async fn rfc_9111_holds_in_gateway_use_by_memory() {
    play::run(Use::Gateway, Tier::Memory, all()).await;
}

#[tokio::test]
async fn rfc_9111_holds_in_gateway_use_by_redis() {
    play::run(Use::Gateway, Tier::Redis, all()).await;
}

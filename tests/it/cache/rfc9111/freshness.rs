//! How long an answer is fresh, and how old it is (RFC 9111 §4.2, §5.1, §5.3).

use super::Api;
use super::Case;
use super::Says;
use super::case;
use super::fresh;
use super::says;

/// It is served again without asking, or is not.
fn row(section: &'static str, name: &'static str, says: Says, is_fresh: bool) -> Case {
    let case = case(section, name).origin(says).get().fetched(1).get();
    if is_fresh { case.kept(1) } else { case.asked(1).answer(2).no_hit() }
}

pub(super) fn cases() -> Vec<Case> {
    let expires = |field| says(200).with(field);
    let max_age = |field| says(200).with("Cache-Control: max-age=100").with(field);
    let age = "RFC 9111 §5.1";
    vec![
        row("RFC 9111 §5.3", "Expires gives a lifetime", expires("Expires: {now+100}"), true),
        row(
            "RFC 9111 §5.3",
            "an Expires that is past gives none",
            expires("Expires: {now-100}"),
            false,
        ),
        row("RFC 9111 §5.3", "an Expires of 0 gives none", expires("Expires: 0"), false),
        row(
            "RFC 9111 §5.3",
            "an Expires that is no date gives none",
            expires("Expires: tomorrow"),
            false,
        ),
        row("RFC 9111 §5.3", "an empty Expires gives none", expires("Expires:"), false),
        row(
            "RFC 9111 §5.3",
            "an Expires in the form of RFC 850 gives a lifetime",
            expires("Expires: {rfc850+100}"),
            true,
        ),
        row(
            "RFC 9111 §5.3",
            "an Expires in the form of asctime gives a lifetime",
            expires("Expires: {asctime+100}"),
            true,
        ),
        row(
            "RFC 9111 §5.3",
            "an Expires in the form of RFC 850 that is past gives none",
            expires("Expires: {rfc850-100}"),
            false,
        ),
        row(
            "RFC 9111 §5.3",
            "max-age beats an Expires that is past",
            max_age("Expires: {now-100}"),
            true,
        ),
        row(
            "RFC 9111 §5.3",
            "max-age=0 beats an Expires that is not",
            says(200).with("Cache-Control: max-age=0").with("Expires: {now+100}"),
            false,
        ),
        row(
            "RFC 9111 §5.3",
            "max-age beats an Expires that is no date",
            max_age("Expires: 0"),
            true,
        ),
        row(
            "RFC 9111 §4.2.1",
            "of two Expires that are past none counts",
            expires("Expires: {now-100}").with("Expires: {now-50}"),
            false,
        ),
        row(
            "RFC 9111 §4.2.1",
            "Expires counts from Date, and the time since Date is age",
            expires("Expires: {now-900}").with("Date: {now-1000}"),
            false,
        ),
        row(
            "RFC 9111 §4.2.1",
            "a clock of the origin that is ahead changes no lifetime",
            expires("Expires: {now+1100}").with("Date: {now+1000}"),
            true,
        ),
        row(
            "RFC 9111 §4.2.1",
            "an Expires that is Date gives no lifetime, though its clock is ahead",
            expires("Expires: {now+1000}").with("Date: {now+1000}"),
            false,
        ),
        row(
            "RFC 9110 §6.6.1",
            "without Date it is of when it came",
            says(200).with("Cache-Control: max-age=100").undated(),
            true,
        ),
        row(
            "RFC 9110 §6.6.1",
            "Expires counts without Date too",
            expires("Expires: {now+100}").undated(),
            true,
        ),
        row("RFC 9110 §6.6.1", "a Date that is none is as none", max_age("Date: yesterday"), true),
        row(
            "RFC 9111 §4.2.3",
            "Age brings an answer nearer to its end",
            max_age("Age: 150"),
            false,
        ),
        row(
            "RFC 9111 §4.2.3",
            "an answer as old as its lifetime is stale",
            max_age("Age: 100"),
            false,
        ),
        row(
            "RFC 9111 §4.2.3",
            "an answer younger than its lifetime is fresh",
            max_age("Age: 50"),
            true,
        ),
        row("RFC 9111 §4.2.3", "a Date that is past is age", max_age("Date: {now-150}"), false),
        row(
            "RFC 9111 §4.2.3",
            "a Date that is past a little is a little age",
            max_age("Date: {now-50}"),
            true,
        ),
        row(
            "RFC 9111 §4.2.3",
            "the greater of Age and the time since Date counts: Age",
            max_age("Date: {now-20}").with("Age: 150"),
            false,
        ),
        row(
            "RFC 9111 §4.2.3",
            "the greater of Age and the time since Date counts: Date",
            max_age("Date: {now-150}").with("Age: 20"),
            false,
        ),
        row(
            "RFC 9111 §4.2.3",
            "a Date that is to come is no age",
            max_age("Date: {now+1000}"),
            true,
        ),
        case("RFC 9110 §6.6.1", "what came without Date is told to be of when it came")
            .origin(fresh().undated())
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .has("Date"),
        case("RFC 9111 §4.2.3", "what came with an old Date is told to be so old")
            .origin(max_age("Date: {now-50}"))
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .age(50, 56),
        case("RFC 9111 §4.2.3", "what came with a Date to come has an Age of nothing")
            .origin(max_age("Date: {now+1000}"))
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .age(0, 5),
        case("RFC 9111 §4.2.3", "the greater of Age and the time since Date is told")
            .origin(max_age("Date: {now-20}").with("Age: 60"))
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .age(60, 66),
        case("RFC 9111 §4.2.3", "how long the origin took is age too")
            .origin(fresh().with("Age: 30").slow(1100))
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .age(31, 37),
        row(age, "an Age that is no number is as none", max_age("Age: old"), true),
        row(age, "a negative Age is as none", max_age("Age: -200"), true),
        row(age, "an Age with a fraction is as none", max_age("Age: 150.5"), true),
        row(
            age,
            "an Age too large for any number is a great one",
            max_age("Age: 99999999999999999999"),
            false,
        ),
        row(
            age,
            "of several Ages in a line the first counts: a great one",
            max_age("Age: 150, 0"),
            false,
        ),
        row(
            age,
            "of several Ages in a line the first counts: a small one",
            max_age("Age: 0, 150"),
            true,
        ),
        row(
            age,
            "of several lines of Age the first counts",
            max_age("Age: 150").with("Age: 0"),
            false,
        ),
        row(
            "RFC 9111 §4.2.2",
            "what has no lifetime is kept for as long as the operator says",
            says(200),
            true,
        ),
        row(
            "RFC 9111 §4.2.2",
            "that time begins when it came, however old it was",
            says(200).with("Age: 100"),
            true,
        ),
        row(
            "RFC 9111 §4.2.2",
            "that time begins when it came, whatever Date says",
            says(200).with("Date: {now-100}"),
            true,
        ),
        row(
            "RFC 9111 §4.2.2",
            "what has a query is kept for that time as any other",
            says(200).with("Last-Modified: {now-1000000}"),
            true,
        )
        .get()
        .at("?a")
        .fetched(2)
        .get()
        .at("?a")
        .kept(2),
        row(
            "RFC 9111 §4.2.2",
            "where the operator says nothing is kept, Last-Modified makes no lifetime",
            says(200).with("Last-Modified: {now-1000000}"),
            false,
        )
        .api(Api::NoTtl),
        row(
            "RFC 9111 §4.2.2",
            "where the operator says nothing is kept, nothing is",
            says(200),
            false,
        )
        .api(Api::NoTtl),
        row(
            "RFC 9111 §4.2.2",
            "where the operator says nothing is kept, what has a lifetime is",
            fresh(),
            true,
        )
        .api(Api::NoTtl),
        row(
            "RFC 9111 §4.2.2",
            "public alone is no lifetime where the operator gives none",
            says(200).with("Cache-Control: public"),
            false,
        )
        .api(Api::NoTtl),
        row(
            "RFC 9111 §4.2.2",
            "public lets the operator's lifetime hold for a status that it does not by itself",
            says(302).with("Cache-Control: public"),
            true,
        ),
        row(
            "RFC 9111 §4.2.1",
            "an Expires that is past is not made up for by the operator's lifetime",
            says(200).with("Expires: {now-100}").with("Last-Modified: {now-1000000}"),
            false,
        ),
    ]
}

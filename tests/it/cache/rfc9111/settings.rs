//! What an operator has otherwise than the origin, by name, and what it never is.

use super::Api;
use super::Case;
use super::Says;
use super::case;
use super::fresh;
use super::says;

const LIFETIME: &str = "RFC 9111 §4.2.2";

fn row(api: Api, section: &'static str, name: &'static str, says: Says, is_kept: bool) -> Case {
    let case = case(section, name).api(api).origin(says).get().fetched(1).get();
    if is_kept { case.kept(1) } else { case.fetched(2) }
}

pub(super) fn cases() -> Vec<Case> {
    let control = |control| says(200).with(control);
    let (forced, over) = (Api::Forced, Api::ForcedOver);
    vec![
        row(
            forced,
            LIFETIME,
            "where it is forced, the operator's lifetime counts over max-age=0",
            control("Cache-Control: max-age=0"),
            true,
        ),
        row(
            forced,
            LIFETIME,
            "where it is forced, the operator's lifetime counts over Expires",
            control("Expires: 0"),
            true,
        ),
        row(
            forced,
            LIFETIME,
            "where it is forced, no-cache is not asked for each time",
            control("Cache-Control: no-cache"),
            true,
        ),
        row(
            forced,
            LIFETIME,
            "forced is not over no-store",
            control("Cache-Control: no-store"),
            false,
        ),
        row(
            forced,
            LIFETIME,
            "forced is not over private",
            control("Cache-Control: private"),
            false,
        ),
        row(forced, LIFETIME, "forced is not over Set-Cookie", control("Set-Cookie: a=b"), false),
        case(LIFETIME, "forced is not over Authorization")
            .api(forced)
            .origin(control("Cache-Control: max-age=100"))
            .get()
            .with("Authorization: Bearer alice")
            .fetched(1)
            .get()
            .with("Authorization: Bearer alice")
            .fetched(2),
        row(
            over,
            LIFETIME,
            "forced is over no-store where that is named",
            control("Cache-Control: no-store"),
            true,
        ),
        row(
            over,
            LIFETIME,
            "forced is over private where that is named",
            control("Cache-Control: private"),
            true,
        ),
        row(
            over,
            LIFETIME,
            "forced is over Set-Cookie where that is named",
            control("Set-Cookie: a=b"),
            true,
        ),
        case(LIFETIME, "forced is over Authorization where that is named, and each has its own")
            .api(over)
            .origin(fresh())
            .get()
            .with("Authorization: Bearer alice")
            .fetched(1)
            .get()
            .with("Authorization: Bearer bob")
            .fetched(2)
            .get()
            .with("Authorization: Bearer alice")
            .kept(1),
        row(
            Api::Negative,
            "RFC 9111 §3",
            "a failure that is named is kept without a lifetime",
            says(404),
            true,
        ),
        row(
            Api::Negative,
            "RFC 9111 §3",
            "a failure that is named is kept for as long as the origin says",
            says(503).with("Cache-Control: max-age=0"),
            false,
        ),
        row(
            Api::Negative,
            "RFC 9111 §3",
            "a failure that is not named is not kept",
            says(410),
            false,
        ),
        row(
            Api::Small,
            "RFC 9111 §3",
            "a body up to the bound is kept",
            fresh().body("x".repeat(1024)),
            true,
        ),
        row(
            Api::Small,
            "RFC 9111 §3",
            "a body beyond the bound is not kept, and arrives whole",
            fresh().body("x".repeat(1025)),
            false,
        ),
        row(
            Api::Small,
            "RFC 9111 §3",
            "a body in chunks beyond the bound is not kept, and arrives whole",
            fresh().body("x".repeat(3000)).chunked(),
            false,
        ),
        case("RFC 9111 §2", "where it is said an answer to POST is kept, for its body")
            .api(Api::Post)
            .origin(fresh())
            .ask("POST")
            .body("a")
            .fetched(1)
            .ask("POST")
            .body("b")
            .fetched(2)
            .ask("POST")
            .body("a")
            .kept(1),
        case("RFC 9111 §2", "an answer to POST that is kept does not answer GET")
            .api(Api::Post)
            .origin(fresh())
            .ask("POST")
            .body("a")
            .fetched(1)
            .get()
            .fetched(2),
        case("RFC 9111 §2", "a POST that is answered from what is kept makes nothing invalid")
            .api(Api::Post)
            .origin(fresh())
            .get()
            .fetched(1)
            .ask("POST")
            .body("a")
            .fetched(2)
            .get()
            .kept(1),
        case("RFC 9111 §4", "a listed field makes a request another")
            .api(Api::Listed)
            .origin(fresh())
            .get()
            .with("X-Key: 1")
            .fetched(1)
            .get()
            .with("X-Key: 2")
            .fetched(2)
            .get()
            .with("X-Key: 1")
            .with("X-Other: 1")
            .kept(1),
        case("RFC 9111 §4", "where all fields do, each makes a request another")
            .api(Api::AllFields)
            .origin(fresh())
            .get()
            .with("X-A: 1")
            .fetched(1)
            .get()
            .with("X-A: 2")
            .fetched(2)
            .get()
            .with("X-A: 1")
            .kept(1),
        case("RFC 9111 §4", "where no field does, none but those of Vary makes a request another")
            .origin(fresh())
            .get()
            .with("X-Key: 1")
            .fetched(1)
            .get()
            .with("X-Key: 2")
            .kept(1),
    ]
}

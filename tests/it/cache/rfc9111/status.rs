//! What narrows says of its cache: `Cache-Status` (RFC 9211) and `X-Cache`.

use super::Api;
use super::Case;
use super::case;
use super::fresh;
use super::old;
use super::says;

pub(super) fn cases() -> Vec<Case> {
    let why = "RFC 9211 §2.2";
    vec![
        case("RFC 9211 §2.1", "a hit says so")
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .says("hit")
            .field("X-Cache", "HIT"),
        case(why, "what was not known is uri-miss")
            .origin(fresh())
            .get()
            .fetched(1)
            .says("fwd=uri-miss")
            .field("X-Cache", "MISS"),
        case(why, "what is known for other fields alone is vary-miss")
            .origin(fresh().with("Vary: X-A"))
            .get()
            .fetched(1)
            .get()
            .with("X-A: 1")
            .fetched(2)
            .says("fwd=vary-miss"),
        case(why, "what was stale says so, and what the origin said")
            .origin(old())
            .origin(says(304).with("Cache-Control: max-age=100"))
            .get()
            .fetched(1)
            .get()
            .validated(1)
            .says("fwd=stale")
            .says("fwd-status=304"),
        case(why, "what a client did not take says so")
            .origin(fresh())
            .get()
            .fetched(1)
            .get()
            .with("Cache-Control: no-cache")
            .fetched(2)
            .says("fwd=request"),
        case(why, "a method that is not kept says so")
            .origin(fresh())
            .ask("POST")
            .fetched(1)
            .says("fwd=method"),
        case("RFC 9211 §2.5", "what is kept now says so")
            .origin(fresh())
            .get()
            .fetched(1)
            .says("stored"),
        case("RFC 9211 §2.5", "what is not kept does not say so")
            .origin(says(200).with("Cache-Control: no-store"))
            .get()
            .fetched(1)
            .says_not("stored"),
        case("RFC 9211 §2.4", "a hit tells for how long it is fresh")
            .origin(fresh().with("Age: 50"))
            .get()
            .fetched(1)
            .get()
            .kept(1)
            .says("ttl"),
        case("RFC 9211 §2", "what other caches said stands before it")
            .origin(fresh().with("Cache-Status: other; hit; ttl=5"))
            .get()
            .fetched(1)
            .says("fwd=uri-miss")
            .get()
            .kept(1)
            .has("Cache-Status"),
        case("RFC 9211 §2", "an answer of our own is none of the cache")
            .origin(fresh())
            .get()
            .with("Cache-Control: only-if-cached")
            .status(504)
            .lacks("Age")
            .lacks("X-Cache")
            .says_not("hit"),
        case("RFC 9211 §2", "where there is no cache nothing is said")
            .api(Api::Off)
            .origin(fresh())
            .get()
            .asked(1)
            .answer(1)
            .lacks("Cache-Status")
            .lacks("X-Cache")
            .get()
            .asked(1)
            .answer(2),
        case("RFC 9111 §5.1", "where there is no cache there is no Age of ours")
            .api(Api::Off)
            .origin(fresh().with("Age: 7"))
            .get()
            .asked(1)
            .field("Age", "7"),
        case("RFC 9111 §5.1", "an answer of the origin's has no Age of ours")
            .origin(says(200).with("Cache-Control: no-store"))
            .get()
            .fetched(1)
            .lacks("Age")
            .get()
            .fetched(2)
            .lacks("Age"),
    ]
}

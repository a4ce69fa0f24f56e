//! What an answer says of quotas.

use super::alone;
use super::ask;
use super::assert_over;
use super::early_in;
use crate::support::Origin;
use crate::support::origin::MARK;

/// `r` and `t` of each tier, by its name.
fn left(field: &str) -> Vec<(String, u64, u64)> {
    let member = |member: &str| {
        let mut parts = member.trim().split(';');
        let name = parts.next().unwrap().trim_matches('"').to_owned();
        let mut number =
            |key: &str| parts.next().unwrap().strip_prefix(key).unwrap().parse().unwrap();
        (name, number("r="), number("t="))
    };
    field.split(',').map(member).collect()
}

#[tokio::test]
async fn success_and_refusal_say_what_each_tier_allows_and_what_is_left() {
    let origin = Origin::start();
    let (_file, proxy) = alone(&origin, "true").await;
    early_in(60).await;
    let policy = "\"minute\";q=5;w=60, \"hour\";q=50;w=3600, \"day\";q=500;w=86400";
    for used in 1..=6_u64 {
        let answer = ask(&proxy, &[]).await;
        assert_eq!(answer.head.field("ratelimit-policy"), Some(policy), "{answer:?}");
        let left = left(answer.head.field("ratelimit").unwrap());
        let used = used.min(5);
        let names: Vec<(&str, u64)> = left.iter().map(|(name, r, _)| (&**name, *r)).collect();
        assert_eq!(names, [("minute", 5 - used), ("hour", 50 - used), ("day", 500 - used)]);
        let windows = [60, 3600, 86400];
        assert!(left.iter().zip(windows).all(|((_, _, t), window)| *t <= window && *t > 0));
        let after = answer.head.field("retry-after");
        assert_eq!(after.is_some(), answer.status() == 429, "{answer:?}");
        if let Some(after) = after {
            assert_eq!(after.parse::<u64>().unwrap(), left[0].2, "when the minute is over");
        }
    }
}

#[tokio::test]
async fn the_older_fields_say_it_of_the_scarcest_where_they_are_wanted() {
    let origin = Origin::start();
    let (_file, proxy) = alone(&origin, "{minute: 100, hour: 3, x_ratelimit: true}").await;
    early_in(3600).await;
    let answer = ask(&proxy, &[]).await;
    let said = |name: &str| answer.head.field(name).unwrap().parse::<u64>().unwrap();
    assert_eq!((said("x-ratelimit-limit"), said("x-ratelimit-remaining")), (3, 2));
    assert!((1..=3600).contains(&said("x-ratelimit-reset")));
}

#[tokio::test]
async fn what_an_upstream_says_of_its_own_quotas_is_not_taken_for_ours() {
    let says = |fields: &'static str| {
        Origin::raw(move |mut connection| async move {
            while let Ok(Some(_head)) = connection.head().await {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\n{MARK}: 1\r\n{fields}\r\nContent-Length: 2\r\n\r\nok"
                );
                if connection.send(answer).await.is_err() {
                    return;
                }
            }
        })
    };
    let of = async |fields: &'static str| {
        let origin = says(fields);
        let (_file, proxy) = alone(&origin, "{hour: 9}").await;
        early_in(3600).await;
        let answer = ask(&proxy, &[]).await;
        answer.head.all("ratelimit").iter().map(ToString::to_string).collect::<Vec<String>>()
    };
    let other = of("RateLimit: \"burst\";r=3;t=7").await;
    assert_eq!(other.len(), 2, "{other:?}");
    assert!(other[0].starts_with("\"hour\";r=8;t="), "ours first: {other:?}");
    assert_eq!(other[1], "\"burst\";r=3;t=7", "theirs is not taken away");
    for mistakable in ["RateLimit: \"hour\";r=1;t=7", "RateLimit: limit=10, remaining=1, reset=7"] {
        let said = of(mistakable).await;
        assert!(said.len() == 1 && said[0].starts_with("\"hour\";r=8"), "{mistakable}: {said:?}");
    }
}

#[tokio::test]
async fn a_tunnel_is_told_too_when_it_opens_and_when_it_may_not() {
    let origin = Origin::start();
    let file = super::File::new(&origin, "{hour: 1, x_ratelimit: true}");
    let proxy = file.setup().start().await;
    early_in(3600).await;
    let opened = proxy.connect(origin.authority()).await;
    assert_eq!(opened.status(), 200);
    assert_eq!(opened.head.field("ratelimit-policy"), Some("\"hour\";q=1;w=3600"));
    assert!(opened.head.field("ratelimit").unwrap().starts_with("\"hour\";r=0;t="));
    assert_eq!(opened.head.field("content-length"), None);
    let refused = proxy.connect(origin.authority()).await;
    assert_over(&refused, "hour");
    assert_eq!(refused.head.field("x-ratelimit-limit"), Some("1"));
}

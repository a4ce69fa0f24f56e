//! The quotas of one API, as a front gate asks them: who is it, what may they have, is there any left.
//!
//! It counts nothing itself; that is the [`Ledger`]. Invariants: a request is counted once, whatever
//! becomes of it later, and not at all where its plan has no tiers. What is denied has cost nothing.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::HeaderMap;
use http::HeaderValue;
use http::Method;

use super::Counted;
use super::Ledger;
use super::Level;
use super::OnRedisError;
use super::Tier;
use super::Tiers;
use super::Verdict;
use super::fields;
use super::fields::Told;
use super::subject::Asker;
use super::subject::Namer;
use super::subject::Then;
use super::terms::Terms;
use crate::policy::Decision;
use crate::policy::Mode;
use crate::policy::Refusal;
use crate::policy::Rule;
use crate::store::board::Board;

/// What those are told to wait who come while the quotas cannot be counted.
const PAUSE: Duration = Duration::from_secs(1);
/// A claim is followed no further than this.
const LONGEST_PLAN: usize = 64;

/// The quotas of one API.
#[derive(Debug)]
pub(crate) struct Quotas {
    terms: Terms,
    namer: Namer,
    ledger: Ledger,
    /// Of those who have no plan.
    base: Arc<Share>,
    plans: HashMap<Arc<str>, Arc<Share>>,
    /// Plans of those whom the settings name.
    listed: HashMap<String, Arc<Share>>,
    denied: Denied,
}

/// What those have in common who have one plan.
#[derive(Debug)]
pub(crate) struct Share {
    /// None is of those without one.
    plan: Option<Arc<str>>,
    tiers: Arc<Tiers>,
    /// What RateLimit-Policy says.
    policy: HeaderValue,
}

/// Requests that were refused, by the names of tiers.
type Denied = BTreeMap<Arc<str>, AtomicU64>;

/// What the gate says of a request.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) decision: Decision<()>,
    /// Whom it was counted for.
    pub(crate) key: String,
    /// For how many requests it counts.
    pub(crate) cost: u64,
    /// Whose plan it has.
    pub(crate) plan: Option<Arc<str>>,
    /// How much is used and how much may be, of the tier that is closest to its end.
    pub(crate) used: Option<(u64, u64)>,
    /// What the answer says, if it says anything.
    pub(crate) told: Option<Told>,
}

/// One client, as it is shown.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) key: String,
    pub(crate) plan: Option<Arc<str>>,
    pub(crate) tiers: Vec<Tier>,
    pub(crate) levels: Vec<Level>,
}

impl Share {
    fn new(plan: Option<&Arc<str>>, tiers: &[Tier], offset: i32) -> Arc<Self> {
        let policy = fields::policy(tiers);
        let tiers = Arc::new(Tiers::new(tiers.to_vec(), offset));
        Arc::new(Self { plan: plan.map(Arc::clone), tiers, policy })
    }
}

impl Quotas {
    /// What `former` has counted lives on.
    pub(crate) fn new(api: &Arc<str>, terms: Terms, board: &Board, former: Option<&Self>) -> Self {
        let namer = Namer::new(terms.keying.clone(), api, board.prefix());
        let plans: HashMap<Arc<str>, Arc<Share>> = terms
            .plans
            .iter()
            .map(|(name, plan)| {
                (Arc::clone(name), Share::new(Some(name), &plan.tiers, terms.offset))
            })
            .collect();
        let mut listed = HashMap::new();
        for (name, plan) in &terms.plans {
            let share = &plans[name];
            let keys = plan.keys.iter().filter_map(|key| namer.recalled(key));
            listed.extend(keys.map(|key| (key, Arc::clone(share))));
        }
        let ledger = former.map(|former| &former.ledger);
        let ledger = Ledger::new(api, terms.counting.clone(), board, ledger);
        let base = Share::new(None, &terms.tiers, terms.offset);
        let all = terms.tiers.iter().chain(terms.plans.values().flat_map(|plan| &plan.tiers));
        let before = |name: &str| {
            let count = former.and_then(|former| former.denied.get(name));
            AtomicU64::new(count.map_or(0, |count| count.load(Relaxed)))
        };
        let denied = all.map(|tier| (Arc::clone(&tier.name), before(&tier.name))).collect();
        Self { terms, namer, ledger, base, plans, listed, denied }
    }

    /// What their rulings are called, whichever tier it is.
    pub(crate) const RULE: Rule = Rule::Quota(Duration::ZERO);

    pub(crate) fn mode(&self) -> Mode {
        self.terms.mode
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Takes from what this client may have. `plan` is that of its API key.
    pub(crate) async fn take(&self, asker: Asker<'_>, method: &Method, plan: Option<&str>) -> Said {
        let key = self.namer.name(asker);
        let share = self.share(&key, asker, plan);
        let cost = self.terms.cost.of(method, asker.fields);
        self.charge(key, share, cost).await
    }

    /// The same of a request that was recorded; none if the record does not say whom it counts for, or
    /// for how many.
    pub(crate) async fn take_again(&self, then: Then<'_>, method: &Method) -> Option<Said> {
        let key = self.namer.renamed(then)?;
        let planned = || then.plan.and_then(|plan| self.plans.get(plan));
        let share = self.listed.get(&key).or_else(planned).unwrap_or(&self.base);
        let cost = match &self.terms.cost.header {
            Some(_) => then.cost?.min(self.terms.cost.most),
            None => self.terms.cost.of(method, &HeaderMap::new()),
        };
        Some(self.charge(key, share, cost).await)
    }

    async fn charge(&self, key: String, share: &Share, cost: u64) -> Said {
        let plan = share.plan.clone();
        if share.tiers.list().is_empty() || cost == 0 {
            return Said { decision: Decision::Pass(()), key, cost, plan, used: None, told: None };
        }
        let taken = self.ledger.take(&key, &share.tiers, cost).await;
        let levels = &taken.levels;
        let decision = match taken.verdict {
            Verdict::Admitted => Decision::Pass(()),
            Verdict::Denied { tier, left } => self.denied(&share.tiers.list()[tier], Some(left)),
            // To come back later does not help; but who does so any sooner costs us more.
            Verdict::Never { tier } => self.denied(&share.tiers.list()[tier], None),
            Verdict::Away => {
                let status = match self.terms.counting.on_redis_error {
                    OnRedisError::Error500 => 500,
                    OnRedisError::Closed | OnRedisError::Local | OnRedisError::Open => 503,
                };
                Decision::Refuse(Refusal { rule: Rule::QuotaAway(status), left: PAUSE })
            }
        };
        let scarcest = levels.iter().min_by_key(|level| level.remaining);
        let used = scarcest.map(|level| (level.limit.saturating_sub(level.remaining), level.limit));
        // Who only observes is not to be noticed.
        let is_told = self.terms.mode == Mode::Enforce && levels.len() == share.tiers.list().len();
        let told = is_told
            .then(|| Told::of(&share.policy, share.tiers.list(), levels, self.terms.x_ratelimit));
        Said { decision, key, cost, plan, used, told }
    }

    fn denied(&self, tier: &Tier, left: Option<Duration>) -> Decision<()> {
        if let Some(count) = self.denied.get(&tier.name) {
            count.fetch_add(1, Relaxed);
        }
        let left = left.unwrap_or(tier.window);
        Decision::Refuse(Refusal { rule: Rule::Quota(tier.window), left })
    }

    /// How much a client has used, in the fleet. Whom it means, the name says as
    /// [requests are named](Namer::recalled); none for what no request can be named. The plan is that
    /// which the settings list, or the one that is given.
    pub(crate) async fn seen(&self, client: &str, plan: Option<&str>) -> Option<Seen> {
        let key = self.namer.recalled(client)?;
        let planned = plan.and_then(|plan| self.plans.get(plan));
        let share = self.listed.get(&key).or(planned).unwrap_or(&self.base);
        let levels = self.ledger.look(&key, &share.tiers).await;
        let (plan, tiers) = (share.plan.clone(), share.tiers.list().to_vec());
        Some(Seen { key, plan, tiers, levels })
    }

    /// Lets a client begin anew, in the fleet; whether it was known here. None for what no request can
    /// be named.
    pub(crate) fn forget(&self, client: &str) -> Option<bool> {
        let key = self.namer.recalled(client)?;
        let all = self.plans.values().chain([&self.base]);
        let mut tiers: Vec<Tier> =
            all.flat_map(|share| share.tiers.list()).map(Tier::clone).collect();
        tiers.sort_by_key(|tier| tier.window);
        tiers.dedup_by_key(|tier| tier.window);
        Some(self.ledger.forget(&key, &Tiers::new(tiers, self.terms.offset)))
    }

    /// What happened since the start.
    pub(crate) fn counted(&self) -> Counted {
        self.ledger.counted()
    }

    /// How many were refused since the start, by the tier that had nothing left.
    pub(crate) fn denied_by(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.denied.iter().map(|(name, count)| (name, count.load(Relaxed)))
    }

    /// What a client has: as the settings list it, or else its key's plan, or else its token's. A name
    /// that is no plan's is as none.
    fn share(&self, key: &str, asker: Asker<'_>, plan: Option<&str>) -> &Arc<Share> {
        if self.plans.is_empty() {
            return &self.base;
        }
        let claimed = || {
            let plan = asker.claims?.get(self.terms.plan_claim.as_ref()?)?.as_str()?;
            self.plans.get(plan).filter(|_| plan.len() <= LONGEST_PLAN)
        };
        let planned = || plan.and_then(|plan| self.plans.get(plan));
        self.listed.get(key).or_else(planned).or_else(claimed).unwrap_or(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::json;

    use super::super::Keying;
    use super::super::Part;
    use super::super::Plan;
    use super::super::tier;
    use super::*;
    use crate::base::identity::Identity;

    const HOUR: Duration = Duration::from_hours(1);

    fn quotas(change: impl FnOnce(&mut Terms), former: Option<&Quotas>) -> Quotas {
        let mut terms = Terms { tiers: vec![tier(2, HOUR)], ..Terms::default() };
        terms.keying = Keying { parts: vec![Part::ApiKey], ..Keying::default() };
        change(&mut terms);
        Quotas::new(&"shop".into(), terms, &Board::alone(), former)
    }

    fn plans(terms: &mut Terms, listed: &[&str]) {
        let keys = listed.iter().map(|key| (*key).to_owned()).collect();
        let paid = Plan { tiers: vec![tier(9, HOUR)], keys };
        let gold = Plan { tiers: vec![tier(90, HOUR)], ..Plan::default() };
        terms.plans = [("paid".into(), paid), ("gold".into(), gold)].into();
        terms.plan_claim = Some("plan".to_owned());
    }

    async fn take(quotas: &Quotas, key: &str, plan: Option<&str>, claim: &str) -> Said {
        let claims = json!({ "plan": claim });
        let fields = HeaderMap::new();
        let asker = Asker {
            peer: "192.0.2.1".parse().unwrap(),
            identity: &Identity::Anonymous,
            key: Some(key),
            claims: claims.as_object(),
            host: "a.test:80",
            fields: &fields,
        };
        quotas.take(asker, &Method::GET, plan).await
    }

    #[tokio::test]
    async fn a_plan_is_that_of_the_list_or_of_the_key_or_of_the_token_and_else_there_is_none() {
        let quotas = quotas(|terms| plans(terms, &["alice"]), None);
        let limit = async |key, plan, claim| take(&quotas, key, plan, claim).await.used.unwrap().1;
        assert_eq!(limit("alice", Some("gold"), "gold").await, 9, "the list before all");
        assert_eq!(limit("bob", Some("gold"), "paid").await, 90, "the key before the token");
        assert_eq!(limit("carol", None, "paid").await, 9);
        assert_eq!(limit("dave", Some("unknown"), "unknown").await, 2);
    }

    #[tokio::test]
    async fn who_is_denied_is_told_by_which_tier_and_counted() {
        let quotas = quotas(|_| {}, None);
        for _ in 0..2 {
            let said = take(&quotas, "alice", None, "").await;
            assert!(matches!(said.decision, Decision::Pass(())), "{said:?}");
            assert!(said.told.is_some());
        }
        let said = take(&quotas, "alice", None, "").await;
        let Decision::Refuse(refusal) = said.decision else { panic!("{said:?}") };
        assert_eq!(refusal.rule, Rule::Quota(HOUR));
        assert!(refusal.left <= HOUR && said.used == Some((2, 2)), "{refusal:?}");
        assert_eq!(
            quotas.denied_by().map(|(name, n)| (&**name, n)).collect::<Vec<_>>(),
            [("hour", 1)]
        );
    }

    #[tokio::test]
    async fn what_was_counted_outlives_other_settings() {
        let former = quotas(|_| {}, None);
        for _ in 0..3 {
            take(&former, "alice", None, "").await;
        }
        let quotas = quotas(|terms| plans(terms, &["alice"]), Some(&former));
        assert_eq!(quotas.denied_by().next().map(|(_, n)| n), Some(1));
        assert_eq!(take(&quotas, "alice", None, "").await.used, Some((3, 9)));
        assert_eq!(quotas.forget("alice"), Some(true));
        assert_eq!(take(&quotas, "alice", None, "").await.used, Some((1, 9)));
    }

    #[tokio::test]
    async fn what_costs_more_than_there_ever_is_is_refused_whenever_it_comes() {
        let quotas = quotas(|terms| terms.cost.each = 3, None);
        let said = take(&quotas, "alice", None, "").await;
        let Decision::Refuse(refusal) = said.decision else { panic!("{said:?}") };
        assert_eq!((refusal.rule, refusal.left), (Rule::Quota(HOUR), HOUR));
    }

    #[tokio::test]
    async fn a_client_is_seen_by_its_plan() {
        let quotas = quotas(|terms| plans(terms, &["alice"]), None);
        take(&quotas, "alice", None, "").await;
        let seen = quotas.seen("alice", None).await.unwrap();
        assert_eq!((seen.plan.as_deref(), seen.levels[0].remaining), (Some("paid"), 8));
        let seen = quotas.seen("bob", Some("gold")).await.unwrap();
        assert_eq!((seen.plan.as_deref(), seen.tiers[0].limit), (Some("gold"), 90));
        assert!(quotas.seen("", None).await.is_none());
    }
}

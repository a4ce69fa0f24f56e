//! What is done about what a gate says: the one place where a [`Decision`] is obeyed, or, where its
//! policy only observes, noted and no more.
//!
//! It decides nothing itself. Always holds: what a policy in observe mode says stops nobody and delays
//! nobody, and is counted once, as what it would have been.

use crate::policy::Decision;
use crate::policy::Mode;
use crate::policy::Refusal;
use crate::policy::Rule;
use crate::policy::Ruling;
use crate::policy::decided::Decided;
use crate::policy::decided::Effect;

/// What the gates say of one request.
#[derive(Debug, Default)]
pub(super) struct Docket {
    /// By which rule its present attempt waits, which asks again when it has.
    waits_for: Option<Rule>,
}

/// A gate that does not let pass.
#[derive(Debug)]
pub(super) enum Halt {
    Wait(Refusal),
    Refuse(Refusal),
}

impl Docket {
    /// Does what a gate says. None is that it did not let pass, and only observes.
    pub(super) fn obey<T>(
        &mut self,
        decided: &Decided,
        ruling: &Ruling<'_>,
        decision: Decision<T>,
    ) -> Result<Option<T>, Halt> {
        match (decision, ruling.mode) {
            (Decision::Pass(guard), _) => {
                if self.waits_for.is_some_and(|rule| rule.index() == ruling.rule.index()) {
                    self.waits_for = None;
                }
                Ok(Some(guard))
            }
            (Decision::Wait(refusal) | Decision::Refuse(refusal), Mode::Observe) => {
                note(decided, ruling, refusal, Effect::Observed);
                Ok(None)
            }
            (Decision::Wait(refusal), Mode::Enforce) => {
                // It asks again and again, and waits once.
                if self.waits_for.replace(refusal.rule) != Some(refusal.rule) {
                    note(decided, ruling, refusal, Effect::Waited);
                }
                Err(Halt::Wait(refusal))
            }
            (Decision::Refuse(refusal), Mode::Enforce) => {
                note(decided, ruling, refusal, Effect::Refused);
                Err(Halt::Refuse(refusal))
            }
        }
    }
}

fn note(decided: &Decided, ruling: &Ruling<'_>, refusal: Refusal, effect: Effect) {
    decided.note(refusal.rule, effect);
    let rule = refusal.rule.as_str();
    tracing::debug!(rule, ?ruling, left = ?refusal.left, effect = effect.as_str(), "decided");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const REFUSAL: Refusal = Refusal { rule: Rule::Breaker, left: Duration::from_secs(3) };

    fn ruling(mode: Mode) -> Ruling<'static> {
        Ruling { rule: Rule::Breaker, mode, key: &"a.test", value: None, limit: None }
    }

    /// Waited, refused, observed.
    fn counted(decided: &Decided) -> [u64; 3] {
        let mut sums = Default::default();
        decided.add_to(&mut sums);
        sums[Rule::Breaker.index()]
    }

    #[test]
    fn what_is_enforced_stops_and_what_is_observed_does_not() {
        let (decided, mut docket) = (Decided::default(), Docket::default());
        let mut obey = |mode, decision| docket.obey(&decided, &ruling(mode), decision);
        assert!(matches!(obey(Mode::Enforce, Decision::Pass(7)), Ok(Some(7))));
        assert!(matches!(obey(Mode::Observe, Decision::Pass(7)), Ok(Some(7))));
        assert!(matches!(obey(Mode::Enforce, Decision::Refuse(REFUSAL)), Err(Halt::Refuse(_))));
        assert!(matches!(obey(Mode::Observe, Decision::Refuse(REFUSAL)), Ok(None)));
        assert!(matches!(obey(Mode::Observe, Decision::Wait(REFUSAL)), Ok(None)));
        assert_eq!(counted(&decided), [0, 1, 2]);
    }

    #[test]
    fn who_waits_and_asks_again_has_waited_once() {
        let (decided, mut docket) = (Decided::default(), Docket::default());
        let mut obey = |decision| docket.obey(&decided, &ruling(Mode::Enforce), decision);
        for _ in 0..3 {
            assert!(matches!(obey(Decision::Wait(REFUSAL)), Err(Halt::Wait(_))));
        }
        assert!(obey(Decision::Pass(())).is_ok());
        assert!(matches!(obey(Decision::Wait(REFUSAL)), Err(Halt::Wait(_))));
        assert_eq!(counted(&decided), [2, 0, 0]);
    }
}

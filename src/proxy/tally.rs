//! Counts a request that an API has policies for: once, however it ends.
//!
//! What is counted is what the client got: an answer of the upstream, one of ours and why, or none
//! since it left. Attempts are counted where they are made.

use super::asker::Asker;
use super::pipeline::Failed;
use super::reject::Reject;
use crate::policy::End;
use crate::policy::api::Api;
use crate::policy::api::counts::Counts;
use crate::policy::api::counts::Outcome;
use crate::upstream::SendError;
use crate::upstream::Sent;
use crate::upstream::dial::DialError;

/// Dropped before its end is known, the client has left.
pub(super) struct Tally<'a> {
    counts: Option<&'a Counts>,
    outcome: Outcome,
}

impl<'a> Tally<'a> {
    /// Of a request of this client's; what nobody asked for is none.
    pub(super) fn begin(api: Option<&'a Api>, client: &Asker) -> Self {
        let api = api.filter(|_| !matches!(client, Asker::Nobody(_)));
        Self { counts: api.map(|api| &api.counts), outcome: Outcome::Left }
    }

    /// It ends so.
    pub(super) fn end(mut self, result: &Result<Sent, Failed>) {
        if self.counts.is_none() {
            return;
        }
        self.outcome = match result {
            Ok(sent) if sent.response.status().is_server_error() => Outcome::Failure,
            Ok(_) => Outcome::Success,
            Err(Failed::Left) => Outcome::Left,
            Err(Failed::Rejected(reject)) => outcome(reject),
        };
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        if let Some(counts) = self.counts {
            counts.asked(self.outcome);
        }
    }
}

/// Counts a request that ended before it came to the policies.
pub(super) fn turned_away(api: &Api, failed: &Failed) {
    api.counts.asked(match failed {
        Failed::Left => Outcome::Left,
        Failed::Rejected(reject) => outcome(reject),
    });
}

/// What an answer of ours says of the API.
fn outcome(reject: &Reject) -> Outcome {
    match reject {
        Reject::Policy(refusal) => refusal.rule.into(),
        Reject::Send(SendError::Dial(DialError::Refused(_))) => Outcome::Limit,
        Reject::Send(error) if error.end() == End::Neutral => Outcome::Request,
        Reject::NotListed => Outcome::Denied,
        Reject::Unproven { why, .. } => (*why).into(),
        Reject::Send(_) | Reject::Collapsed(_) | Reject::ForeignProxy | Reject::Interim => {
            Outcome::Failure
        }
        Reject::BadTarget { .. }
        | Reject::Denied(_)
        | Reject::BadScheme
        | Reject::ClearText
        | Reject::Expectation
        | Reject::Flaw(_)
        | Reject::Full(_)
        | Reject::Json(_)
        | Reject::LeavesApi
        | Reject::LongBody(_)
        | Reject::Loop
        | Reject::MaxForwards
        | Reject::Method(_)
        | Reject::Misdirected
        | Reject::NoBody
        | Reject::NotCached
        | Reject::NotForProxy
        | Reject::SlowBody
        | Reject::Stranger
        | Reject::UnknownApi(_) => Outcome::Request,
    }
}

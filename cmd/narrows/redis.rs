//! `narrows redis check`: prints what the library finds about a Redis.

use anyhow::Context;
use narrows::config::RedisCheck;
use narrows::store::check::Finding;
use narrows::store::check::Grade;
use serde_json::json;

/// Whether it is fit; each finding is a line on standard output.
pub(crate) fn check(check: &RedisCheck) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let findings = runtime.block_on(narrows::store::check::check(&check.store));
    for finding in &findings {
        super::say(&if check.json { json(finding) } else { finding.to_string() });
    }
    Ok(findings.iter().all(|finding| finding.grade < Grade::Fail))
}

fn json(finding: &Finding) -> String {
    let Finding { grade, about, node, words, remedy } = finding;
    let grade = grade.name().to_lowercase();
    json!({ "grade": grade, "about": about, "node": node, "words": words, "remedy": remedy })
        .to_string()
}

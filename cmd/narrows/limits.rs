//! `narrows limits`: shows and changes the limits that all instances on one Redis obey.

use std::fmt::Write;

use anyhow::bail;
use narrows::config::Action;
use narrows::config::Limits;
use narrows::limit::rules::Pattern;
use narrows::limit::rules::Rule;
use narrows::limit::rules::Scope;
use narrows::limit::table::FleetLimits;
use narrows::limit::table::Table;

/// What to say when it is done.
pub(crate) fn run(limits: &Limits) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let table = Table::new(&limits.store)?;
        match &limits.action {
            Action::List { json: true } => Ok(table.read().await?.to_json().to_string()),
            Action::List { json: false } => Ok(listed(&table.read().await?)),
            Action::Remove(pattern) => match table.remove(pattern).await? {
                Some(version) => Ok(format!("{}: no limit (version {version})", name(pattern))),
                None => bail!("{} has no limit in the fleet's table", name(pattern)),
            },
            Action::Set(rule) => {
                let version = table.set(rule).await?;
                let (name, limit) = (name(&rule.pattern), number(rule));
                Ok(format!("{name}: {limit}, {} (version {version})", rule.scope.as_str()))
            }
        }
    })
}

fn name(pattern: &Pattern) -> String {
    match pattern {
        Pattern::Default => "default".to_owned(),
        Pattern::Host(_) | Pattern::Port(_) | Pattern::Suffix(_) => pattern.to_string(),
    }
}

fn number(rule: &Rule) -> String {
    if rule.limit == 0 { "unlimited".to_owned() } else { rule.limit.to_string() }
}

/// A table for people.
fn listed(limits: &FleetLimits) -> String {
    let rows: Vec<[String; 2]> =
        limits.rules.iter().map(|rule| [name(&rule.pattern), number(rule)]).collect();
    let width = |column: usize, head: &str| {
        rows.iter().map(|row| row[column].len()).chain([head.len()]).max().unwrap_or(0)
    };
    let (hosts, numbers) = (width(0, "HOST"), width(1, "LIMIT"));
    let mut text = String::new();
    let mut line = |host: &str, limit: &str, scope: &str| {
        // Writing to a String cannot fail.
        let _written = writeln!(text, "{host:<hosts$}  {limit:>numbers$}  {scope}");
    };
    if !rows.is_empty() {
        line("HOST", "LIMIT", "SCOPE");
    }
    for ([host, limit], rule) in rows.iter().zip(&limits.rules) {
        line(
            host,
            limit,
            match rule.scope {
                Scope::Each => "each",
                Scope::Shared => "shared",
            },
        );
    }
    text + &format!("version {}", limits.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_aligned() {
        let mut rules = vec![Rule::each(Pattern::Default, 0)];
        rules.extend(["*.example.com=10/shared", "a.test:81=5"].map(|text| text.parse().unwrap()));
        let text = listed(&FleetLimits { version: 3, rules });
        assert_eq!(
            text,
            "HOST               LIMIT  SCOPE\n\
             default        unlimited  each\n\
             *.example.com         10  shared\n\
             a.test:81              5  each\n\
             version 3"
        );
        assert_eq!(listed(&FleetLimits::default()), "version 0");
    }
}

//! Which API has the forward traffic to which host.
//!
//! What an API names in `hosts` it has; no two may name the same. One that names nothing has the host
//! of its `target_url`, unless another names that, or several share it: then nobody could say whose
//! policies a request should meet.

use std::collections::HashMap;

use super::keys;
use super::reader::Notes;
use super::tree::Entry;
use super::tree::Place;
use crate::base::authority::HostKey;
use crate::base::pattern::Pattern;
use crate::policy::api::DEFAULT;
use crate::policy::api::Settings;

/// Gives each API its hosts. `entries` are what the APIs were read from, in the same order.
pub(super) fn settle(apis: &mut [Settings], entries: &[Entry], notes: &mut Notes) {
    let mut named: HashMap<Pattern, (String, Place)> = HashMap::new();
    let place_of = |entry: &Entry| {
        let hosts = entry.node.find(keys::HOSTS.name);
        hosts.map_or_else(|| entry.place.clone(), |hosts| hosts.node.place.clone())
    };
    for (api, entry) in apis.iter().zip(entries) {
        for pattern in &api.hosts {
            let place = place_of(entry);
            let path = format!("api.{}.hosts", api.name);
            match named.get(pattern) {
                Some((first, at)) if *first == *api.name => {
                    notes.problem(
                        &place,
                        &path,
                        &format!("{pattern} is there twice, first at {at}"),
                    );
                }
                Some((first, at)) => {
                    notes.problem(
                        &place,
                        &path,
                        &format!("{pattern} is claimed by the API {first} too, at {at}"),
                    );
                }
                None => {
                    named.insert(pattern.clone(), (api.name.to_string(), place));
                }
            }
        }
    }
    let mut by_target: HashMap<HostKey, Vec<usize>> = HashMap::new();
    for (at, (api, entry)) in apis.iter().zip(entries).enumerate() {
        let names_hosts = entry.node.find(keys::HOSTS.name).is_some();
        if let Some(target) = &api.target
            && !names_hosts
            && &*api.name != DEFAULT
        {
            by_target.entry(target.authority.key().clone()).or_default().push(at);
        }
    }
    let mut by_target: Vec<_> = by_target.into_iter().collect();
    by_target.sort();
    for (key, sharers) in by_target {
        let bare = apis[sharers[0]]
            .target
            .as_ref()
            .map(|target| Pattern::Host(target.authority.host().to_string()));
        let pattern = Pattern::Port(key);
        if named.contains_key(&pattern) || bare.is_some_and(|bare| named.contains_key(&bare)) {
            continue;
        }
        if let [at] = *sharers {
            apis[at].hosts.push(pattern);
            continue;
        }
        let sharing: Vec<&str> = sharers.iter().map(|at| &*apis[*at].name).collect();
        let words = format!(
            "{pattern} is the target of several APIs ({}), so that forward traffic to it meets the policies of none; \
             say by hosts whose they should be, and by hosts: [] that it is nobody's",
            sharing.join(", ")
        );
        let entry = &entries[sharers[0]];
        notes.warn(&entry.place, &format!("api.{}", entry.key), &words);
    }
}

//! What goes on beside requests for those who come in: files of keys are looked at, and key sets that are
//! elsewhere are fetched.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::Apis;
use crate::policy::access::jwt::Jwks;

/// How often it is looked whether a key set is wanted; and in how many such looks once at files.
const LOOK: Duration = Duration::from_millis(250);
const FILES: u32 = 4;

/// Takes over what has changed in the files of all APIs' keys, and has key sets fetched when they are due, until it
/// is dropped.
pub(crate) async fn tend<F>(apis: Arc<ArcSwap<Apis>>, fetch: impl Fn(Jwks) -> F)
where
    F: Future<Output = Result<String, String>> + Send + 'static,
{
    let mut count = 0;
    loop {
        let all = apis.load_full();
        for api in all.all() {
            let Some(jwks) = api.entrance.as_ref().and_then(|entrance| entrance.to_fetch()) else {
                continue;
            };
            let (fetched, api) = (fetch(jwks.clone()), Arc::clone(api));
            // Ends with its time-out, or with the control thread.
            tokio::spawn(async move {
                let came = fetched.await;
                if let Some(entrance) = &api.entrance {
                    entrance.fetched(came);
                }
            });
        }
        tokio::time::sleep(LOOK).await;
        count += 1;
        if count % FILES == 0 && all.all().iter().any(|api| api.entrance.is_some()) {
            let apis = apis.load_full();
            // Files may be somewhere slow. A panic there is told by the hook, and the next look is another.
            let _done = tokio::task::spawn_blocking(move || {
                for entrance in apis.all().iter().filter_map(|api| api.entrance.as_ref()) {
                    entrance.look();
                }
            })
            .await;
        }
    }
}

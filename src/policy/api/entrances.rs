//! What goes on beside requests for those who come in: files of keys are looked at.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::Apis;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Looks at the files of all APIs' keys until it is dropped, and takes over what has changed.
pub(crate) async fn tend(apis: Arc<ArcSwap<Apis>>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let apis = apis.load_full();
        if !apis.all().iter().any(|api| api.entrance.is_some()) {
            continue;
        }
        // Files may be somewhere slow. A panic there is told by the hook, and the next look is another.
        let _done = tokio::task::spawn_blocking(move || {
            for entrance in apis.all().iter().filter_map(|api| api.entrance.as_ref()) {
                entrance.look();
            }
        })
        .await;
    }
}

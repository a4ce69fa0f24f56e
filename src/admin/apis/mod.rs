//! What the admin port tells of APIs and of what their policies have learned.

pub(super) mod metrics;

//! Memory that is taken and never given back.

use std::time::Duration;

/// Steps a second.
const STEPS: u64 = 4;

/// So many megabytes. They are written, so that they are real memory.
pub(crate) fn held(megabytes: usize) -> Vec<u8> {
    vec![1; megabytes << 20]
}

/// Takes so many megabytes a second, for ever.
pub(crate) async fn leak(megabytes_per_second: u64) {
    let step = usize::try_from(megabytes_per_second.saturating_mul(1 << 20) / STEPS).unwrap_or(1 << 20);
    let mut held = Vec::new();
    loop {
        held.push(vec![1u8; step]);
        tokio::time::sleep(Duration::from_millis(1000 / STEPS)).await;
    }
}

//! The journal's settings.

use tapio_service::setting::{Bytes, MIB, SEC, Time, settings};

settings! {
    /// The journal of facts, in `state_dir`.
    pub struct Settings {
        /// Maximum size on disk. Beyond it the oldest facts are removed.
        pub max_bytes: Bytes<{ 64 * MIB }, { 1_048_576 * MIB }> = Bytes::of(4_096 * MIB),
        /// How long facts are retained.
        pub max_age: Time<{ 3_600 * SEC }, { 366 * 86_400 * SEC }> = Time::of_ns(14 * 86_400 * SEC),
    }
}

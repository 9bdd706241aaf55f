//! The container observer's section of the configuration.

use tapio_service::setting::{SEC, Time, settings};

use crate::observer::Scope;

settings! {
    /// What the container observer reports.
    pub struct Settings {
        /// Whose deaths are reported, each taking in those before it: of containers, of services of systemd, of all.
        pub scope: Scope = Scope::Services,
        /// How often processes of a name end with a status is learned in windows of this length. Where that is expected,
        /// one end in such a window stands for all.
        pub expected_window: Time<{ 10 * SEC }, { 86_400 * SEC }> = Time::of_ns(600 * SEC),
    }
}

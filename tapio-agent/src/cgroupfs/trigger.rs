//! PSI triggers: the kernel reports when tasks begin to wait, so that the agent need not poll often.
//!
//! Triggers are set on the whole node only. A cgroup's pressure also counts for the node, and a trigger on
//! each of a thousand cgroups would make the kernel keep count for each.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

/// Stall time and window, microseconds, in the kernel's syntax: 150 ms per second. Without CAP_SYS_RESOURCE
/// the window has to be a multiple of two seconds; before kernel 6.5 no trigger can be set without it.
const THRESHOLDS: [&str; 2] = ["some 150000 1000000", "some 300000 2000000"];

/// `PROC_SUPER_MAGIC`, include/uapi/linux/magic.h. The agent writes to no file on another file system.
const PROC: rustix::fs::FsWord = 0x9fa0;

/// A trigger that is set. Closing its descriptor removes it.
#[derive(Debug)]
pub(super) struct Trigger(File);

/// A trigger registered with the runtime; `None` once it has failed.
pub(super) struct Waiting(Option<AsyncFd<File>>);

impl Trigger {
    /// Sets a trigger on a file of `/proc/pressure`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut refused = io::Error::from(io::ErrorKind::InvalidInput);
        for threshold in THRESHOLDS {
            // Each open file takes one trigger, and a failed write leaves none behind.
            let mut file = File::options().read(true).write(true).open(path)?;
            if rustix::fs::fstatfs(&file)?.f_type != PROC {
                return Err(io::Error::other("no file of the kernel"));
            }
            // The kernel expects the text with its terminating NUL.
            match file.write_all(format!("{threshold}\0").as_bytes()) {
                Ok(()) => return Ok(Self(file)),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    #[expect(
        deprecated,
        reason = "its successor is unsafe to call; a file owns its descriptor as long as it lives"
    )]
    pub(super) fn wait(self) -> io::Result<Waiting> {
        AsyncFd::with_interest(self.0, Interest::PRIORITY).map(|file| Waiting(Some(file)))
    }
}

/// Waits for `earliest`, then for any trigger; without triggers for ever.
pub(super) async fn any(triggers: &mut [Waiting], earliest: Instant) {
    tokio::time::sleep_until(earliest).await;
    let waits = triggers.iter_mut().map(|trigger| Box::pin(trigger.fired()));
    let mut waits: futures_util::stream::FuturesUnordered<_> = waits.collect();
    if futures_util::StreamExt::next(&mut waits).await.is_none() {
        std::future::pending().await
    }
}

impl Waiting {
    async fn fired(&mut self) {
        let Some(file) = &self.0 else { return std::future::pending().await };
        let is_set = match file.ready(Interest::PRIORITY | Interest::ERROR).await {
            Ok(mut ready) => {
                ready.clear_ready();
                !ready.ready().is_error()
            }
            Err(_) => false,
        };
        // A trigger with a permanent error cannot be waited for, so it is given up. The sampling interval
        // stays.
        if !is_set {
            self.0 = None;
        }
    }
}

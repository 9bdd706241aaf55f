//! Triggers: the kernel says when tasks begin to wait, so that nobody has to look all the time.
//!
//! Of the node as a whole only. A group's waiting is the node's, too, and one for each of a thousand groups would have
//! the kernel count for each.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

/// How much waiting in how long a time, in the words of the kernel: 150 ms of a second. Without CAP_SYS_RESOURCE a window
/// has to be a multiple of two seconds, before kernel 6.5 there are none then.
const THRESHOLDS: [&str; 2] = ["some 150000 1000000", "some 300000 2000000"];

/// `PROC_SUPER_MAGIC`, include/uapi/linux/magic.h. Nothing else is written to.
const PROC: rustix::fs::FsWord = 0x9fa0;

/// A trigger that is set. It ends with its descriptor.
#[derive(Debug)]
pub(super) struct Trigger(File);

/// One that is waited for.
pub(super) struct Waiting(Option<AsyncFd<File>>);

impl Trigger {
    /// Sets it on a file of `/proc/pressure`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut refused = io::Error::from(io::ErrorKind::InvalidInput);
        for threshold in THRESHOLDS {
            // Each file takes one trigger, and an error leaves none behind.
            let mut file = File::options().read(true).write(true).open(path)?;
            if rustix::fs::fstatfs(&file)?.f_type != PROC {
                return Err(io::Error::other("no file of the kernel"));
            }
            // The kernel takes the text with its end, as in C.
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

/// Waits for `earliest`, then for any of them; for ever where there are none.
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
        // What is always an error cannot be waited for: the trigger is given up, the interval stays.
        if !is_set {
            self.0 = None;
        }
    }
}

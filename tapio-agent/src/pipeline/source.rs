//! Where an observer's records come from: the ring of its kernel programs, a reader of files, or both.

use std::io;

use crate::{cgroupfs::Reader, kernel::Events};

/// The records of one observer.
pub struct Source {
    /// Those of its kernel programs.
    pub ring: Option<Events>,
    /// Those that are read from files.
    pub reader: Option<Reader>,
}

impl Source {
    /// Waits until there may be a record; for ever where there is no source at all.
    ///
    /// # Errors
    /// The ring cannot be waited for.
    pub async fn ready(&mut self) -> io::Result<()> {
        let ring = async {
            match &mut self.ring {
                Some(ring) => ring.ready().await,
                None => std::future::pending().await,
            }
        };
        let reader = async {
            match &mut self.reader {
                Some(reader) => reader.ready().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ready = ring => ready,
            () = reader => Ok(()),
        }
    }

    /// Gives the next record to `take`; false if there is none. The ring first, which can overflow.
    pub fn next(&mut self, take: impl FnOnce(&[u8])) -> bool {
        if let Some(record) = self.ring.as_mut().and_then(Events::next) {
            take(&record);
            return true;
        }
        let Some(record) = self.reader.as_mut().and_then(Reader::next) else { return false };
        take(record);
        true
    }
}

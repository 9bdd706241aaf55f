//! Limits the size of messages after the other side refused one.
//!
//! Two kinds of refusal are about the message itself. If it was *too large*, later messages have half as many
//! bytes. If something in it was *invalid*, halves are sent one at a time until the one occurrence is found,
//! so that all others are delivered.

use std::time::Duration;

use tokio::time::Instant;

use super::About;

/// When larger messages are tried again, because the limit may have been raised.
const REGROW: Duration = Duration::from_secs(600);
/// After this many refusals in a row without anything accepted, each waits for [`PAUSE`], because the other
/// side may refuse everything.
const STREAK: u32 = 16;
const PAUSE: Duration = Duration::from_millis(250);

/// The current limits of a message.
#[derive(Debug)]
pub(super) struct Sizing {
    most_count: usize,
    most_bytes: usize,
    count: usize,
    bytes: usize,
    /// Number of the oldest occurrences that contain an invalid one.
    suspects: usize,
    grow_at: Option<Instant>,
    /// Occurrences refused since one was accepted.
    streak: u32,
}

/// The messages in flight when the other side refused something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Number of messages. The refusal does not say which one it is about.
    pub(super) messages: usize,
    /// Occurrences in all of them.
    pub(super) count: usize,
    /// Bytes of the first one.
    pub(super) bytes: usize,
}

impl Sizing {
    pub(super) const fn new(most_count: usize, most_bytes: usize) -> Self {
        let (count, bytes) = (most_count, most_bytes);
        Self { most_count, most_bytes, count, bytes, suspects: 0, grow_at: None, streak: 0 }
    }

    /// The most occurrences in the next message.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The most bytes in the next message, unless a single occurrence is larger.
    pub(super) fn bytes(&mut self) -> usize {
        let now = Instant::now();
        if self.grow_at.is_some_and(|time| now >= time) {
            self.bytes = self.bytes.saturating_mul(2).min(self.most_bytes);
            self.grow_at = (self.bytes < self.most_bytes).then(|| now + REGROW);
        }
        self.bytes
    }

    /// Whether messages are sent one at a time, so that a refusal concerns a known one.
    pub(super) const fn is_searching(&self) -> bool {
        self.suspects > 0 || self.count < self.most_count
    }

    /// How long to wait before the next message.
    pub(super) fn pause(&self) -> Option<Duration> {
        (self.streak >= STREAK).then_some(PAUSE)
    }

    /// Records that this many of the oldest occurrences were accepted.
    pub(super) fn taken(&mut self, count: usize) {
        self.streak = 0;
        self.suspects = self.suspects.saturating_sub(count);
        self.count = match self.suspects {
            0 => self.count.saturating_mul(2),
            suspects => suspects / 2,
        }
        .clamp(1, self.most_count);
    }

    /// Records a refusal. True if it concerns a single occurrence; otherwise smaller messages have to be
    /// sent.
    pub(super) fn refused(&mut self, about: About, sent: Sent) -> bool {
        match sent {
            Sent { messages: 0..=1, count: 0..=1, .. } => {
                self.streak = self.streak.saturating_add(1);
                if about != About::Size {
                    // The following ones may be invalid, too.
                    (self.suspects, self.count) = (0, 1);
                }
                return true;
            }
            Sent { messages: 0..=1, bytes, .. } if about == About::Size => {
                self.bytes = (bytes / 2).max(1);
                self.grow_at = Some(Instant::now() + REGROW);
            }
            Sent { count, .. } => {
                self.suspects = count;
                self.count = (count / 2).clamp(1, self.most_count);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Delivers to a receiver that refuses messages containing one of the `invalid`. Returns the rejected
    /// ones and the number of messages.
    fn deliver(total: usize, invalid: &[usize]) -> (Vec<usize>, usize) {
        let mut sizing = Sizing::new(256, 1 << 20);
        let (mut at, mut rejected, mut messages) = (0, Vec::new(), 0);
        while at < total {
            let count = sizing.count().min(total - at);
            messages += 1;
            if !invalid.iter().any(|nth| (at..at + count).contains(nth)) {
                sizing.taken(count);
                at += count;
            } else if sizing.refused(About::Content, Sent { messages: 1, count, bytes: count }) {
                rejected.push(at);
                at += 1;
            }
        }
        (rejected, messages)
    }

    #[test]
    fn halves_find_the_invalid_ones_and_no_other() {
        for invalid in
            [vec![0], vec![255], vec![256], vec![1000], vec![7, 8, 9, 500], vec![0, 100, 999, 1023]]
        {
            let (rejected, messages) = deliver(1024, &invalid);
            assert_eq!(rejected, invalid);
            // 8 halvings, and 8 doublings until messages have full size again.
            assert!(messages <= 5 + invalid.len() * 18, "{invalid:?}: {messages}");
        }
        assert_eq!(deliver(1024, &[]), (vec![], 4));
        let all: Vec<_> = (0..1024).collect();
        let (rejected, messages) = deliver(1024, &all);
        assert!(rejected == all && messages <= 1024 + 9, "{messages}");
    }

    #[test]
    fn of_several_messages_none_is_blamed() {
        let mut sizing = Sizing::new(256, 1000);
        for about in [About::Content, About::Size] {
            assert!(!sizing.refused(about, Sent { messages: 4, count: 4, bytes: 1 }));
            assert!(sizing.is_searching());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_halved_until_they_fit_and_tried_larger_later() {
        let mut sizing = Sizing::new(256, 1000);
        for (bytes, next) in [(1000, 500), (480, 240)] {
            assert!(!sizing.refused(About::Size, Sent { messages: 1, count: 9, bytes }));
            assert_eq!((sizing.bytes(), sizing.is_searching()), (next, false));
        }
        assert!(
            sizing.refused(About::Size, Sent { messages: 1, count: 1, bytes: 700 }),
            "it alone is too large"
        );
        sizing.taken(9);
        assert_eq!((sizing.bytes(), sizing.count()), (240, 256));
        for expected in [480, 960, 1000, 1000] {
            tokio::time::advance(REGROW).await;
            assert_eq!(sizing.bytes(), expected);
        }
    }

    #[test]
    fn one_that_refuses_everything_is_asked_more_slowly() {
        let mut sizing = Sizing::new(256, 1000);
        let one = Sent { messages: 1, count: 1, bytes: 10 };
        for _ in 0..STREAK {
            assert_eq!(sizing.pause(), None);
            assert!(sizing.refused(About::Content, one));
        }
        assert_eq!(sizing.pause(), Some(PAUSE));
        sizing.taken(1);
        assert_eq!(sizing.pause(), None);
    }
}
